package netstack

import (
	"fmt"
	"slices"
	"testing"
)

// FuzzAnswers takes the parameters that hide names out of answers, and wants that
// all else of them means what it meant.
func FuzzAnswers(f *testing.F) {
	question := query("a.example", typeHTTPS, false)
	answer := append([]byte(nil), question...)
	answer[2], answer[7], answer[9] = 0x81, 1, 1
	answer = append(answer, 0xc0, 12, 0, typeHTTPS, 0, 1, 0, 0, 0, 60, 0, 13, 0, 1, 0, 0, keyECH, 0, 6, 1, 2, 3, 4, 5, 6)
	tail := len(answer)
	answer = append(answer, 0xc0, 12, 0, typeCNAME, 0, 1, 0, 0, 0, 60, 0, 4, 1, 'b', 0xc0, 14)
	f.Add(answer)
	answer[9] = 2
	f.Add(append(append([]byte(nil), answer...), 0xc0, byte(tail+12), 0, typeMX, 0, 1, 0, 0, 0, 60, 0, 4, 0, 10, 0xc0, byte(tail)))
	f.Fuzz(func(t *testing.T, m []byte) {
		if len(m) < dnsHeader {
			return
		}
		q, err := parseAnswer(m)
		if err != nil {
			return
		}
		before, hidden, err := records(m, q)
		if err != nil {
			return
		}
		out, err := withoutECH(m, q)
		if err != nil {
			return // it is not handed on
		}
		if throughCut(m, q) {
			return // a name made of what hides names: no resolver writes such
		}
		after, left, err := records(out, q)
		if err != nil {
			t.Fatalf("what was left cannot be read: %v\n%x\n%x", err, m, out)
		}
		if left {
			t.Fatalf("a name can still be hidden:\n%x\n%x", m, out)
		}
		if !hidden && string(out) != string(m) {
			t.Fatalf("changed without need:\n%x\n%x", m, out)
		}
		if fmt.Sprint(before) != fmt.Sprint(after) {
			t.Fatalf("records %v became %v:\n%x\n%x", before, after, m, out)
		}
	})
}

// records are the owners and kinds of a message's records, and the names that the
// kinds hold that clients follow; hides tells whether one has a parameter that hides names.
func records(m []byte, q question) (all []string, hides bool, err error) {
	var bad error
	err = eachRecord(m, q.end, func(r resource) {
		owner, _, err := readName(m, r.owner)
		text := fmt.Sprint(owner, " ", r.kind, " ", r.ttl)
		if r.kind == typeCNAME || r.kind == typeNS || r.kind == typeDNAME {
			name, _, inner := readName(m, r.data)
			if inner != nil {
				bad = inner
			}
			text += " " + name
		}
		if err != nil {
			bad = err
		}
		all = append(all, text)
	})
	if err == nil {
		err = bad
	}
	_, size, failed := findECH(m, q)
	return all, size > 0 && failed == nil, err
}

// throughCut tells whether a record's name is partly written in what is cut out.
func throughCut(m []byte, q question) bool {
	cut, rest := map[int]bool{}, slices.Clone(m)
	for {
		from, size, err := findECH(rest, q)
		if err != nil || size == 0 {
			break
		}
		for at := range size {
			cut[from+at] = true
		}
		rest[from], rest[from+1] = 0xff, 0xff
	}
	through := false
	_ = eachRecord(m, q.end, func(r resource) {
		for _, at := range namesOf(m, r) {
			through = through || crosses(m, at, cut)
		}
	})
	return through
}

// crosses follows a name that can be read.
func crosses(m []byte, at int, cut map[int]bool) bool {
	for jumps := 0; at+1 < len(m) && m[at] != 0 && jumps < 64; {
		length := int(m[at])
		end := at + 1 + length
		if length >= 0xc0 {
			end = at + 2
		}
		for ; at < end; at++ {
			if cut[at] {
				return true
			}
		}
		if length >= 0xc0 {
			at = (length&0x3f)<<8 | int(m[end-1])
			jumps++
		}
	}
	return cut[at]
}
