package release

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/unpack"
)

func newKey() (public, private string, err error) {
	private, public, err = trust.NewKey(rand.Reader)
	return public, private, err
}

// entries takes a tar apart.
func entries(t testing.TB, data []byte) []item {
	t.Helper()
	var items []item
	reader := tar.NewReader(bytes.NewReader(data))
	for {
		head, err := reader.Next()
		if err != nil {
			return items
		}
		body, err := io.ReadAll(reader)
		check(t, err)
		items = append(items, item{name: head.Name, data: body})
	}
}

// packed puts one together again.
func packed(items []item) []byte {
	var out bytes.Buffer
	w := &tarWriter{dst: &out}
	for _, i := range items {
		_ = w.add(i.name, i.data)
	}
	_ = w.end()
	return out.Bytes()
}

// foreign packs the same entries as another program would.
func foreign(items []item, change func(i int, h *tar.Header)) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i, it := range items {
		h := &tar.Header{Name: it.name, Mode: 0o644, Size: int64(len(it.data)), Typeflag: tar.TypeReg}
		change(i, h)
		_ = w.WriteHeader(h)
		if h.Size > 0 {
			_, _ = w.Write(it.data)
		}
	}
	_ = w.Close()
	return out.Bytes()
}

// changed gives the list another value.
func changed(t testing.TB, items []item, change func(l map[string]any)) []item {
	t.Helper()
	var l map[string]any
	check(t, json.Unmarshal(items[0].data, &l))
	change(l)
	raw, err := json.MarshalIndent(l, "", " ")
	check(t, err)
	return append([]item{{name: listFile, data: raw}}, items[1:]...)
}

func isFrame(i item) bool { return strings.HasPrefix(i.name, "frames/") }

