//go:build linux

// Command picture draws a terminal session as an SVG: it runs a command on a
// pseudo-terminal, replays everything the command wrote through a terminal
// emulator, and writes the final screen. The picture in the README is made with
// it, from a real run (make picture).
//
// Input: the shown prompt line and the command. Output: SVG on standard output.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"html"
	"image/color"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/vt"

	"github.com/smolvm/smolvm/test/terminal"
)

// Size of the drawn terminal in cells, and of one cell in SVG units: the
// advance and line height of common monospace fonts at 14 units.
const (
	columns, rows      = 100, 60
	cellWide, cellHigh = 8.43, 19.0
	margin             = 16.0
)

func main() {
	prompt := flag.String("prompt", "", "the command line to show first")
	flag.Parse()
	if err := run(*prompt, flag.Args(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(prompt string, argv []string, out io.Writer) error {
	if len(argv) == 0 {
		return errors.New("name the command to run")
	}
	recorded, err := record(argv)
	if err != nil {
		return fmt.Errorf("run %s: %w", strings.Join(argv, " "), err)
	}
	screen := vt.NewEmulator(columns, rows)
	defer screen.Close()
	fmt.Fprintf(screen, "\x1b[1;32m$\x1b[0m %s\r\n", prompt)
	if _, err := screen.Write(recorded); err != nil {
		return err
	}
	_, err = io.WriteString(out, draw(screen))
	return err
}

// record runs the command on a terminal of its own and returns what it wrote.
func record(argv []string) ([]byte, error) {
	master, slave, err := terminal.Open(rows, columns)
	if err != nil {
		return nil, err
	}
	defer master.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	slave.Close()
	var seen bytes.Buffer
	// Linux ends the master's last read with EIO once no slave is open.
	if _, err := io.Copy(&seen, master); err != nil && !errors.Is(err, syscall.EIO) {
		return nil, err
	}
	return seen.Bytes(), cmd.Wait()
}

// draw renders all rows up to the last one that holds anything.
func draw(screen *vt.Emulator) string {
	lines := strings.Split(strings.TrimRight(screen.String(), " \r\n"), "\n")
	width, height := 2*margin+columns*cellWide, 2*margin+float64(len(lines))*cellHigh
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" fill="#d8dee9">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="#1b1f27"/>`+"\n")
	for y := range lines {
		drawLine(&b, screen, y)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// drawLine writes one text element per run of cells that look alike.
func drawLine(b *strings.Builder, screen *vt.Emulator, y int) {
	var text strings.Builder
	start, look := 0, ""
	flush := func(end int) {
		if strings.TrimSpace(text.String()) != "" {
			fmt.Fprintf(b, `<text xml:space="preserve" x="%.1f" y="%.1f"%s>%s</text>`+"\n",
				margin+float64(start)*cellWide, margin+float64(y)*cellHigh+14, look, html.EscapeString(text.String()))
		}
		text.Reset()
		start = end
	}
	for x := range columns {
		cell := screen.CellAt(x, y)
		if cell == nil || cell.Content == "" {
			cell = &uv.Cell{Content: " "}
		}
		if now := style(cell); now != look {
			flush(x)
			look = now
		}
		text.WriteString(cell.Content)
	}
	flush(columns)
}

func style(cell *uv.Cell) string {
	var s string
	if cell.Style.Fg != nil {
		c := color.NRGBAModel.Convert(cell.Style.Fg).(color.NRGBA)
		s = fmt.Sprintf(` fill="#%02x%02x%02x"`, c.R, c.G, c.B)
	}
	if cell.Style.Attrs&uv.AttrBold != 0 {
		s += ` font-weight="bold"`
	}
	if cell.Style.Attrs&uv.AttrFaint != 0 {
		s += ` opacity="0.6"`
	}
	return s
}
