package manifest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func digest(c string, size int64) Digest {
	return Digest{SHA256: strings.Repeat(c, 64), Size: size}
}

func asset(name, c string) Asset {
	archive, index := digest(c, 1000), digest(c, 300)
	return Asset{
		Name:    name,
		Archive: Blob{File: FileName(name, archive.SHA256, ".zst"), Digest: archive},
		Index:   Blob{File: FileName(name, index.SHA256, ".json"), Digest: index},
		Content: digest("e", 4096),
	}
}

func document(name, c, extension string) *Blob {
	d := digest(c, 2000)
	return &Blob{File: FileName(name, d.SHA256, extension), Digest: d}
}

// sample is a document with everything in it.
func sample() Manifest {
	modules := asset("modules", "b")
	row := Row{
		Preset: "claude-code", Arch: "amd64", VMM: "qemu",
		Agent: Agent{Name: "Claude Code", Version: "2.1.0"},
		Kernel: Kernel{
			Version: "6.12.85", StandIn: "Debian 13", CommandLine: "quiet",
			Image: asset("kernel", "a"), Modules: &modules,
		},
		Layers:    []Asset{asset("base", "c"), asset("claude-code", "d")},
		Resources: Resources{CPUs: 2, MemoryMiB: 2048, DiskMiB: 20480},
	}
	other := row
	other.Arch = "arm64"
	other.Kernel = Kernel{Version: "6.12.85-smolvm", Source: "linux-6.12.85.tar.xz", CommandLine: "quiet", Image: asset("kernel", "e")}
	row.SBOM, row.Build = document("sbom-claude-code-amd64", "1", ".spdx.json"), document("build-claude-code-amd64", "2", ".json")
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return Manifest{
		Schema: Schema, Release: "2026.1", Serial: 3, Created: created, Expires: created.AddDate(0, 1, 0),
		MinVersion: "0.1.0", Mirrors: []string{"https://mirror.example.org/images", "oci://127.0.0.1:5000/smolvm:1"}, Rows: []Row{row, other},
	}
}

