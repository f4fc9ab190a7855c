package wire

// Copy is the first line of a bulk stream, JSON of at most MaxMessage bytes: the
// host asks for files, or brings some. A process of the user serves it, so that
// the guest's kernel decides what may be touched. What follows, in either
// direction, is the stream of the room treecopy.
type Copy struct {
	Op   CopyOp `json:"op"`
	User string `json:"user,omitempty"` // agent (default) or root
	Path string `json:"path"`           // relative ones are below Workspace, ~/ is the user's home
	// Name is what the copy is called where Path is a folder that is there.
	Name string `json:"name,omitempty"`
}

// CopyOp is what to do with a path.
type CopyOp string

// The values of CopyOp.
const (
	CopySend    CopyOp = "send"    // the guest sends what is there
	CopyReceive CopyOp = "receive" // the guest writes what the host sends, and answers
)
