package netstack

import "encoding/binary"

const (
	recordHandshake = 22
	clientHello     = 1
	serverName      = 0
)

// tlsName is the server's name in a TLS client's hello, empty where it tells none;
// ok says that it is a hello, more that this cannot be told yet.
func tlsName(p []byte) (name string, ok, more bool) {
	var hello []byte
	for len(p) > 0 {
		if p[0] != recordHandshake || len(p) > 1 && p[1] != 3 {
			return "", false, false
		}
		if len(p) < 5 {
			return "", false, true
		}
		size := int(binary.BigEndian.Uint16(p[3:]))
		if size == 0 {
			return "", false, false
		}
		hello = append(hello, p[5:min(len(p), 5+size)]...)
		if len(hello) >= 1 && hello[0] != clientHello {
			return "", false, false
		}
		if len(hello) >= 4 {
			if want := 4 + int(hello[1])<<16 + int(hello[2])<<8 + int(hello[3]); len(hello) >= want {
				name, ok = helloName(hello[4:want])
				return name, ok, false
			}
		}
		if len(p) < 5+size {
			return "", false, true
		}
		p = p[5+size:]
	}
	return "", false, true
}

// helloName finds the extension that names the server. A hello that is malformed,
// or has more than one name, is none: which of them counts is the server's choice.
func helloName(p []byte) (name string, ok bool) {
	r := reader{p: p}
	r.skip(2 + 32)      // version, random
	r.skip(r.number(1)) // session
	r.skip(r.number(2)) // ciphers
	r.skip(r.number(1)) // compressions
	if len(r.p) == 0 {
		return "", !r.bad // of before there were extensions
	}
	extensions := reader{p: r.take(r.number(2))}
	names := 0
	for len(extensions.p) > 0 && !extensions.bad {
		kind := extensions.number(2)
		data := reader{p: extensions.take(extensions.number(2))}
		if kind != serverName {
			continue
		}
		list := reader{p: data.take(data.number(2))}
		for len(list.p) > 0 && !list.bad {
			list.skip(1) // its kind: there is one only
			name = string(list.take(list.number(2)))
			names++
		}
		extensions.bad = extensions.bad || list.bad || data.bad || len(data.p) > 0 || name == ""
	}
	return name, !r.bad && !extensions.bad && len(r.p) == 0 && names <= 1
}

// reader reads numbers and parts of a message; bad once it was too short.
type reader struct {
	p   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.p) {
		r.bad, r.p = true, nil
		return nil
	}
	part := r.p[:n]
	r.p = r.p[n:]
	return part
}

func (r *reader) skip(n int) { r.take(n) }

func (r *reader) number(size int) int {
	n := 0
	for _, b := range r.take(size) {
		n = n<<8 | int(b)
	}
	return n
}
