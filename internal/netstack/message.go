package netstack

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"time"
)

// DNS messages (RFC 1035), as far as this room looks into them: what is asked,
// which addresses are answered, and the parameters that hide names (RFC 9460).
const (
	dnsHeader  = 12
	maxMessage = 65535 // bytes, over TCP

	longestName = 254 // as text

	typeA, typeNS, typeCNAME, typeSOA, typePTR, typeMX = 1, 2, 5, 6, 12, 15
	typeAAAA, typeDNAME, typeOPT, typeSVCB, typeHTTPS  = 28, 39, 41, 64, 65

	rcodeFormat, rcodeServer, rcodeName, rcodeNotImplemented, rcodeRefused = 1, 2, 3, 4, 5

	// edeBlocked is "blocked" of the extended errors (RFC 8914).
	optEDE, edeBlocked = 15, 15
	// keyECH is the parameter that lets a client hide the name it connects to.
	keyECH = 5
)

var errMessage = errors.New("malformed DNS message")

// question is what a query asks.
type question struct {
	name string // canonical
	kind uint16
	end  int  // of the question in the message
	edns bool // the query knows of extensions
}

// parseQuery reads a query; the response code of what cannot be answered is in the error's place.
func parseQuery(m []byte) (q question, rcode int) {
	if len(m) < dnsHeader || m[2]&0x80 != 0 {
		return q, -1 // nothing that can be answered
	}
	if m[2]>>3&0xf != 0 {
		return q, rcodeNotImplemented
	}
	if binary.BigEndian.Uint16(m[4:]) != 1 {
		return q, rcodeFormat
	}
	name, at, err := readName(m, dnsHeader)
	if err != nil || at+4 > len(m) {
		return q, rcodeFormat
	}
	q = question{name: name, kind: binary.BigEndian.Uint16(m[at:]), end: at + 4}
	err = eachRecord(m, q.end, func(r resource) { q.edns = q.edns || r.kind == typeOPT })
	if err != nil {
		return q, rcodeFormat
	}
	return q, 0
}

