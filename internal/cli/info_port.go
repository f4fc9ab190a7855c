package cli

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// askTime bounds what info asks of a running sandbox.
const askTime = 5 * time.Second

// askPorts adds what only a running sandbox knows of its ports. One that does not
// answer is shown without it.
func (a *App) askPorts(ctx context.Context, boxes sandboxes, info *sandboxInfo) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	report, err := boxes.Ports(ctx, info.Name, true)
	if err != nil {
		a.Streams.Say("%s does not say what listens in it: %v", info.Name, err)
		return
	}
	info.Forwards = info.Forwards[:0]
	for _, f := range report.Forwards {
		info.Forwards = append(info.Forwards, viewForward(info.Name, f.Forward, f.Failed))
	}
	for _, l := range report.Listening {
		info.Listening = append(info.Listening, listeningView{l.Port, l.Address, l.Program, info.forwards(l.Port)})
	}
}

func (i sandboxInfo) forwards(guest int) bool {
	return slices.ContainsFunc(i.Forwards, func(f forwardView) bool { return f.Guest == guest })
}

// portLines are the ports for people: what is forwarded, then what is not.
func (i sandboxInfo) portLines() (lines []string) {
	for _, f := range i.Forwards {
		text := fmt.Sprintf("%s leads to %d in the sandbox%s", f.at(), f.Guest, i.listener(f.Guest))
		if !f.Open && f.Reason != notRunning {
			text = fmt.Sprintf("%d in the sandbox is not forwarded: %s", f.Guest, f.Reason)
		}
		lines = append(lines, text)
	}
	var known []int
	for _, l := range i.Listening {
		if !l.Forwarded && !slices.Contains(known, l.Port) {
			known = append(known, l.Port)
			lines = append(lines, fmt.Sprintf("%d in the sandbox%s, not forwarded", l.Port, i.listener(l.Port)))
		}
	}
	for _, p := range i.Ports {
		if !i.forwards(p) && !slices.Contains(known, p) {
			lines = append(lines, fmt.Sprintf("%d in the sandbox, not forwarded", p))
		}
	}
	return lines
}

// listener names the program that listens on a port of the sandbox.
func (i sandboxInfo) listener(number int) string {
	for _, l := range i.Listening {
		if l.Port == number && l.Program != "" {
			return " (" + l.Program + ")"
		}
	}
	return ""
}
