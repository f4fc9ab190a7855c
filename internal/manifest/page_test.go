package manifest

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// page is what docs/manifest.md says of the schema.
func page(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "manifest.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestThePagesExampleIsTrue(t *testing.T) {
	_, example, there := strings.Cut(page(t), "```json\n")
	example, _, closed := strings.Cut(example, "```")
	if !there || !closed {
		t.Fatal("the page has no example")
	}
	m, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Encode(m)
	if err != nil || string(raw) != example {
		t.Errorf("the example is not written as Encode does: %v\n%s", err, raw)
	}
	row := m.Rows[0]
	if row.SBOM == nil || row.Build == nil || len(row.Layers) < 2 || len(m.Mirrors) == 0 {
		t.Error("the example leaves out what the page explains")
	}
}

// fields are the names of a type's fields in JSON.
func fields(of reflect.Type) []string {
	var names []string
	for i := range of.NumField() {
		field := of.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous {
			names = append(names, fields(field.Type)...)
		} else {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TestThePageHasEveryField compares each table of the page with its type.
func TestThePageHasEveryField(t *testing.T) {
	text := page(t)
	for heading, of := range map[string]any{
		"## The document":        Manifest{},
		"## A row":               Row{},
		"| field of `agent` ":    Agent{},
		"| field of `kernel` ":   Kernel{},
		"| field of `resources`": Resources{},
		"| field of an asset":    Asset{},
		"| field of a blob":      Blob{},
	} {
		_, table, there := strings.Cut(text, heading)
		_, table, _ = strings.Cut(table, "|---|")
		table, _, _ = strings.Cut(table, "\n\n")
		var names []string
		for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\|").FindAllStringSubmatch(table, -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		if want := fields(reflect.TypeOf(of)); !there || !slices.Equal(names, want) {
			t.Errorf("%s: the page has %q, the code %q", heading, names, want)
		}
	}
}

// TestThePagesNumbersAreTheCodes looks for the bounds.
func TestThePagesNumbersAreTheCodes(t *testing.T) {
	text := page(t)
	for _, bound := range []struct {
		value int
		said  string
	}{
		{MaxSize, "at most 4 MiB"},
		{maxDepth, "at most 16 levels"},
		{maxDigits, "at most 18 digits"},
		{maxRows, "at most 4096"},
		{maxLayers, "1 to 16, no two"},
		{maxName, "1 to 63 characters"},
		{maxText, "1 to 200 printable"},
		{maxFile, "at most 200 characters"},
		{maxCommand, "at most 1024 characters"},
		{maxBlob, "at most 256 GiB"},
		{maxIndex, "at most 64 MiB"},
		{maxCPUs, "0 to 1024"},
		{maxMiB, "0 to 67108864"},
		{maxMirrors, "at most 16, 500 characters each"},
		{maxAddress, "500 characters"},
		{MaxDocument, "at most 16 MiB"},
	} {
		number := bound.value
		for _, unit := range []string{" GiB", " MiB"} {
			shift := map[string]int{" GiB": 30, " MiB": 20}[unit]
			if strings.Contains(bound.said, unit) {
				number >>= shift
			}
		}
		if !strings.Contains(text, bound.said) || !regexp.MustCompile(`\b`+regexp.QuoteMeta(strconv.Itoa(number))+`\b`).MatchString(bound.said) {
			t.Errorf("the page does not say %q of %d", bound.said, bound.value)
		}
	}
}
