package unpack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// one is a right archive of a frame and a bit with its index.
func one(t testing.TB) ([]byte, Index) {
	t.Helper()
	data := make([]byte, FrameSize+9000)
	copy(data[100:], "some data that is not zero")
	data[len(data)-1] = 1
	return compress(t, data)
}

// framed makes an index in which the given bytes are the only frame of a file of
// that size, with right digests: a publisher's mistake, or malice.
func framed(frame []byte, size int64) Index {
	return Index{Schema: 1, FrameSize: FrameSize, Size: size, Frames: []Frame{{
		Length: int64(len(frame)), Compressed: hexDigest(sha256.Sum256(frame)), Content: strings.Repeat("0", 64),
	}}}
}

func encode(t testing.TB, data []byte, options ...zstd.EOption) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer encoder.Close()
	return encoder.EncodeAll(data, nil)
}

// stream packs without a content size in the header.
func stream(t testing.TB, data []byte, options ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	encoder, err := zstd.NewWriter(&out, options...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := encoder.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(encoder.Flush(), encoder.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Frames whose digest is right and which are still not accepted.
func TestHostileFrames(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	good := encode(t, data)
	size := int64(len(data))
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, "skip"...)
	bomb := zeroFrame(64 << 20) // 2 KiB that expand to 64 MiB
	lying := bytes.Clone(bomb)
	binary.LittleEndian.PutUint32(lying[5:], uint32(size)) // says 10 KB
	tests := map[string]struct {
		frame []byte
		size  int64
	}{
		"not zstd":             {[]byte("hello, this is not a frame"), size},
		"empty skippable":      {skippable, size},
		"skippable first":      {append(bytes.Clone(skippable), good...), size},
		"garbage behind":       {append(bytes.Clone(good), "garbage"...), size},
		"second frame behind":  {append(bytes.Clone(good), good...), size},
		"larger than declared": {encode(t, append(bytes.Clone(data), 'x')), size},
		"smaller":              {encode(t, data[1:]), size},
		"no content size":      {stream(t, data), size},
		"window of 256 MiB":    {stream(t, data, zstd.WithWindowSize(256<<20)), size},
		"dictionary":           {encode(t, data, zstd.WithEncoderDictRaw(77, bytes.Repeat([]byte("0123456789"), 20))), size},
		"bomb":                 {bomb, size},
		"bomb that lies":       {lying, size},
		"cut":                  {good[:len(good)-5], size},
		"header alone":         {good[:6], size},
		"one byte":             {[]byte{0x28}, size},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := Expand(t.Context(), bytes.NewReader(test.frame), framed(test.frame, test.size), empty(t), nil)
			if !errors.Is(err, ErrFormat) {
				t.Errorf("err = %v, want one of the format", err)
			}
		})
	}
}

