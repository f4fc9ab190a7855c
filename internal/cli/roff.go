package cli

import (
	"fmt"
	"strings"
)

// roff writes a manual page in the man macros, which groff and mandoc read.
type roff struct{ out strings.Builder }

// literal makes text safe as it stands: no character of it is a command.
var literal = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)

// line writes one line of text. A dot that begins it would be a command.
func (r *roff) line(text string) {
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	r.out.WriteString(text + "\n")
}

func (r *roff) macro(format string, args ...any) { fmt.Fprintf(&r.out, "."+format+"\n", args...) }

// paragraph begins one, where nothing has begun one already.
func (r *roff) paragraph() {
	text := r.out.String()
	last := text[strings.LastIndex(strings.TrimSuffix(text, "\n"), "\n")+1:]
	if !strings.HasPrefix(last, ".SH") && !strings.HasPrefix(last, ".SS") && last != ".PP\n" {
		r.macro("PP")
	}
}

func (r *roff) title(page, date, version string) {
	r.macro(`TH "%s" "1" "%s" "smolvm %s" "SmolVM Manual"`, strings.ToUpper(literal.Replace(page)), date, literal.Replace(version))
	r.macro("nh")
	r.macro("ad l")
}

func (r *roff) section(title string) { r.macro(`SH "%s"`, strings.ToUpper(literal.Replace(title))) }

func (r *roff) subsection(title string) { r.macro(`SS "%s"`, literal.Replace(title)) }

// usage writes command lines, one below the other.
func (r *roff) usage(lines ...string) {
	for i, line := range lines {
		if i > 0 {
			r.macro("br")
		}
		r.line(`\fB` + literal.Replace(line) + `\fR`)
	}
}

// item writes a word and what it means.
func (r *roff) item(word, meaning string) {
	r.macro("TP")
	r.line(`\fB` + literal.Replace(word) + `\fR`)
	r.line(literal.Replace(meaning))
}

// prose writes paragraphs as they are in a help text: empty lines between them,
// indented lines are examples.
func (r *roff) prose(text string) {
	for i, block := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			r.paragraph()
		}
		r.block(block)
	}
}

func (r *roff) block(text string) {
	quoted := false
	for line := range strings.SplitSeq(text, "\n") {
		if indented := strings.HasPrefix(line, "  "); indented != quoted {
			r.quote(indented)
			quoted = indented
		}
		r.line(literal.Replace(strings.TrimPrefix(line, "  ")))
	}
	if quoted {
		r.quote(false)
	}
}

// quote begins or ends lines that are not filled.
func (r *roff) quote(on bool) {
	if on {
		r.paragraph()
		r.macro("RS 4\n.nf")
		return
	}
	r.macro("fi\n.RE")
}

// seeAlso names other pages of the manual.
func (r *roff) seeAlso(pages ...string) {
	r.section("see also")
	for i, page := range pages {
		end := ","
		if i == len(pages)-1 {
			end = ""
		}
		r.macro(`BR %s (1)%s`, literal.Replace(page), end)
	}
}
