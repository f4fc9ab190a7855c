//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"
)

// series are the durations of one measurement repeated.
type series []time.Duration

// median is the middle value, the lower one of an even number.
func (s series) median() time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[(len(sorted)-1)/2]
}

func (s series) String() string {
	return fmt.Sprintf("%s [%s-%s]", show(s.median()), show(slices.Min(s)), show(slices.Max(s)))
}

func show(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

func ratio(a, b series) float64 { return a.median().Seconds() / b.median().Seconds() }

// timed runs f and says how long it took.
func timed(f func() error) (time.Duration, error) {
	begun := time.Now()
	err := f()
	return time.Since(begun), err
}

// repeat takes n samples.
func repeat(n int, f func() error) (series, error) {
	var s series
	for range n {
		d, err := timed(f)
		if err != nil {
			return nil, err
		}
		s = append(s, d)
	}
	return s, nil
}

// mib shows bytes.
func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// met says whether a goal is reached that is no ratio.
func met(ok bool) string {
	if ok {
		return "met"
	}
	return "missed"
}

// verdict says in one phrase how a figure stands to its goal.
func verdict(value, goal float64) string {
	if value <= goal {
		return fmt.Sprintf("goal at most %gx: met", goal)
	}
	return fmt.Sprintf("goal at most %gx: missed", goal)
}
