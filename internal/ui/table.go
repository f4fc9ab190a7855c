package ui

import (
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// columnGap separates two columns of a table.
const columnGap = "  "

// Table is rows under a header, written with aligned columns.
type Table struct{ rows [][]string }

// NewTable begins a table with its column names.
func NewTable(columns ...string) *Table { return &Table{rows: [][]string{columns}} }

// Add appends a row. Cells may hold anything: they are cleaned; an empty cell is shown as "-".
func (t *Table) Add(cells ...string) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		if row[i] = Clean(cell); strings.TrimSpace(row[i]) == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

// Fit makes the table fit a terminal of so many columns: the last column is cut
// at its front, down to shortest; then the columns named go, in that order.
// What went is returned.
func (t *Table) Fit(columns int, names ...string) (gone []string) {
	for !t.shorten(columns) && len(names) > 0 {
		if at := slices.Index(t.rows[0], names[0]); at >= 0 {
			for i := range t.rows {
				t.rows[i] = slices.Delete(t.rows[i], at, at+1)
			}
			gone = append(gone, names[0])
		}
		names = names[1:]
	}
	return gone
}

// shortest is the width to which Fit cuts a column, the mark of a cut included.
const shortest = 12

// leftOut marks where something was left out.
const leftOut = "..."

// shorten cuts the last column as far as allowed, if that makes the table fit.
func (t *Table) shorten(columns int) bool {
	widths := t.widths()
	last := len(widths) - 1
	room := widths[last] - (t.Width() - columns)
	if room >= widths[last] {
		return true
	}
	if room < shortest {
		return false
	}
	for _, row := range t.rows {
		if cell := []rune(row[last]); len(cell) > room {
			row[last] = leftOut + string(cell[len(cell)-room+len(leftOut):])
		}
	}
	return true
}

// WritePlain writes the rows without alignment, a line for each cell with its
// column's name and an empty line between rows: for readers that go from line to line.
func (t *Table) WritePlain(w io.Writer) error {
	var out strings.Builder
	for i, row := range t.rows[1:] {
		if i > 0 {
			out.WriteByte('\n')
		}
		for j, cell := range row {
			out.WriteString(strings.ToLower(t.rows[0][j]) + ": " + cell + "\n")
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// Write writes the table in one piece.
func (t *Table) Write(w io.Writer) error {
	var out strings.Builder
	widths := t.widths()
	for _, row := range t.rows {
		for i, cell := range row {
			out.WriteString(cell)
			if i < len(row)-1 {
				out.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)) + columnGap)
			}
		}
		out.WriteByte('\n')
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// Width is that of the table's lines, in columns of a terminal.
func (t *Table) Width() int {
	sum := -len(columnGap)
	for _, width := range t.widths() {
		sum += width + len(columnGap)
	}
	return sum
}

func (t *Table) widths() []int {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}