// dots marks those that are no ends of labels, as is usual in text: the one label
// "ok.example" is not the name ok.example.
var dots = strings.NewReplacer(".", `\.`, `\`, `\\`)

// readName reads a name and gives where the message goes on behind it.
func readName(m []byte, at int) (name string, next int, err error) {
	var text strings.Builder
	next = -1
	for jumps := 0; ; {
		if at >= len(m) {
			return "", 0, errMessage
		}
		size := int(m[at])
		switch {
		case size == 0:
			if next < 0 {
				next = at + 1
			}
			return strings.ToLower(text.String()), next, nil
		case size >= 0xc0:
			if at+1 >= len(m) || jumps > 32 {
				return "", 0, errMessage
			}
			if next < 0 {
				next = at + 2
			}
			jumps++
			at = (size&0x3f)<<8 | int(m[at+1])
			continue
		case size > 63 || at+1+size > len(m) || text.Len()+size > longestName:
			return "", 0, errMessage
		}
		if text.Len() > 0 {
			text.WriteByte('.')
		}
		_, _ = dots.WriteString(&text, string(m[at+1:at+1+size]))
		at += 1 + size
	}
}

// resource is one record of a message.
type resource struct {
	owner      int // where its name begins
	kind       uint16
	ttl        time.Duration
	data, size int // where its data begins, and how long it is
}

// eachRecord calls f with each record behind the question.
func eachRecord(m []byte, at int, f func(resource)) error {
	count := 0
	for i := 6; i < dnsHeader; i += 2 {
		count += int(binary.BigEndian.Uint16(m[i:]))
	}
	for range count {
		_, next, err := readName(m, at)
		if err != nil || next+10 > len(m) {
			return errMessage
		}
		r := resource{
			owner: at, kind: binary.BigEndian.Uint16(m[next:]), ttl: time.Duration(binary.BigEndian.Uint32(m[next+4:])) * time.Second,
			data: next + 10, size: int(binary.BigEndian.Uint16(m[next+8:])),
		}
		if r.data+r.size > len(m) {
			return errMessage
		}
		f(r)
		at = r.data + r.size
	}
	return nil
}

// addresses calls f with the addresses that an answer gives.
func addresses(m []byte, q question, f func(netip.Addr, time.Duration)) error {
	return eachRecord(m, q.end, func(r resource) {
		if a, ok := netip.AddrFromSlice(m[r.data : r.data+r.size]); ok && (r.kind == typeA && a.Is4() || r.kind == typeAAAA && a.Is6()) {
			f(a.Unmap(), r.ttl)
		}
	})
}

// answers tells whether a message is the answer to a query.
func answers(m, query []byte, q question) bool {
	if len(m) < dnsHeader || m[0] != query[0] || m[1] != query[1] || m[2]&0x80 == 0 {
		return false
	}
	if binary.BigEndian.Uint16(m[4:]) == 0 {
		return m[3]&0xf != 0 // some leave the question out of an error
	}
	name, at, err := readName(m, dnsHeader)
	return err == nil && name == q.name && at+4 <= len(m) && binary.BigEndian.Uint16(m[at:]) == q.kind
}

// reply begins an answer: the query's header and question, with no records.
func reply(query []byte, q question, rcode int) []byte {
	end := max(q.end, dnsHeader)
	m := append(make([]byte, 0, end+64), query[:end]...)
	m[2] = m[2]&0x79 | 0x80   // an answer; opcode and "recursion desired" as asked
	m[3] = 0x80 | byte(rcode) // recursion is available
	copy(m[6:], []byte{0, 0, 0, 0, 0, 0})
	if q.end == 0 {
		copy(m[4:], []byte{0, 0})
	}
	return m
}

// refusal is the answer to a name that the policy closes, with the reason where the
// query knows of reasons.
func refusal(query []byte, q question, reason string) []byte {
	m := reply(query, q, rcodeName)
	if !q.edns {
		return m
	}
	binary.BigEndian.PutUint16(m[10:], 1)
	m = append(m, 0, 0, typeOPT, 0x04, 0xd0, 0, 0, 0, 0)
	m = binary.BigEndian.AppendUint16(m, uint16(6+len(reason)))
	m = binary.BigEndian.AppendUint16(m, optEDE)
	m = binary.BigEndian.AppendUint16(m, uint16(2+len(reason)))
	m = binary.BigEndian.AppendUint16(m, edeBlocked)
	return append(m, reason...)
}

// local is the answer with one address, or with none.
func local(query []byte, q question, a netip.Addr) []byte {
	m := reply(query, q, 0)
	if !a.IsValid() {
		return m
	}
	binary.BigEndian.PutUint16(m[6:], 1)
	m = append(m, 0xc0, dnsHeader, 0, byte(q.kind), 0, 1, 0, 0, 0, 60)
	m = binary.BigEndian.AppendUint16(m, uint16(a.BitLen()/8))
	return append(m, a.AsSlice()...)
}

// withoutECH takes the parameters out by which a client would hide the name that
// it connects to.
func withoutECH(m []byte, q question) ([]byte, error) {
	for {
		from, size, err := findECH(m, q)
		if err != nil || size == 0 {
			return m, err
		}
		if m, err = cutOut(m, q, from, size); err != nil {
			return nil, err
		}
	}
}

// findECH finds the first such parameter.
func findECH(m []byte, q question) (from, size int, err error) {
	var bad error
	err = eachRecord(m, q.end, func(r resource) {
		if size > 0 || bad != nil || r.kind != typeHTTPS && r.kind != typeSVCB || r.size < 3 {
			return
		}
		end := r.data + r.size
		_, at, err := readName(m[:end], r.data+2) // behind the priority
		for err == nil && at+4 <= end && size == 0 {
			length := 4 + int(binary.BigEndian.Uint16(m[at+2:]))
			if at+length > end {
				err = errMessage
			} else if binary.BigEndian.Uint16(m[at:]) == keyECH {
				from, size = at, length
			}
			at += length
		}
		bad = err
	})
	return from, size, errors.Join(err, bad)
}

// cutOut removes bytes of a record's data. What points behind them is corrected.
func cutOut(m []byte, q question, from, size int) ([]byte, error) {
	var records []resource
	if err := eachRecord(m, q.end, func(r resource) { records = append(records, r) }); err != nil {
		return nil, err
	}
	out := append([]byte(nil), m...)
	for _, r := range records {
		for _, at := range namesOf(m, r) {
			correct(out, at, from, size)
		}
		if r.data <= from && from < r.data+r.size {
			binary.BigEndian.PutUint16(out[r.data-2:], uint16(r.size-size))
		}
	}
	return append(out[:from], out[from+size:]...), nil
}

// namesOf are the places of a record where a compressed name may begin.
func namesOf(m []byte, r resource) []int {
	switch r.kind {
	case typeNS, typeCNAME, typePTR, typeDNAME:
		return []int{r.owner, r.data}
	case typeMX:
		return []int{r.owner, r.data + 2}
	case typeSOA:
		if _, second, err := readName(m, r.data); err == nil {
			return []int{r.owner, r.data, second}
		}
	}
	return []int{r.owner}
}

// correct changes the pointer that a name ends in, if it leads behind a cut.
func correct(m []byte, at, from, size int) {
	for at+1 < len(m) {
		length := int(m[at])
		if length >= 0xc0 {
			if to := (length&0x3f)<<8 | int(m[at+1]); to > from {
				to -= size
				m[at], m[at+1] = 0xc0|byte(to>>8), byte(to)
			}
			return
		}
		if length == 0 {
			return
		}
		at += 1 + length
	}
}