// TestHostileTars: each is refused with one clear error, and nothing of it is
// visible. The same home then loads the right one.
func TestHostileTars(t *testing.T) {
	good := entries(t, saved(t))
	if !bytes.Equal(packed(good), saved(t)) {
		t.Fatal("the test takes tars apart in the wrong way")
	}
	first := slices.IndexFunc(good, isFrame)
	edit := func(change func(items []item) []item) []byte { return packed(change(slices.Clone(good))) }
	swap := func(i, j int) []byte {
		return edit(func(items []item) []item { items[i], items[j] = items[j], items[i]; return items })
	}
	list := func(change func(l map[string]any)) []byte { return packed(changed(t, good, change)) }
	raw := func(change func(b []byte) []byte) []byte { return change(slices.Clone(saved(t))) }
	huge := header("smolvm-images.json", 1<<33-1)
	tests := map[string]struct {
		tar  []byte
		says string
	}{
		"empty":            {nil, "not a tar of images"},
		"zeros":            {make([]byte, 4096), "not a tar of images"},
		"gzip":             {append([]byte{0x1f, 0x8b, 8}, make([]byte, 2000)...), "not a tar of images"},
		"text":             {bytes.Repeat([]byte("hello "), 1000), "not a tar of images"},
		"another tar":      {packed([]item{{name: "etc/passwd", data: []byte("x")}}), "etc/passwd"},
		"absolute":         {edit(func(i []item) []item { i[first].name = "/" + i[first].name; return i }), "follows where"},
		"dot dot":          {edit(func(i []item) []item { i[first].name = "../" + i[first].name; return i }), "follows where"},
		"escape":           {edit(func(i []item) []item { i[first].name = "\x1b[2J"; return i }), `"\x1b[2J" follows where`},
		"wrong order":      {swap(first, first+1), "follows where"},
		"frames first":     {swap(1, first), "follows where"},
		"missing frame":    {edit(func(i []item) []item { return slices.Delete(i, first, first+1) }), "follows where"},
		"missing last":     {edit(func(i []item) []item { return i[:len(i)-1] }), "ends where"},
		"missing index":    {edit(func(i []item) []item { return slices.Delete(i, first-1, first) }), "follows where"},
		"no signature":     {edit(func(i []item) []item { return slices.Delete(i, 2, 3) }), "follows where"},
		"twice":            {edit(func(i []item) []item { return slices.Insert(i, first, i[first]) }), "follows where"},
		"extra at the end": {edit(func(i []item) []item { return append(i, item{name: "frames/x", data: []byte("x")}) }), "more follows"},
		"extra first":      {edit(func(i []item) []item { return slices.Insert(i, 0, item{name: "README", data: []byte("x")}) }), "README"},
		"short frame":      {edit(func(i []item) []item { i[first].data = i[first].data[:1000]; return i }), "instead of"},
		"long frame":       {edit(func(i []item) []item { i[first].data = append(i[first].data, 1); return i }), "at most"},
		"empty frame":      {edit(func(i []item) []item { i[first].data = nil; return i }), "instead of"},
		"other frame":      {edit(func(i []item) []item { i[first].data = bytes.Repeat([]byte{7}, len(i[first].data)); return i }), "digest mismatch"},
		"other manifest":   {edit(func(i []item) []item { i[1].data = []byte("{}"); return i }), "signature"},
		"long manifest":    {edit(func(i []item) []item { i[1].data = make([]byte, 5<<20); return i }), "at most"},
		"long signature":   {edit(func(i []item) []item { i[2].data = make([]byte, 5<<10); return i }), "at most"},
		"trailing":         {append(slices.Clone(saved(t)), 'x'), "bytes follow its end"},
		"trailing zeros":   {append(slices.Clone(saved(t)), make([]byte, 9216)...), "bytes follow its end"},
		"two tars":         {append(slices.Clone(saved(t)), saved(t)...), "bytes follow its end"},
		"half an end":      {raw(func(b []byte) []byte { return b[:len(b)-512] }), "cut off"},
		"no end":           {raw(func(b []byte) []byte { return b[:len(b)-1024] }), "cut off"},
		"end not zero":     {raw(func(b []byte) []byte { b[len(b)-1] = 1; return b }), "more follows"},
		"hidden in padding": {raw(func(b []byte) []byte {
			b[512+len(good[0].data)] = 1
			return b
		}), "hidden"},
		"huge header":    {append(huge[:], make([]byte, 4096)...), "at most"},
		"newer format":   {list(func(l map[string]any) { l["schema"] = 2; l["news"] = true }), "format 2"},
		"older format":   {list(func(l map[string]any) { l["schema"] = 0 }), "format 0"},
		"unknown field":  {list(func(l map[string]any) { l["news"] = 1 }), "not in the form"},
		"no images":      {list(func(l map[string]any) { l["images"] = []any{} }), "0 images"},
		"unknown image":  {unknown(t, good), "nobody"},
		"relative":       {list(func(l map[string]any) { l["manifest"] = "manifest.json" }), "not the address"},
		"escape in name": {list(func(l map[string]any) { l["manifest"] = "https://x/\x1b[2J" }), "not the address"},
		"signer":         {list(func(l map[string]any) { l["signers"] = []string{"../../x"} }), "id of a key"},
		"spaces":         {edit(func(i []item) []item { i[0].data = append([]byte(" "), i[0].data...); return i }), "not in the form"},
		"json twice":     {edit(func(i []item) []item { i[0].data = append(slices.Clone(i[0].data), i[0].data...); return i }), listFile},
		"symbolic link": {foreign(good, func(i int, h *tar.Header) {
			if i == first {
				h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, "/etc/passwd", 0
			}
		}), "not one that"},
		"hard link": {foreign(good, func(i int, h *tar.Header) {
			if i == first {
				h.Typeflag, h.Linkname, h.Size = tar.TypeLink, listFile, 0
			}
		}), "not one that"},
		"device": {foreign(good, func(i int, h *tar.Header) {
			if i == first {
				h.Typeflag, h.Size = tar.TypeChar, 0
			}
		}), "not one that"},
		"FIFO":   {foreign(good, func(_ int, h *tar.Header) { h.Typeflag, h.Size = tar.TypeFifo, 0 }), "not one that"},
		"folder": {foreign(good, func(_ int, h *tar.Header) { h.Typeflag, h.Size = tar.TypeDir, 0 }), "not a tar of images"},
		"setuid": {foreign(good, func(i int, h *tar.Header) {
			if i == first {
				h.Mode = 0o4755
			}
		}), "not one that"},
		"PAX": {foreign(good, func(i int, h *tar.Header) {
			if i == first {
				h.PAXRecords = map[string]string{"SMOLVM.x": strings.Repeat("x", 1<<16)}
			}
		}), "follows where"},
		"long name": {foreign(good, func(i int, h *tar.Header) {
			if i == first {
				h.Name, h.Format = strings.Repeat("x/", 5000), tar.FormatGNU
			}
		}), "follows where"},
		"sparse": {sparse(t, good, first), "not one that"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			_, err := h.load(t.Context(), bytes.NewReader(tt.tar))
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("%v", err)
			}
			if code := fault.CodeOf(err); code != fault.Trust && code != fault.NotFound {
				t.Errorf("code %s: %v", code, err)
			}
			if strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("%q", err)
			}
			h.isEmpty(t)
		})
	}
}