func encoded(t testing.TB) string {
	t.Helper()
	raw, err := Encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestRoundTrip(t *testing.T) {
	got, err := Parse([]byte(encoded(t)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample(), got); d != "" {
		t.Error(d)
	}
}

// Each case changes one thing in the text of a right document.
func TestParseRefuses(t *testing.T) {
	const head = `"release": "2026.1"`
	tests := map[string]struct{ old, new, says string }{
		"byte order mark":      {"{\n  \"schema\"", "\xef\xbb\xbf{\n  \"schema\"", "byte order mark"},
		"invalid UTF-8":        {"Claude Code", "Claude \xff", "UTF-8"},
		"duplicate key":        {head, head + `, "release": "2026.2"`, "twice"},
		"duplicate deep key":   {`"name": "base",`, `"name": "base", "name": "base",`, "twice"},
		"key in other case":    {head, head + `, "Release": "2026.2"`, "only a-z"},
		"kelvin sign key":      {head, head + `, "` + "\u212a" + `ernel": 1`, "only a-z"},
		"escaped key":          {head, head + `, "r\u0065lease": "x"`, "twice"},
		"unknown field":        {head, head + `, "extra": 1`, "unknown field"},
		"unknown deep field":   {`"name": "base",`, `"name": "base", "urls": [],`, "unknown field"},
		"null":                 {`"serial": 3`, `"serial": null`, "null"},
		"fraction":             {`"serial": 3`, `"serial": 3.0`, "whole"},
		"exponent":             {`"serial": 3`, `"serial": 3e0`, "whole"},
		"negative":             {`"serial": 3`, `"serial": -3`, "whole"},
		"huge number":          {`"serial": 3`, `"serial": 9223372036854775808`, "digits"},
		"number with a lot":    {`"serial": 3`, `"serial": ` + strings.Repeat("9", 5000), "digits"},
		"number as text":       {`"serial": 3`, `"serial": "3"`, "cannot unmarshal"},
		"serial zero":          {`"serial": 3`, `"serial": 0`, "serial"},
		"deep nesting":         {head, head + `, "x": ` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "nested"},
		"second document":      {"\n}\n", "\n}\n{}", "after the end"},
		"garbage at the end":   {"\n}\n", "\n}\nx", "after the end"},
		"cut":                  {"\n}\n", "", "not JSON"},
		"later schema":         {`"schema": 1`, `"schema": 2, "new_field": 1`, "schema 2"},
		"schema of old":        {`"schema": 1`, `"schema": 0`, "schema 0"},
		"release up":           {`"2026.1"`, `"../x"`, "release"},
		"release absolute":     {`"2026.1"`, `"/etc"`, "release"},
		"release dots":         {`"2026.1"`, `".."`, "release"},
		"release upper":        {`"2026.1"`, `"V1"`, "release"},
		"release empty":        {`"2026.1"`, `""`, "release"},
		"release hidden":       {`"2026.1"`, `".git"`, "release"},
		"release escape":       {`"2026.1"`, `"a\u001b[31m"`, "release"},
		"release NUL":          {`"2026.1"`, `"a\u0000"`, "release"},
		"release backslash":    {`"2026.1"`, `"a\\b"`, "release"},
		"release full stop":    {`"2026.1"`, `"a."`, "release"},
		"lone surrogate":       {`"2026.1"`, `"\ud800"`, "release"},
		"min_version":          {`"0.1.0"`, `"0.1"`, "min_version"},
		"expires first":        {`"2026-02-02T`, `"2025-02-02T`, "span of time"},
		"arch":                 {`"arch": "arm64"`, `"arch": "riscv64"`, "arch"},
		"second row":           {`"arch": "arm64"`, `"arch": "amd64"`, "a second row"},
		"vmm":                  {`"vmm": "qemu"`, `"vmm": "xen"`, "vmm"},
		"preset":               {`"preset": "claude-code"`, `"preset": "claude/code"`, "preset"},
		"kernel name":          {`"name": "kernel"`, `"name": "vmlinux"`, "kernel's image"},
		"modules name":         {`"name": "modules"`, `"name": "kernel"`, "kernel's modules"},
		"layer as kernel":      {`"name": "base"`, `"name": "kernel"`, "two assets"},
		"two equal layers":     {`"name": "base"`, `"name": "claude-code"`, "two assets"},
		"layer path":           {`"name": "base"`, `"name": "../base"`, "asset"},
		"no layers":            {`"layers": [`, `"layers": [], "unused": [`, "unknown field"},
		"file path":            {`"file": "base-`, `"file": "../base-`, "file"},
		"file in a folder":     {`"file": "base-`, `"file": "x/base-`, "file"},
		"file with address":    {`"file": "base-`, `"file": "http://x/base-`, "file"},
		"file without digest":  {`"file": "base-c`, `"file": "base-d`, "does not hold"},
		"digest upper":         {`"sha256": "cccc`, `"sha256": "CCCC`, "sha256"},
		"digest short":         {`"sha256": "cccc`, `"sha256": "ccc`, "sha256"},
		"size zero":            {`"size": 1000`, `"size": 0`, "size"},
		"size huge":            {`"size": 1000`, `"size": 999999999999999`, "size"},
		"command line":         {`"quiet"`, `"quiet\n"`, "command_line"},
		"stand-in":             {`"Debian 13"`, `"Debian\u009b"`, "stand_in"},
		"kernel source":        {`"linux-6.12.85.tar.xz"`, `"a\nb"`, "source"},
		"agent version":        {`"2.1.0"`, `""`, "agent"},
		"cpus":                 {`"cpus": 2`, `"cpus": 99999`, "cpus"},
		"memory":               {`"memory_mib": 2048`, `"memory_mib": 999999999`, "memory"},
		"mirror of files":      {`"https://mirror`, `"file://mirror`, "only http, https and oci"},
		"mirror as path":       {`"https://mirror.example.org/images"`, `"/srv/images"`, "only http, https and oci"},
		"mirror with a name":   {`"https://mirror`, `"https://me:secret@mirror`, "without credentials"},
		"mirror of nobody":     {`"https://mirror.example.org/images"`, `"https:///images"`, "name a server"},
		"mirror with a query":  {`org/images"`, `org/images?x=1"`, "characters"},
		"mirror with a part":   {`org/images"`, `org/images#x"`, "characters"},
		"mirror with escapes":  {`org/images"`, `org/%2e%2e/images"`, "characters"},
		"mirror going up":      {`org/images"`, `org/../images"`, "plain"},
		"mirror, two slashes":  {`org/images"`, `org//images"`, "plain"},
		"mirror, a space":      {`org/images"`, `org/ima ges"`, "characters"},
		"mirror, line break":   {`org/images"`, `org/ima\nges"`, "characters"},
		"mirror, other script": {`org/images"`, `org/im\u0430ges"`, "characters"},
		"mirror too long":      {`org/images"`, `org/` + strings.Repeat("a", 600) + `"`, "long"},
		"mirror twice":         {`"oci://127.0.0.1:5000/smolvm:1"`, `"https://mirror.example.org/images/"`, "twice"},
		"many mirrors":         {`"oci://127.0.0.1:5000/smolvm:1"`, manyMirrors(), "17 mirrors"},
		"mirrors null":         {`"mirrors": [`, `"mirrors": null, "x": [`, "null"},
		"sbom in a folder":     {`"file": "sbom-`, `"file": "x/sbom-`, "sbom: file"},
		"sbom's digest":        {`"file": "sbom-claude-code-amd64-1`, `"file": "sbom-claude-code-amd64-3`, "sbom: file"},
		"sbom empty":           {`"size": 2000`, `"size": 0`, "sbom: size"},
		"build record's size":  {`"sha256": "` + strings.Repeat("2", 64) + `",` + "\n        \"size\": 2000", `"sha256": "` + strings.Repeat("2", 64) + `", "size": 16777217`, "build: size"},
		"sbom null":            {`"sbom": {`, `"sbom": null, "x": {`, "null"},
		"not an object":        {encoded(t), "[]", "object"},
		"empty":                {encoded(t), "", "not JSON"},
		"a web page":           {encoded(t), "<html></html>", "not JSON"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			raw := encoded(t)
			changed := strings.Replace(raw, test.old, test.new, 1)
			if changed == raw {
				t.Fatalf("%q is not in the sample", test.old)
			}
			_, err := Parse([]byte(changed))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("err = %v, want one with %q", err, test.says)
			}
			if err != nil && len(err.Error()) > 600 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func manyMirrors() string {
	var list []string
	for i := range 16 {
		list = append(list, fmt.Sprintf(`"https://m%d.example.org"`, i))
	}
	return strings.Join(list, ", ")
}

func TestMirrors(t *testing.T) {
	m := sample()
	for _, mirrors := range [][]string{nil, {"http://10.0.0.1:8080"}, {"https://a.example/"}, {"https://a.example/x/y/"}, {"oci://registry.example/team/smolvm:v1"}, {"https://[::1]/x"}} {
		m.Mirrors = mirrors
		raw, err := Encode(m)
		if err != nil {
			t.Errorf("%v: %v", mirrors, err)
			continue
		}
		if got, err := Parse(raw); err != nil || !cmp.Equal(got.Mirrors, mirrors) {
			t.Errorf("%v became %v, %v", mirrors, got.Mirrors, err)
		}
	}
}

func TestParseBoundsTheSize(t *testing.T) {
	raw := encoded(t) + strings.Repeat(" ", MaxSize)
	if _, err := Parse([]byte(raw)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("err = %v", err)
	}
}

func TestUnknownSchemaIsTold(t *testing.T) {
	raw := strings.Replace(encoded(t), `"schema": 1`, `"schema": 9`, 1)
	if _, err := Parse([]byte(raw)); !errors.Is(err, ErrSchema) {
		t.Errorf("err = %v", err)
	}
}

// Flipping any byte either is refused, or gives a value that encodes again: no
// byte brings the reader into an undefined state. (Its signature refuses it
// long before.)
func TestFlippedBytes(t *testing.T) {
	raw := []byte(encoded(t))
	for i := range raw {
		changed := append([]byte(nil), raw...)
		changed[i] ^= 1 << (i % 8)
		m, err := Parse(changed)
		if err != nil {
			continue
		}
		if _, err := Encode(m); err != nil {
			t.Errorf("byte %d: accepted and not encodable: %v", i, err)
		}
	}
}

func TestNoRowsAreRead(t *testing.T) {
	m := sample()
	m.Rows = nil
	raw, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(raw); err != nil || len(got.Rows) != 0 {
		t.Errorf("%v rows, %v", got.Rows, err)
	}
}

func TestEncodeValidates(t *testing.T) {
	m := sample()
	m.Rows[0].Layers = nil
	if _, err := Encode(m); err == nil {
		t.Error("a row without layers was written")
	}
}

func TestSupports(t *testing.T) {
	tests := []struct {
		least, have string
		want        bool
	}{
		{"", "0.0.1", true},
		{"0.2.0", "0.1.9", false},
		{"0.2.0", "0.2.0", true},
		{"0.2.0", "v0.10.0", true},
		{"1.0.0", "0.99.99", false},
		{"1.0.0", "1.0.0-rc1", true},
		{"1.0.0", "dev", true},
		{"1.0.0", "", true},
		{"1.2.3", "1.2.2", false},
		{"1.2.3", "2.0.0", true},
	}
	for _, test := range tests {
		if got := (Manifest{MinVersion: test.least}).Supports(test.have); got != test.want {
			t.Errorf("Supports(%q) with min_version %q = %v", test.have, test.least, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(encoded(f)))
	f.Add([]byte(`{"schema":1}`))
	f.Add([]byte(`{"schema":1,"rows":[{"layers":[{}]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Parse(raw)
		if err != nil {
			return
		}
		again, err := Encode(m)
		if err != nil {
			t.Fatalf("accepted and not encodable: %v", err)
		}
		second, err := Parse(again)
		if err != nil {
			t.Fatalf("encoded and not accepted: %v", err)
		}
		if d := cmp.Diff(m, second); d != "" {
			t.Error(d)
		}
	})
}
