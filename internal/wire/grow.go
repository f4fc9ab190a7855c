package wire

// GrowRequest is the first line of a grow stream: the scratch drive is to have so
// many bytes, or has them already. The guest waits until its drive has, makes the
// file system as large, and answers with one line, a GrowAnswer.
type GrowRequest struct {
	Bytes int64 `json:"bytes"`
}

// GrowAnswer says how large the drive is to whose size the file system was made.
type GrowAnswer struct {
	Bytes int64  `json:"bytes,omitempty"`
	Error string `json:"error,omitempty"`
}
