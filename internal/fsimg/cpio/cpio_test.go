package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var tree = []Entry{
	{Name: "dev", Mode: Directory | 0o755},
	{Name: "dev/console", Mode: CharDev | 0o600, Major: 5, Minor: 1},
	{Name: "init", Mode: Regular | 0o755, Data: []byte("#!/bin/true\n")},
	{Name: "empty", Mode: Regular | 0o644},
	{Name: "link", Mode: Symlink | 0o777, Data: []byte("init")},
	{Name: "modules/ünder score", Mode: Regular | 0o644, Data: bytes.Repeat([]byte("abc"), 4001)},
}

// read is an independent reader of one archive; it returns what follows it.
func read(data []byte) (entries []Entry, rest []byte, err error) {
	at := 0
	for {
		if len(data) < at+110 || string(data[at:at+6]) != "070701" {
			return nil, nil, fmt.Errorf("no header at %d", at)
		}
		var field [13]uint32
		for i := range field {
			v, err := strconv.ParseUint(string(data[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				return nil, nil, err
			}
			field[i] = uint32(v)
		}
		size, nameSize := int(field[6]), int(field[11])
		name := string(data[at+110 : at+110+nameSize-1])
		at = (at + 110 + nameSize + 3) / 4 * 4
		if name == "TRAILER!!!" {
			return entries, data[at:], nil
		}
		e := Entry{Name: name, Mode: field[1], Major: field[9], Minor: field[10]}
		e.Data = append(e.Data, data[at:at+size]...)
		entries = append(entries, e)
		at = (at + size + 3) / 4 * 4
	}
}

func TestReadsBack(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, tree); err != nil {
		t.Fatal(err)
	}
	got, rest, err := read(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(tree, got); d != "" {
		t.Error(d)
	}
	if b.Len()%align != 0 || len(bytes.Trim(rest, "\x00")) > 0 {
		t.Errorf("%d bytes, %d of them behind the archive", b.Len(), len(rest))
	}
}

func TestReadByCpio(t *testing.T) {
	path, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed")
	}
	var b bytes.Buffer
	if err := Write(&b, tree); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--list", "--quiet")
	cmd.Stdin = &b
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range tree {
		if e.Name != "modules/ünder score" && !slices.Contains(strings.Split(string(out), "\n"), e.Name) {
			t.Errorf("cpio does not list %q: %s", e.Name, out)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, e := range []Entry{
		{Name: "", Mode: Regular},
		{Name: "/init", Mode: Regular},
		{Name: "../init", Mode: Regular},
		{Name: "a//b", Mode: Regular},
		{Name: "a/./b", Mode: Regular},
		{Name: "a\x00b", Mode: Regular},
		{Name: trailer, Mode: Regular},
		{Name: strings.Repeat("x", maxName), Mode: Regular},
		{Name: "x", Mode: 0o644},
		{Name: "x", Mode: 1 << 20},
		{Name: "x", Mode: Directory, Data: []byte("x")},
	} {
		if err := Write(&bytes.Buffer{}, []Entry{e}); err == nil {
			t.Errorf("entry %.40q with mode %o was accepted", e.Name, e.Mode)
		}
	}
}

// full fails after some bytes, as a full disk does.
type full struct{ left int }

var errFull = errors.New("full")

func (f *full) Write(p []byte) (int, error) {
	if len(p) > f.left {
		return 0, errFull
	}
	f.left -= len(p)
	return len(p), nil
}

func TestWriteErrors(t *testing.T) {
	for left := range 1000 {
		if err := Write(&full{left}, tree); !errors.Is(err, errFull) {
			t.Fatalf("room for %d bytes: got %v", left, err)
		}
	}
}
