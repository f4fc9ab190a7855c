package ui

import (
	"bufio"
	"fmt"
	"strings"
)

// Confirm asks a question that y answers with yes; anything else, and the end
// of input, is no. The caller asks only where Interactive holds.
func (s *Streams) Confirm(question string) bool {
	fmt.Fprintf(s.Err, "%s [y/N] ", Clean(question))
	answer, err := bufio.NewReader(s.In).ReadString('\n')
	if err != nil {
		fmt.Fprintln(s.Err)
		return false
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}
