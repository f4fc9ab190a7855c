package fat

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fsimg/fat/fattest"
)

func write(t *testing.T, label string, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, label, files); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func noise(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// cases cover both widths of the table and the borders of clusters and volumes.
func cases(t *testing.T) map[string][]File {
	t.Helper()
	many := make([]File, 40)
	for i := range many {
		many[i] = File{Name: strings.Repeat("n", i+1), Data: noise(t, i*100)}
	}
	return map[string][]File{
		"none":      {},
		"seed":      {{"user-data", []byte("#cloud-config\n")}, {"meta-data", []byte("{}")}, {"network-config", nil}},
		"clusters":  {{"a", noise(t, 511)}, {"b", noise(t, 512)}, {"c", noise(t, 513)}, {"empty", nil}, {"d", noise(t, 1)}},
		"names":     {{"Zwölf Äpfel.txt", []byte("1")}, {"日本語-🙂", []byte("2")}, {"ALLCAPS", []byte("3")}, {strings.Repeat("x", 255), []byte("4")}, {"thirteen-char", []byte("5")}},
		"many":      many,
		"megabyte":  {{"user-data", noise(t, 1<<20)}, {"meta-data", noise(t, 3)}},
		"fat12 end": {{"a", noise(t, (maxFAT12-alignSectors)*512)}},
		"fat16":     {{"a", noise(t, (maxFAT12-alignSectors)*512+1)}},
		"fat16 end": {{"a", noise(t, MaxContent)}},
	}
}

func TestReadsBack(t *testing.T) {
	for name, files := range cases(t) {
		t.Run(name, func(t *testing.T) {
			image := write(t, "CIDATA", files...)
			if len(image)%4096 != 0 {
				t.Errorf("size %d is not a multiple of 4096", len(image))
			}
			label, got, err := fattest.Read(image)
			if err != nil {
				t.Fatal(err)
			}
			if label != "CIDATA" {
				t.Errorf("label %q", label)
			}
			if len(got) != len(files) {
				t.Fatalf("%d files, want %d", len(got), len(files))
			}
			for i, f := range files {
				if got[i].Name != f.Name || !bytes.Equal(got[i].Data, f.Data) {
					t.Errorf("file %d: got %q with %d bytes, want %q with %d", i, got[i].Name, len(got[i].Data), f.Name, len(f.Data))
				}
			}
		})
	}
}

// TestCheckedByOthers asks programs that we did not write. They are optional:
// what they prove beyond TestReadsBack is that our reading of the format is
// everybody's.
func TestCheckedByOthers(t *testing.T) {
	for name, files := range cases(t) {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(image, write(t, "CIDATA", files...), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "fsck.vfat", "-n", image)
			if label := run(t, "mlabel", "-s", "-i", image); !strings.Contains(label, "CIDATA") {
				t.Errorf("mlabel says %q", label)
			}
			if name == "names" {
				return // mtools needs a UTF-8 locale for these
			}
			for _, f := range files {
				if got := run(t, "mtype", "-i", image, "::"+f.Name); got != string(f.Data) {
					t.Errorf("mtype reads %d bytes of %s, want %d", len(got), f.Name, len(f.Data))
				}
			}
		})
	}
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err != nil {
			path, err = exec.LookPath(dir + program)
		}
	}
	if err != nil {
		t.Skipf("%s is not installed", program)
	}
	out, err := exec.Command(path, args...).Output()
	if err != nil {
		t.Errorf("%s %v: %v\n%.1000s", program, args, err, out)
	}
	return string(out)
}

func TestSameInputSameBytes(t *testing.T) {
	files := []File{{"user-data", []byte("a")}, {"meta-data", []byte("b")}}
	if !bytes.Equal(write(t, "CIDATA", files...), write(t, "CIDATA", files...)) {
		t.Error("two writes of the same files differ")
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		want  string
		label string
		files []File
	}{
		{"label", "", nil},
		{"label", "TWELVE-CHARS", nil},
		{"label", "cidata", nil},
		{"twice", "L", []File{{"a", nil}, {"A", nil}}},
		{"character", "L", []File{{"", nil}}},
		{"character", "L", []File{{strings.Repeat("x", 256), nil}}},
		{"character", "L", []File{{"a/b", nil}}},
		{"character", "L", []File{{"a\x00b", nil}}},
		{"dot or a space", "L", []File{{"..", nil}}},
		{"dot or a space", "L", []File{{"a ", nil}}},
		{"UTF-8", "L", []File{{"a\xff", nil}}},
		{"more than", "L", []File{{"a", make([]byte, MaxContent)}, {"b", []byte("x")}}},
		{"more than", "L", []File{{"a", make([]byte, MaxContent+1)}}},
	} {
		var b bytes.Buffer
		err := Write(&b, c.label, c.files)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("label %q with %d files: got %v, want %q", c.label, len(c.files), err, c.want)
		}
		if b.Len() > 0 {
			t.Errorf("label %q: %d bytes were written although it was refused", c.label, b.Len())
		}
	}
}

func FuzzWrite(f *testing.F) {
	f.Add("user-data", []byte("x"), "meta-data", []byte{})
	f.Add("a\\b", []byte("x"), "ünder score", []byte("\r\n"))
	f.Fuzz(func(t *testing.T, name1 string, data1 []byte, name2 string, data2 []byte) {
		want := []fattest.File{{Name: name1, Data: append([]byte{}, data1...)}, {Name: name2, Data: append([]byte{}, data2...)}}
		var b bytes.Buffer
		if Write(&b, "FUZZ", []File{{name1, data1}, {name2, data2}}) != nil {
			return
		}
		_, got, err := fattest.Read(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}
