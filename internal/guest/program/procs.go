//go:build linux

package program

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// SignalSession signals every process of a kernel session, whatever its process
// group: a shell with job control gives each of its jobs one. It returns how many
// there were.
func SignalSession(session int, sig syscall.Signal) int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	count := 0
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err == nil && sessionOf(stat) == session {
			_ = syscall.Kill(pid, sig)
			count++
		}
	}
	return count
}

// sessionOf reads the sixth field of a stat line; the second, the command, may
// hold anything and ends with the last parenthesis.
func sessionOf(stat []byte) int {
	_, rest, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	fields := bytes.Fields(rest)
	if len(fields) < 4 {
		return -1
	}
	session, err := strconv.Atoi(string(fields[3]))
	if err != nil {
		return -1
	}
	return session
}
