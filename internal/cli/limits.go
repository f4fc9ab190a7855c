package cli

import (
	"fmt"
	"strings"

	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/ui"
)

// Whose limits a machine monitor has.
const (
	byGroup   = "cgroup"
	byProcess = "rlimits" // of its process, set by its cage
	byNothing = "none"
)

// limitsView is what limits a sandbox's machine monitor since the last start.
type limitsView struct {
	By        string `json:"by"`           // cgroup, rlimits, none
	Memory    uint64 `json:"memory_bytes"` // of the control group, the guest's included; 0: not limited there
	Processes uint64 `json:"processes"`    // and threads, of the control group; 0: not limited there
	CPUs      int    `json:"cpus"`         // processors' worth of time, of the control group; 0: not limited there
	Why       string `json:"why"`          // why there is no control group, or why it leaves something open
}

func limitsOf(r record.Record) *limitsView {
	if r.Limits == nil {
		return nil
	}
	v := &limitsView{byNothing, r.Limits.Memory, r.Limits.Processes, r.Limits.CPUs, ui.Clean(r.Limits.Why)}
	switch {
	case r.Limits.Group:
		v.By = byGroup
	case r.Confinement == record.Caged:
		v.By = byProcess
	}
	return v
}

// text is that for people; nothing where it is not known.
func (v *limitsView) text() string {
	if v == nil {
		return ""
	}
	text := map[string]string{byGroup: "a control group of " + v.numbers(), byProcess: "those of its cage", byNothing: "none"}[v.By]
	if v.Why != "" {
		text += ": " + v.Why
	}
	return text
}

// numbers are what a control group allows.
func (v *limitsView) numbers() string {
	var parts []string
	if v.Memory > 0 {
		parts = append(parts, ui.Bytes(int64(v.Memory))+" of memory")
	}
	if v.CPUs > 0 {
		parts = append(parts, fmt.Sprintf("%d processors", v.CPUs))
	}
	if v.Processes > 0 {
		parts = append(parts, fmt.Sprintf("%d threads", v.Processes))
	}
	return strings.Join(parts, ", ")
}