// sparse is a tar whose frame claims to be a GNU sparse file.
func sparse(t *testing.T, items []item, at int) []byte {
	t.Helper()
	data := packed(items)
	offset := 0
	for _, i := range items[:at] {
		offset += int(entrySize(int64(len(i.data))))
	}
	block := data[offset : offset+blockSize]
	block[156] = 'S'
	copy(block[257:], "ustar  \x00")
	copy(block[386:], fmt.Sprintf("%011o\x00%011o\x00", 0, 512))
	copy(block[148:], "        ")
	sum := 0
	for _, c := range block {
		sum += int(c)
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	return data
}

// TestEveryCutAndFlip: a tar that ends early anywhere, or in which any sampled
// byte is another, is refused.
func TestEveryCutAndFlip(t *testing.T) {
	whole := saved(t)
	h := newHome(t)
	c := h.catalogue(t, publisher(t).Address)
	head, comment := 0, 0 // where the frames begin, and the comment of a signature that says itself that nobody believes it
	for _, i := range entries(t, whole) {
		if isFrame(i) {
			break
		}
		if strings.HasSuffix(i.name, ".minisig") {
			comment = head + blockSize
		}
		head += int(entrySize(int64(len(i.data))))
	}
	var places []int
	for at := 0; at < head+blockSize; at += 97 {
		places = append(places, at)
	}
	for at := head; at < len(whole); at += 9973 {
		places = append(places, at)
	}
	places = append(places, len(whole)-1, len(whole)-blockSize, len(whole)-1025)
	dir := t.TempDir()
	for n, at := range places {
		if at >= comment && at < comment+len("untrusted comment: signature by 0123456789ABCDEF") {
			continue
		}
		h := homeAt(t, fmt.Sprintf("%s/%d", dir, n))
		if n%4 == 0 {
			if _, err := h.load(t.Context(), bytes.NewReader(whole[:at])); err == nil {
				t.Errorf("cut at %d of %d: loaded", at, len(whole))
			}
			h.isEmpty(t)
		}
		bad := slices.Clone(whole)
		bad[at] ^= 1
		if l, err := h.load(t.Context(), bytes.NewReader(bad)); err == nil && !onlyAddress(l, c.Address) {
			t.Errorf("byte %d of %d changed: loaded", at, len(whole))
		} else if err != nil {
			h.isEmpty(t)
		}
	}
}

// onlyAddress: nobody has signed the address, and the images belong to what it says.
func onlyAddress(l Loaded, address string) bool {
	return l.Address != address && len(l.Address) == len(address)
}

// A signed index that needs more than there is, is refused before the first frame.
func TestLoadKnowsTheSpaceBeforehand(t *testing.T) {
	h := newHome(t)
	made := publisher(t)
	ix := unpack.Index{Schema: 1, FrameSize: unpack.FrameSize, Size: 256 << 30}
	var sum [32]byte
	for i := range ix.Size / ix.FrameSize {
		binary.LittleEndian.PutUint64(sum[:], uint64(i))
		name := fmt.Sprintf("%x", sum)
		ix.Frames = append(ix.Frames, unpack.Frame{Offset: i * 1000, Length: 1000, Compressed: name, Content: name})
	}
	raw, err := ix.Encode()
	check(t, err)
	free, err := h.store.Free()
	check(t, err)
	if free > ix.Size {
		t.Skip("this disk is too large")
	}
	m := made.Manifest
	row := m.Rows[0]
	layer := row.Layers[0]
	layer.Index.SHA256, layer.Index.Size = digest(raw), int64(len(raw))
	layer.Index.File = "base-" + digest(raw) + ".json"
	layer.Archive.Size, layer.Content.Size = ix.ArchiveSize(), ix.Size
	row.Layers = append(row.Layers[:0:0], layer)
	row.Kernel.Modules = nil
	m.Rows = append(m.Rows[:0:0], row)
	items := resigned(t, m, saved(t))
	items = append(items, item{name: indexEntry(row.Kernel.Image.Index.SHA256), data: find(t, saved(t), indexEntry(row.Kernel.Image.Index.SHA256))},
		item{name: indexEntry(layer.Index.SHA256), data: raw})
	data := packed(items)
	_, err = h.load(t.Context(), bytes.NewReader(data[:len(data)-1024]))
	if fault.CodeOf(err) != fault.Storage || !strings.Contains(err.Error(), "are needed") || !strings.Contains(err.Error(), "are free") {
		t.Errorf("%v", err)
	}
	h.isEmpty(t)
}

func find(t *testing.T, data []byte, name string) []byte {
	t.Helper()
	for _, i := range entries(t, data) {
		if i.name == name {
			return i.data
		}
	}
	t.Fatalf("no %s", name)
	return nil
}

// resigned is the beginning of a tar of claude-code's image by another manifest.
func resigned(t *testing.T, m manifest.Manifest, data []byte) []item {
	t.Helper()
	raw, err := manifest.Encode(m)
	check(t, err)
	signature, id, err := trust.Sign(raw, publisher(t).PrivateKey)
	check(t, err)
	l, err := parseList(entries(t, data)[0].data)
	check(t, err)
	l.Images = []Image{claude}
	list, err := l.encode()
	check(t, err)
	return []item{{name: listFile, data: list}, {name: manifestFile, data: raw}, {name: trust.SignatureFile(manifestFile, id), data: signature}}
}

// unknown asks for an image that the manifest does not have.
func unknown(t *testing.T, items []item) []byte {
	t.Helper()
	l, err := parseList(items[0].data)
	check(t, err)
	l.Images = []Image{{"nobody", "amd64", "qemu"}}
	list, err := l.encode()
	check(t, err)
	return packed(append([]item{{name: listFile, data: list}}, items[1:]...))
}
