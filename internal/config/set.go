package config

import (
	"context"
	"os"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/smolvm/smolvm/internal/fault"
)

// Set writes a setting into the user's file; false when it was so already. A
// file that is not there begins as the template. All else in it stays as it is.
func (c Config) Set(ctx context.Context, key string, words []string) (bool, error) {
	s, presetName, err := FindSetting(key)
	if err != nil {
		return false, err
	}
	v, err := s.Read(words)
	if err != nil {
		return false, err
	}
	return c.rewrite(ctx, key, &v, func(text string, at placed) string {
		line := s.Key + " = " + s.literal(v)
		if at.found {
			return text[:at.setting.from] + line + text[at.setting.to:]
		}
		return insertLine(text, at, line, presetName)
	})
}

// Unset takes a setting out of the user's file; false when it was not in it.
func (c Config) Unset(ctx context.Context, key string) (bool, error) {
	if _, _, err := FindSetting(key); err != nil {
		return false, err
	}
	return c.rewrite(ctx, key, nil, func(text string, at placed) string {
		if !at.found {
			return text
		}
		return deleteLines(text, at.setting, span{})
	})
}

// rewrite changes the one setting, and makes sure that nothing else changed.
func (c Config) rewrite(ctx context.Context, key string, v *Value, edit func(string, placed) string) (bool, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	text, before, err := c.read(v != nil)
	if err != nil {
		return false, err
	}
	old, there := before.values[key]
	if v == nil && !there || v != nil && there && reflect.DeepEqual(old, *v) {
		return false, nil
	}
	edited := edit(text, locateSetting(text, key))
	after, err := decodeFile([]byte(edited), c.File)
	if v == nil {
		delete(before.values, key)
	} else {
		before.values[key] = *v
	}
	if err != nil || !reflect.DeepEqual(after.values, before.values) || !reflect.DeepEqual(after.Catalogues, before.Catalogues) {
		return false, fault.New(fault.Usage, "Change it with smolvm config edit.", "change %s: it is written in a way that is not understood well enough", c.File)
	}
	return true, replace(c.File, edited, after.hasLogin())
}

// read gives the text of the user's file and what it says. One that is not there
// is the template where it is to be made.
func (c Config) read(begin bool) (string, document, error) {
	raw, err := readFile(c.File)
	if err != nil {
		return "", document{}, err
	}
	if _, err := os.Lstat(c.File); err != nil && begin {
		raw = []byte(Template())
	}
	f, err := decodeFile(raw, c.File)
	return string(raw), f, err
}

// placed is where a setting is in the text, or where it would belong.
type placed struct {
	found   bool
	setting span // key = value
	table   bool // the preset's table is there
	end     int  // of what the setting's table has, before the next table
}

// locateSetting finds a setting by its whole key.
func locateSetting(text, key string) placed {
	s, presetName, _ := FindSetting(key)
	wanted := ""
	if presetName != "" {
		wanted = presetPrefix + presetName
	}
	at := placed{table: wanted == ""}
	var p unstable.Parser
	p.Reset([]byte(text))
	table := ""
	for p.NextExpression() {
		node := p.Expression()
		switch {
		case node.Kind == unstable.Table || node.Kind == unstable.ArrayTable:
			if table = strings.Join(keyOf(node), "."); table == wanted {
				at.table, at.end = true, endOfLine(text, headerEnd(text, node))
			}
		case node.Kind == unstable.KeyValue && table == wanted:
			whole := spanOf(node)
			at.end = endOfLine(text, whole.to)
			if name := keyOf(node); len(name) == 1 && name[0] == s.Key {
				at.found, at.setting = true, whole
			}
		}
	}
	return at
}

// headerEnd is behind the last part of a table's name.
func headerEnd(text string, node *unstable.Node) int {
	end := 0
	for it := node.Key(); it.Next(); {
		end = spanOf(it.Node()).to
	}
	return min(end, len(text))
}

// insertLine puts a new setting under its comment where the text has it as one,
// else behind what its table has, else with a new table at the end.
func insertLine(text string, at placed, line, presetName string) string {
	if !at.table {
		return terminated(text) + "\n[" + presetPrefix + presetName + "]\n" + line + "\n"
	}
	end := at.end
	if presetName == "" {
		if commented := commentOf(text, line); commented > 0 {
			end = commented
		}
	}
	return terminated(text[:end]) + line + "\n" + text[end:]
}

// terminated ends text with a line break, unless it is empty.
func terminated(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

// commentOf is behind the line of the top that has the setting as a comment; 0: none.
func commentOf(text, line string) int {
	key, _, _ := strings.Cut(line, " ")
	at := 0
	for part := range strings.SplitAfterSeq(text, "\n") {
		at += len(part)
		word := strings.TrimLeft(part, "# \t")
		if strings.HasPrefix(part, "[") || strings.HasPrefix(word, "[") {
			return 0 // what follows is a table's
		}
		if strings.HasPrefix(part, "#") && strings.HasPrefix(word, key+" =") {
			return at
		}
	}
	return 0
}

// BeginEdit gives the text to edit: the user's file, or the template.
func (c Config) BeginEdit() (string, error) {
	raw, err := readFile(c.File)
	if err == nil {
		if _, gone := os.Lstat(c.File); gone != nil {
			raw = []byte(Template())
		}
	}
	return string(raw), err
}

// CheckText tells what is wrong with the text of a configuration.
func (c Config) CheckText(text string) error {
	_, err := decodeFile([]byte(text), c.File)
	return err
}

// EndEdit replaces the user's file, unless it is no longer what before says.
func (c Config) EndEdit(ctx context.Context, before, text string) error {
	f, err := decodeFile([]byte(text), c.File)
	if err != nil {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if now, err := c.BeginEdit(); err != nil || now != before {
		return fault.New(fault.Conflict, "Edit it again.", "write the configuration %s: it was changed meanwhile", c.File)
	}
	return replace(c.File, text, f.hasLogin())
}