// Every byte of the archive counts, before a decoder sees it.
func TestEveryByteIsChecked(t *testing.T) {
	archive, ix := one(t)
	step := max(1, len(archive)/200)
	for i := 0; i < len(archive); i += step {
		changed := bytes.Clone(archive)
		changed[i] ^= 0x10
		if err := Expand(t.Context(), bytes.NewReader(changed), ix, empty(t), nil); !errors.Is(err, ErrDigest) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
}

func TestLengthIsChecked(t *testing.T) {
	archive, ix := one(t)
	for _, n := range []int{0, 1, len(archive) / 2, len(archive) - 1} {
		err := Expand(t.Context(), bytes.NewReader(archive[:n]), ix, empty(t), nil)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	err := Expand(t.Context(), bytes.NewReader(append(bytes.Clone(archive), 0)), ix, empty(t), nil)
	if !errors.Is(err, ErrDigest) {
		t.Errorf("one byte more: %v", err)
	}
}

func TestReaderErrorsAreKept(t *testing.T) {
	archive, ix := one(t)
	broken := errors.New("the line broke")
	reader := io.MultiReader(bytes.NewReader(archive[:20]), failingReader{broken})
	if err := Expand(t.Context(), reader, ix, empty(t), nil); !errors.Is(err, broken) {
		t.Errorf("err = %v", err)
	}
	reader = io.MultiReader(bytes.NewReader(archive), failingReader{broken})
	if err := Expand(t.Context(), reader, ix, empty(t), nil); !errors.Is(err, broken) {
		t.Errorf("after the last byte: err = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Expand(ctx, bytes.NewReader(archive), ix, empty(t), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestExpandWantsAnEmptyWritableFile(t *testing.T) {
	archive, ix := one(t)
	used := empty(t)
	if _, err := used.WriteString("old bytes that would show through holes"); err != nil {
		t.Fatal(err)
	}
	if err := Expand(t.Context(), bytes.NewReader(archive), ix, used, nil); err == nil {
		t.Error("a file with content was accepted")
	}
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	if err := Expand(t.Context(), bytes.NewReader(archive), ix, readOnly, nil); err == nil {
		t.Error("a file that cannot be written was accepted")
	}
}

func TestVerifyFindsTheFrame(t *testing.T) {
	archive, ix := compress(t, sample())
	out := empty(t)
	if err := Expand(t.Context(), bytes.NewReader(archive), ix, out, nil); err != nil {
		t.Fatal(err)
	}
	for frame, at := range map[int]int64{0: 5000, 1: FrameSize + 1, 3: ix.Size - 1} {
		was := make([]byte, 1)
		if _, err := out.ReadAt(was, at); err != nil {
			t.Fatal(err)
		}
		if _, err := out.WriteAt([]byte{was[0] ^ 1}, at); err != nil {
			t.Fatal(err)
		}
		if bad, err := Verify(t.Context(), ix, out); err != nil || len(bad) != 1 || bad[0] != frame {
			t.Errorf("byte %d changed: bad frames %v, %v", at, bad, err)
		}
		if _, err := out.WriteAt(was, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int64{0, 4096, ix.Size - 1, ix.Size + 1} {
		if err := out.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), ix, out); !errors.Is(err, ErrDigest) {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

func TestIndexRefuses(t *testing.T) {
	_, ix := one(t)
	raw, err := ix.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseIndex(raw); err != nil {
		t.Fatal(err)
	}
	tests := map[string][2]string{
		"schema":          {`"schema":1`, `"schema":2`},
		"unknown field":   {`"schema":1`, `"schema":1,"x":1`},
		"duplicate":       {`"schema":1`, `"schema":1,"schema":1`},
		"upper case":      {`"schema":1`, `"Schema":1`},
		"white space":     {`"schema":1`, `"schema": 1`},
		"frame size":      {`"frame_size":8388608`, `"frame_size":8388609`},
		"small frames":    {`"frame_size":8388608`, `"frame_size":4096`},
		"huge frames":     {`"frame_size":8388608`, `"frame_size":1073741824`},
		"size":            {`"size":8397608`, `"size":8397609000000000`},
		"size zero":       {`"size":8397608`, `"size":0`},
		"negative size":   {`"size":8397608`, `"size":-1`},
		"too few frames":  {`"size":8397608`, `"size":83976080`},
		"too many frames": {`"size":8397608`, `"size":8397`},
		"gap":             {`"offset":0`, `"offset":1`},
		"negative offset": {`"offset":0`, `"offset":-1`},
		"length":          {`"length":`, `"length":99999999`},
		"length zero":     {`"length":`, `"length":0`},
		"not a digest":    {`"compressed":"`, `"compressed":"x`},
		"no content":      {`"content":"`, `"content":"","y":"`},
		"zero and more":   {`"}`, `","zero":true}`},
		"zero said false": {`"}`, `","zero":false}`},
		"cut":             {"]}\n", ""},
		"more":            {"]}\n", "]}\n{}"},
		"huge number":     {`"schema":1`, `"schema":1e99999`},
		"null frames":     {string(raw[bytes.IndexByte(raw, '['):]), "null}\n"},
	}
	for name, test := range tests {
		changed := strings.Replace(string(raw), test[0], test[1], 1)
		if changed == string(raw) {
			t.Fatalf("%s: %q is not in the index", name, test[0])
		}
		if _, err := ParseIndex([]byte(changed)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ParseIndex(make([]byte, MaxIndex+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too long: %v", err)
	}
}

func FuzzParseIndex(f *testing.F) {
	_, ix := one(f)
	raw, err := ix.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("{\"schema\":1,\"frame_size\":65536,\"size\":1,\"frames\":[\n]}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ix, err := ParseIndex(raw)
		if err != nil {
			return
		}
		again, err := ix.Encode()
		if err != nil || !bytes.Equal(raw, again) {
			t.Errorf("accepted %q, writes %q, %v", raw, again, err)
		}
		if ix.ArchiveSize() < 1 || ix.DataSize() > ix.Size {
			t.Errorf("archive of %d bytes, data of %d in %d", ix.ArchiveSize(), ix.DataSize(), ix.Size)
		}
	})
}

// The checksum that a frame may carry is not what is trusted: changed bytes are
// refused whatever it says, and where the index promises a frame whose checksum
// is wrong, the digest of its content decides.
func TestFrameChecksum(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	good := encode(t, data, zstd.WithEncoderCRC(true))
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	ix := framed(good, int64(len(data)))
	if err := Expand(t.Context(), bytes.NewReader(bad), ix, empty(t), nil); !errors.Is(err, ErrDigest) {
		t.Errorf("wrong checksum, and the index promises the right one: %v", err)
	}
	ix = framed(bad, int64(len(data)))
	ix.Frames[0].Content = hexDigest(sha256.Sum256(data))
	out := empty(t)
	if err := Expand(t.Context(), bytes.NewReader(bad), ix, out, nil); err != nil {
		t.Fatal(err)
	}
	if wrong, err := Verify(t.Context(), ix, out); err != nil || len(wrong) > 0 {
		t.Errorf("the content is right, Verify = %v, %v", wrong, err)
	}
}

// FuzzFrame lets anything be the frame that a signed index promises. What is
// accepted has the promised size and is what another decoder makes of it.
func FuzzFrame(f *testing.F) {
	f.Add(encode(f, []byte("hello")), int64(5))
	f.Add(encode(f, bytes.Repeat([]byte{0, 0, 0, 1}, 4096)), int64(16384))
	f.Add(zeroFrame(300_000), int64(300_000))
	f.Add(stream(f, []byte("hello")), int64(5))
	decoder, err := NewDecoder()
	if err != nil {
		f.Fatal(err)
	}
	reader, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(FrameSize), zstd.IgnoreChecksum(true))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, frame []byte, size int64) {
		if len(frame) == 0 || size < 1 || size > FrameSize || int64(len(frame)) > size+overhead {
			return
		}
		out := empty(t)
		w, err := NewWriter(decoder, framed(frame, size), out)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Packed(t.Context(), 0, frame); err != nil {
			return
		}
		want, err := reader.DecodeAll(frame, nil)
		if err != nil || int64(len(want)) != size || !bytes.Equal(content(t, out), want) {
			t.Errorf("accepted a frame of %d bytes for %d, another decoder reads %d, %v", len(frame), size, len(want), err)
		}
	})
}
