package treecopy

// The questions of lseek(2) for data and holes.
const (
	seekData = 3
	seekHole = 4
)
