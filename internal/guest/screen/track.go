package screen

import (
	"bytes"
	"slices"
	"strings"
	"unicode"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
)

// tracked is what the emulator knows and does not tell, or does not know.
type tracked struct {
	modes      map[int]bool // private modes that were set or reset
	title      string
	pen        uv.Style
	saved      uv.Style // with the cursor
	margins    [2]int   // of scrolling: first and last line from 1; zero: all
	graphics   bool     // G0 holds line drawing
	keys       [2][]int // the keyboard flags' stacks of the main and the alternate screen
	otherKeys  int      // xterm's modifyOtherKeys
	main       []string // the main screen's lines while the other one is active
	mainCursor uv.Position
	altLines   int // scrolled off the alternate screen, at most
}

// Private modes with a part of their own in drawing.
const (
	modeOrigin   = 6
	modeWrap     = 7
	modeCursor   = 25
	modeKeypad   = 66
	modeAlt      = 1047
	modeAltSave  = 1049
	maxKeysStack = 16
)

// passive are the modes that only change what the terminal sends: keys, mouse,
// focus, pasting, reports. They are told on, or undone.
var passive = []int{1, 9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 2004, 2027, 2031, 2048}

// follow registers with the emulator. Handlers run before the emulator's own and
// let it go on by returning false.
func (s *Screen) follow() {
	e, t := s.emulator, &s.track
	e.SetCallbacks(vt.Callbacks{
		EnableMode:  func(mode ansi.Mode) { t.set(mode, true) },
		DisableMode: func(mode ansi.Mode) { t.set(mode, false) },
	})
	s.followSequences()
	s.followKeys()
}

func (t *tracked) set(mode ansi.Mode, on bool) {
	if mode, ok := mode.(ansi.DECMode); ok && (slices.Contains(passive, int(mode)) || mode < 100) {
		t.modes[int(mode)] = on
	}
}

func (s *Screen) followSequences() {
	e, t := s.emulator, &s.track
	e.RegisterCsiHandler(ansi.Command('?', 0, 'h'), func(params ansi.Params) bool {
		s.beforeAlt(params)
		return false
	})
	e.RegisterCsiHandler('m', func(params ansi.Params) bool {
		uv.ReadStyle(params, &t.pen)
		return false
	})
	e.RegisterCsiHandler('r', func(params ansi.Params) bool {
		top, _, _ := params.Param(0, 1)
		bottom, _, _ := params.Param(1, int(s.size.Rows))
		if bottom < 1 {
			bottom = int(s.size.Rows)
		}
		if top = max(top, 1); top < bottom {
			t.margins = [2]int{top, min(bottom, int(s.size.Rows))}
		}
		if t.margins == [2]int{1, int(s.size.Rows)} {
			t.margins = [2]int{}
		}
		return false
	})
	for _, final := range []int{'S', 'M', 'J'} {
		e.RegisterCsiHandler(final, func(ansi.Params) bool {
			t.altLines += int(s.size.Rows)
			return false
		})
	}
	for _, final := range []int{'b', 'I', 'Z'} { // each repetition costs, and a million make no sense
		e.RegisterCsiHandler(final, func(params ansi.Params) bool {
			n, _, _ := params.Param(0, 1)
			return n > MaxColumns*MaxRows || n < 0
		})
	}
	e.RegisterCsiHandler('u', func(ansi.Params) bool { // the emulator has no such sequence
		_, _ = e.WriteString("\x1b8")
		return true
	})
	e.RegisterEscHandler('7', func() bool { t.saved = t.pen; return false })
	e.RegisterEscHandler('8', func() bool { t.pen = t.saved; return false })
	e.RegisterEscHandler('c', func() bool { *t = tracked{modes: map[int]bool{}}; return false })
	e.RegisterEscHandler(ansi.Command(0, '(', '0'), func() bool { t.graphics = true; return false })
	e.RegisterEscHandler(ansi.Command(0, '(', 'B'), func() bool { t.graphics = false; return false })
	s.followStrings()
}

func (s *Screen) followStrings() {
	e, t := s.emulator, &s.track
	for _, command := range []int{0, 2} {
		e.RegisterOscHandler(command, func(data []byte) bool {
			if _, title, ok := bytes.Cut(data, []byte(";")); ok {
				t.title = clean(string(restore(title)))
			}
			return true
		})
	}
	e.RegisterOscHandler(8, func(data []byte) bool { // the emulator's own gets it next
		restore(data)
		return len(data) > maxLink
	})
}

// followKeys follows how the program wants to be told keys.
func (s *Screen) followKeys() {
	e, t := s.emulator, &s.track
	stack := func() *[]int {
		if e.IsAltScreen() {
			return &t.keys[1]
		}
		return &t.keys[0]
	}
	e.RegisterCsiHandler(ansi.Command('>', 0, 'u'), func(params ansi.Params) bool {
		flags, _, _ := params.Param(0, 0)
		if all := stack(); len(*all) < maxKeysStack {
			*all = append(*all, flags)
		}
		return true
	})
	e.RegisterCsiHandler(ansi.Command('<', 0, 'u'), func(params ansi.Params) bool {
		n, _, _ := params.Param(0, 1)
		all := stack()
		*all = (*all)[:max(0, len(*all)-max(n, 1))]
		return true
	})
	e.RegisterCsiHandler(ansi.Command('=', 0, 'u'), func(params ansi.Params) bool {
		flags, _, _ := params.Param(0, 0)
		how, _, _ := params.Param(1, 1)
		setKeys(stack(), flags, how)
		return true
	})
	e.RegisterCsiHandler(ansi.Command('>', 0, 'm'), func(params ansi.Params) bool {
		if what, _, _ := params.Param(0, 0); what == 4 {
			t.otherKeys, _, _ = params.Param(1, 0)
		}
		return true
	})
}

// setKeys changes the flags in use: all of them, or adds some, or removes some.
func setKeys(stack *[]int, flags, how int) {
	if len(*stack) == 0 {
		*stack = append(*stack, 0)
	}
	top := &(*stack)[len(*stack)-1]
	switch how {
	case 2:
		*top |= flags
	case 3:
		*top &^= flags
	default:
		*top = flags
	}
}

func top(stack []int) int {
	if len(stack) == 0 {
		return 0
	}
	return stack[len(stack)-1]
}

// beforeAlt remembers the main screen when the alternate one is about to cover it:
// the emulator shows only the active one.
func (s *Screen) beforeAlt(params ansi.Params) {
	if s.emulator.IsAltScreen() {
		return
	}
	for _, p := range params {
		if mode := p.Param(0); mode == modeAlt || mode == modeAltSave {
			s.track.main, s.track.mainCursor = render(s.cells()), s.emulator.CursorPosition()
			s.track.keys[1], s.track.altLines = nil, 0
		}
	}
}

// clean makes a title fit for a list.
func clean(title string) string {
	title = strings.ToValidUTF8(title, "")
	if len(title) > maxTitle {
		title = strings.ToValidUTF8(title[:maxTitle], "")
	}
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return -1
		}
		return r
	}, title)
}
