package share

import (
	"encoding/binary"
	"time"
)

// The protocol is Linux's FUSE, version 7: include/uapi/linux/fuse.h. The guest
// is always Linux and both its architectures are little-endian, so the layouts
// below hold on any host.
const (
	protocolMajor = 7
	protocolMinor = 38 // the newest whose messages this server knows
	leastMinor    = 31 // Linux 5.4, older than any guest's
)

// The operations that are served; all others are answered with ENOSYS, which
// makes the guest's kernel do without.
const (
	opLookup        = 1
	opForget        = 2
	opGetattr       = 3
	opSetattr       = 4
	opReadlink      = 5
	opSymlink       = 6
	opMknod         = 8
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opRename        = 12
	opLink          = 13
	opOpen          = 14
	opRead          = 15
	opWrite         = 16
	opStatfs        = 17
	opRelease       = 18
	opFsync         = 20
	opSetxattr      = 21
	opGetxattr      = 22
	opListxattr     = 23
	opRemovexattr   = 24
	opInit          = 26
	opOpendir       = 27
	opReaddir       = 28
	opReleasedir    = 29
	opFsyncdir      = 30
	opCreate        = 35
	opInterrupt     = 36
	opDestroy       = 38
	opBatchForget   = 42
	opFallocate     = 43
	opReaddirplus   = 44
	opRename2       = 45
	opLseek         = 46
	opCopyFileRange = 47
)

// Flags of the opening exchange.
const (
	initAsyncRead      = 1 << 0
	initAtomicTruncate = 1 << 3
	initBigWrites      = 1 << 5
	initAutoInvalidate = 1 << 12
	initReaddirplus    = 1 << 13
	initReaddirAuto    = 1 << 14
	initAsyncDirect    = 1 << 15
	initParallelDirs   = 1 << 18
	initMaxPages       = 1 << 22
	initCacheSymlinks  = 1 << 23
	initKillPrivV2     = 1 << 28
)

// wanted are the abilities asked of the guest's kernel. Its write-back cache is
// not among them: with it the kernel trusts its own size and time of every file
// and would never see that the host has changed one.
const wanted = initAsyncRead | initAtomicTruncate | initBigWrites | initAutoInvalidate | initReaddirplus |
	initReaddirAuto | initAsyncDirect | initParallelDirs | initMaxPages | initCacheSymlinks | initKillPrivV2

// Sizes of messages in bytes.
const (
	headerIn  = 40
	headerOut = 16
	attrSize  = 88
	entrySize = 40 + attrSize
	maxData   = 1 << 20 // of one read or write
	maxIn     = maxData + 4<<10
	maxName   = 255
)

// The root's node, and the node of no file: a cached "there is none".
const rootNode = 1

// Flags of open files, as every Linux architecture that guests have numbers them.
const (
	openAccess = 0o3
	openWrite  = 0o1
	openRDWR   = 0o2
	openExcl   = 0o200
	openTrunc  = 0o1000
	openAppend = 0o2000
)

// Answers and hints of open files.
const (
	keepCache       = 1 << 1
	writeFromCache  = 1 << 0
	writeKillPriv   = 1 << 2
	fsyncData       = 1 << 0
	renameNoReplace = 1 << 0
	renameExchange  = 1 << 1
)

// What a setattr changes.
const (
	setMode     = 1 << 0
	setUID      = 1 << 1
	setGID      = 1 << 2
	setSize     = 1 << 3
	setAtime    = 1 << 4
	setMtime    = 1 << 5
	setHandle   = 1 << 6
	setAtimeNow = 1 << 7
	setMtimeNow = 1 << 8
)

// File types, as Linux numbers them in a mode.
const (
	typeMask    = 0o170000
	typeSocket  = 0o140000
	typeLink    = 0o120000
	typeRegular = 0o100000
	typeFolder  = 0o040000
	typeFIFO    = 0o010000
	setUIDBit   = 0o4000
	setGIDBit   = 0o2000
	modeBits    = 0o7777
)

// request is one message of the guest's kernel.
type request struct {
	opcode uint32
	unique uint64
	node   uint64
	body   reader
}

// parse reads the header of a whole message.
func parse(message []byte) request {
	in := reader{rest: message}
	in.uint32() // length, which the caller has used
	r := request{opcode: in.uint32(), unique: in.uint64(), node: in.uint64()}
	in.skip(16) // who asks: the guest's kernel has checked that already
	r.body = in
	return r
}

// reader takes a message apart. Reading past its end gives zeros and is
// remembered.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.short, r.rest = true, nil
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) skip(n int) {
	if n > len(r.rest) {
		n, r.short = len(r.rest), true
	}
	r.rest = r.rest[n:]
}

func (r *reader) uint32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) uint64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

// text reads a string up to its NUL.
func (r *reader) text() string {
	for i, b := range r.rest {
		if b == 0 {
			s := string(r.rest[:i])
			r.rest = r.rest[i+1:]
			return s
		}
	}
	r.short, r.rest = true, nil
	return ""
}

// writer puts an answer together. Its first bytes are left for the header.
type writer struct{ b []byte }

func newWriter(size int) *writer {
	return &writer{b: make([]byte, headerOut, headerOut+size)}
}

func (w *writer) uint32(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *writer) uint64(v uint64) { w.b = binary.LittleEndian.AppendUint64(w.b, v) }
func (w *writer) bytes(p []byte)  { w.b = append(w.b, p...) }
func (w *writer) zeros(n int)     { w.b = append(w.b, make([]byte, n)...) }

// finish fills the header in. An answer with an error has no body.
func (w *writer) finish(unique uint64, errno uint32) []byte {
	if errno != 0 {
		w.b = w.b[:headerOut]
	}
	binary.LittleEndian.PutUint32(w.b, uint32(len(w.b)))
	binary.LittleEndian.PutUint32(w.b[4:], -errno)
	binary.LittleEndian.PutUint64(w.b[8:], unique)
	return w.b
}

// attr is what the guest is told about a file.
type attr struct {
	ino, size, blocks   uint64
	atime, mtime, ctime stamp
	mode, nlink         uint32
	uid, gid            uint32
	blockSize           uint32
}

// stamp is a time of a file.
type stamp struct {
	seconds int64
	nanos   uint32
}

func (w *writer) attr(a attr) {
	for _, v := range []uint64{
		a.ino, a.size, a.blocks, uint64(a.atime.seconds), uint64(a.mtime.seconds), uint64(a.ctime.seconds),
	} {
		w.uint64(v)
	}
	for _, v := range []uint32{
		a.atime.nanos, a.mtime.nanos, a.ctime.nanos, a.mode, a.nlink, a.uid, a.gid,
		0, a.blockSize, 0, // no device numbers, no flags
	} {
		w.uint32(v)
	}
}

// entry is a name's answer: the node, how long name and attributes may be
// believed, and the attributes. The generation tells a node's number from
// earlier uses of it; numbers are never used again.
func (w *writer) entry(node uint64, valid time.Duration, a attr) {
	w.uint64(node)
	w.uint64(0)
	w.uint64(uint64(valid / time.Second))
	w.uint64(uint64(valid / time.Second))
	w.uint32(uint32(valid % time.Second))
	w.uint32(uint32(valid % time.Second))
	w.attr(a)
}

func (w *writer) attrAnswer(valid time.Duration, a attr) {
	w.uint64(uint64(valid / time.Second))
	w.uint32(uint32(valid % time.Second))
	w.uint32(0)
	w.attr(a)
}
