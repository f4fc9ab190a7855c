package config

import (
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/smolvm/smolvm/internal/fault"
)

// span is a range of the file's text.
type span struct{ from, to int }

// place is where an entry's values are in the text.
type place struct {
	values map[string]span // the whole of key = value
	keys   []span          // the elements of keys
}

// locate finds the parts of the catalogue with a number. It knows [[catalogue]]
// only; an array of inline tables has no such parts.
func locate(text string, number int) (place, error) {
	found := place{values: map[string]span{}}
	var p unstable.Parser
	p.Reset([]byte(text))
	at := -1
	for p.NextExpression() {
		node := p.Expression()
		switch {
		case node.Kind == unstable.ArrayTable:
			at++
		case node.Kind == unstable.KeyValue && at == number:
			name := strings.Join(keyOf(node), ".")
			found.values[name] = spanOf(node)
			if name == "keys" {
				found.keys = elements(node.Value())
			}
		}
	}
	if _, there := found.values["address"]; !there {
		return place{}, fault.New(fault.Usage, "Write it as [[catalogue]], or change it with an editor.", "find catalogue %d in the configuration", number+1)
	}
	return found, nil
}

func spanOf(node *unstable.Node) span {
	from := int(node.Raw.Offset)
	return span{from, from + int(node.Raw.Length)}
}

func elements(array *unstable.Node) []span {
	var spans []span
	for it := array.Children(); it.Next(); {
		spans = append(spans, spanOf(it.Node()))
	}
	return spans
}

// insertKey adds a key after the last one, or after the address.
func insertKey(text string, number int, key string) (string, error) {
	found, err := locate(text, number)
	if err != nil {
		return "", err
	}
	if n := len(found.keys); n > 0 {
		at := found.keys[n-1].to
		return text[:at] + ", " + quoted(key) + text[at:], nil
	}
	at := endOfLine(text, found.values["address"].to)
	return strings.TrimSuffix(text[:at], "\n") + "\nkeys = [" + quoted(key) + "]\n" + text[at:], nil
}

// deleteKey removes a key with one comma, or all of keys and threshold with the
// last of them.
func deleteKey(text string, number, index int) (string, error) {
	found, err := locate(text, number)
	if err != nil {
		return "", err
	}
	switch n := len(found.keys); {
	case n == 1:
		return deleteLines(text, found.values["keys"], found.values["threshold"]), nil
	case index >= n:
		return "", fault.New(fault.Internal, "", "find key %d in the configuration", index+1)
	case index == n-1:
		return text[:found.keys[index-1].to] + text[found.keys[index].to:], nil
	}
	return text[:found.keys[index].from] + text[found.keys[index+1].from:], nil
}

// deleteLines removes the lines that two values are on; an empty span is none.
func deleteLines(text string, a, b span) string {
	if a.from < b.from {
		a, b = b, a
	}
	for _, s := range []span{a, b} { // the later one first
		if s.to > s.from {
			text = text[:s.from] + text[endOfLine(text, s.to):]
		}
	}
	return text
}

// endOfLine is behind the line break that follows at.
func endOfLine(text string, at int) int {
	if i := strings.IndexByte(text[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(text)
}
