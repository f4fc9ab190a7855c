package treecopy

// The questions of lseek(2) for data and holes.
const (
	seekHole = 3
	seekData = 4
)
