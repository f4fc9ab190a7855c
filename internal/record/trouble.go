package record

import "time"

// Trouble is what went wrong in a guest, by the line that tells.
type Trouble struct {
	Kind  TroubleKind `json:"kind"`
	Line  string      `json:"line"`  // the last one; a guest wrote it, cleaned
	Count int         `json:"count"` // in this run
	Last  time.Time   `json:"last"`
}

// TroubleKind says what went wrong.
type TroubleKind string

// The kinds, the worst first.
const (
	Reboots     TroubleKind = "reboots"       // it started again and again, and was switched off
	Panic       TroubleKind = "panic"         // its kernel panicked; it starts again by itself
	DiskError   TroubleKind = "disk-error"    // a disk failed it: this computer's is full or broken
	DiskFull    TroubleKind = "disk-full"     // its own disk is full; gone when it has room again
	OutOfMemory TroubleKind = "out-of-memory" // a program was ended for memory
)

// TroubleKinds are all kinds, the worst first.
func TroubleKinds() []TroubleKind {
	return []TroubleKind{Reboots, Panic, DiskError, DiskFull, OutOfMemory}
}
