package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
)

func wantUsage(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil || fault.CodeOf(err) != fault.Usage {
		t.Fatalf("got %v (code %s), want code usage", err, fault.CodeOf(err))
	}
	text := err.Error() + " " + fault.HintOf(err)
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
}

func TestLoadDefaults(t *testing.T) {
	for _, environ := range [][]string{nil, {"SMOLVM_HOME=", "SMOLVM_MANIFEST=", "SMOLVM_BACKEND=", "SMOLVM_USE_PUBLISHED=", "X"}} {
		c, err := Load(environ, "/home/zoë")
		if err != nil {
			t.Fatal(err)
		}
		if c.Home != "/home/zoë/.smolvm" || c.Manifest != "" || c.Backend != "" || c.BuildCache != "" {
			t.Errorf("%q gives %+v", environ, c)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	here, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load([]string{
		"SMOLVM_HOME=a folder/../über", "SMOLVM_HOME=/second", "SMOLVM_MANIFEST=dist/images/manifest.json", "SMOLVM_BACKEND=firecracker",
		"SMOLVM_USE_PUBLISHED=Yes", "SMOLVM_BUILD_CACHE=cache", "OTHER=x=y", "smolvm_home=ignored",
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	got := []string{c.Home, c.Manifest, c.Backend, c.BuildCache, c.Getenv("OTHER"), c.Getenv("MISSING")}
	want := []string{here + "/über", here + "/dist/images/manifest.json", "firecracker", here + "/cache", "x=y", ""}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestUsePublished(t *testing.T) {
	for text, want := range map[string]bool{"": true, "1": true, "TRUE": true, "yes": true, "0": false, "False": false, "no": false} {
		if c, err := Load([]string{"SMOLVM_USE_PUBLISHED=" + text}, t.TempDir()); err != nil || c.UsePublished != want {
			t.Errorf("%q: %v, %v", text, c.UsePublished, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct {
		entry string
		want  []string
	}{
		{"SMOLVM_HOEM=/x", []string{"SMOLVM_HOEM", "Did you mean SMOLVM_HOME"}},
		{"SMOLVM_=", []string{"SMOLVM_", "SMOLVM_BACKEND, SMOLVM_BUILD_CACHE, SMOLVM_CPUS"}},
		{"SMOLVM_TELEMETRY_ENDPOINT=", []string{"SMOLVM_TELEMETRY_ENDPOINT"}},
		{"SMOLVM_HOME=~/x", []string{"SMOLVM_HOME", "starts with ~"}},
		{"SMOLVM_HOME=/a\nb", []string{"SMOLVM_HOME", "line break"}},
		{"SMOLVM_MANIFEST=ftp://x/y", []string{"SMOLVM_MANIFEST", `unknown scheme "ftp"`}},
		{"SMOLVM_MANIFEST=oci://", []string{"names no server"}},
		{"SMOLVM_MANIFEST=https:///y", []string{"names no server"}},
		{"SMOLVM_MANIFEST=https://[::1/y", []string{"SMOLVM_MANIFEST"}},
		{"SMOLVM_BACKEND=qmeu", []string{"Did you mean qemu"}},
		{"SMOLVM_BACKEND=virtualbox", []string{"virtualbox", "qemu and firecracker"}},
		{"SMOLVM_USE_PUBLISHED=maybe", []string{"maybe", "SMOLVM_USE_PUBLISHED"}},
		{"SMOLVM_USE_PUBLISHED=2", []string{"neither yes nor no"}},
		{"SMOLVM_BUILD_CACHE=~", []string{"SMOLVM_BUILD_CACHE"}},
	} {
		_, err := Load([]string{c.entry}, "/home/x")
		wantUsage(t, err, c.want...)
	}
	for _, userHome := range []string{"", "relative"} {
		_, err := Load(nil, userHome)
		wantUsage(t, err, "SMOLVM_HOME")
	}
}

func TestManifestAddress(t *testing.T) {
	for _, address := range []string{"", "/a/b.json", "http://127.0.0.1:8080/manifest.json", "HTTPS://example.org/x", "file:///a/b.json"} {
		if got, err := ManifestAddress(address); err != nil || got != address {
			t.Errorf("%q became %q, %v", address, got, err)
		}
	}
}

func TestAddressesThatAreRefused(t *testing.T) {
	for address, want := range map[string]string{
		"https://me:secret@example.org/m.json?token=secret": `"https://example.org/m.json": an address with a query`,
		"HTTP://example.org/m.json?":                        "an address with a query",
		"https://example.org/m.json#secret":                 `"https://example.org/m.json": an address with a fragment`,
		"https://me:se%cret@example.org/m.json?secret":      "manifest address",
		"ftp://me:secret@example.org/m.json":                "unknown scheme",
		"https:///m.json?secret":                            "names no server",
	} {
		_, err := ManifestAddress(address)
		wantUsage(t, err, want)
		hidden := func(err error) {
			if text := err.Error() + fault.HintOf(err); strings.Contains(text, "secret") || strings.Contains(text, "cret@") {
				t.Errorf("%q shows a secret: %s", address, text)
			}
		}
		hidden(err)
		for _, text := range []string{"manifest = %q", "[[catalogue]]\naddress = %q", "[[catalogue]]\naddress = \"/a\"\nmirrors = [%q]"} {
			_, err := decodeFile([]byte(fmt.Sprintf(text, address)), "/x/config.toml")
			wantUsage(t, err, want)
			hidden(err)
		}
	}
	if _, err := ManifestAddress("oci://example.org/i:1#manifest.json"); err != nil {
		t.Error(err)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"2G": 2 << 30, "512MiB": 512 << 20, "4096m": 4096 << 20, "1t": 1 << 40, "20gb": 20 << 30, " 7 KiB ": 7 << 10,
		"0G": 0, "1b": 1, "007m": 7 << 20, "8388607T": 8388607 << 40, "9223372036854775807B": 1<<63 - 1,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "whole number", "G": "whole number", "-1G": "whole number", "+1G": "whole number", "٣G": "whole number", "0x1G": "unknown unit",
		"1": "no unit", "2048": "no unit", "1.5G": "unknown unit", "1e3M": "unknown unit", "1GG": "unknown unit", "1P": "unknown unit", "1G x": "unknown unit",
		"8388608T": "too large", "9223372036854775808B": "too large", "99999999999999999999999M": "too large",
	} {
		_, err := ParseSize(text)
		wantUsage(t, err, want, "512M")
	}
}

func FuzzParseSize(f *testing.F) {
	for _, text := range []string{"2G", "512MiB", "4096m", "1.5G", "-1k", "9223372036854775807b", "\x00"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseSize(text)
		if err != nil && fault.CodeOf(err) != fault.Usage || n < 0 {
			t.Fatalf("%q gives %d, %v", text, n, err)
		}
		if more, err2 := ParseSize("1" + strings.TrimSpace(text)); err == nil && err2 == nil && more <= n {
			t.Errorf("one more digit in front of %q makes %d into %d", text, n, more)
		}
	})
}

func TestSessionEnv(t *testing.T) {
	c, err := Load([]string{
		"http_proxy=http://proxy:3128", "HTTPS_PROXY=proxy.example:8080", "no_proxy=localhost,.example", "ALL_PROXY=",
		"all_proxy=socks5://user:secret@proxy:1080", "HTTP_PROXY=http://127.0.0.1:3128", "https_proxy=http://[::1]:1",
		"FTP_PROXY=http://", "ANTHROPIC_API_KEY=secret", "PATH=/bin",
	}, "/home/x")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"http_proxy": "http://proxy:3128", "HTTPS_PROXY": "proxy.example:8080", "no_proxy": "localhost,.example",
	}
	if d := cmp.Diff(want, c.SessionEnv(egress.Policy{})); d != "" {
		t.Error(d)
	}
	opened := egress.Policy{}.Allowing(egress.HostPort(3128))
	want["HTTP_PROXY"] = "http://host.smolvm.internal:3128"
	if d := cmp.Diff(want, c.SessionEnv(opened)); d != "" || len(c.WithheldEnv(opened)) != 3 {
		t.Error(d, c.WithheldEnv(opened))
	}
	lines := strings.Join(c.WithheldEnv(egress.Policy{}), "\n")
	for _, part := range []string{"all_proxy is not passed", "HTTP_PROXY is", "--allow-host 3128", "https_proxy is", "FTP_PROXY is"} {
		if !strings.Contains(lines, part) {
			t.Errorf("%q does not say %q", lines, part)
		}
	}
	if strings.Contains(lines, "secret") || len(c.WithheldEnv(egress.Policy{})) != 4 {
		t.Errorf("the reasons are %q", lines)
	}
}
