package ui

import (
	"io"
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
