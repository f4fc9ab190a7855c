package ui

import (
	"bufio"
	"context"
	"fmt"
	"strings"
)

// asked is how often a question is asked before no answer to it is no.
const asked = 3

// Confirm asks a question that y answers with yes, and n, an empty line and the end
// of input with no. It fails when ctx ends first: the read of the input then lasts
// until the process ends. The caller asks only where Interactive holds.
func (s *Streams) Confirm(ctx context.Context, question string) (bool, error) {
	answers := make(chan bool, 1)
	go func() { answers <- s.answered(question) }()
	select {
	case yes := <-answers:
		return yes && ctx.Err() == nil, ctx.Err()
	case <-ctx.Done():
		fmt.Fprintln(s.Err)
		return false, ctx.Err()
	}
}

func (s *Streams) answered(question string) bool {
	in := bufio.NewReader(s.In)
	for range asked {
		fmt.Fprintf(s.Err, "%s [y/N] ", Clean(question))
		answer, err := in.ReadString('\n')
		if err != nil {
			fmt.Fprintln(s.Err)
			return false
		}
		switch strings.ToLower(strings.TrimSpace(answer)) {
		case "y", "yes":
			return true
		case "", "n", "no":
			return false
		}
	}
	return false
}
