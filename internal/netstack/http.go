package netstack

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// errAmbiguous says that a request of HTTP can be read in more than one way. Where
// its name decides, it must not be left to the server which.
var errAmbiguous = errors.New("its HTTP is not written as the standard wants it")

// request is what the head of a request of HTTP/1 tells.
type request struct {
	connect bool   // a tunnel to host is asked for
	proxied bool   // the target names its host, as for a proxy
	host    string // empty: none is told
	port    uint16 // of the target; 0: none is told
	length  uint64 // of the body
	chunked bool
	upgrade string // the protocol it would change to
}

// told is what a request is for, over a connection for a port.
func (r request) told(port uint16) told {
	if r.proxied {
		port = r.port
	}
	return told{r.host, port, r.proxied}
}

// endOfHead is where the head ends that p begins with; -1: not in p.
func endOfHead(p []byte) int {
	at := bytes.Index(p, []byte("\r\n\r\n"))
	if at < 0 {
		return -1
	}
	return at + 4
}

// parseRequest reads a head, strictly.
func parseRequest(head []byte) (request, error) {
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	words := strings.Split(lines[0], " ")
	if len(words) != 3 || !isToken(words[0]) || words[2] != "HTTP/1.1" && words[2] != "HTTP/1.0" {
		return request{}, errAmbiguous
	}
	r, err := parseTarget(words[0] == "CONNECT", words[1])
	if err != nil {
		return r, err
	}
	fields, err := parseFields(lines[1:])
	if err == nil {
		err = r.frame(fields, words[2] == "HTTP/1.1")
	}
	if err != nil || r.connect {
		return r, err
	}
	return r, r.setHost(fields, words[2] == "HTTP/1.1")
}

// parseTarget reads the target of a request line.
func parseTarget(connect bool, target string) (r request, err error) {
	if strings.ContainsFunc(target, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return r, errAmbiguous
	}
	scheme, rest, absolute := strings.Cut(target, "://")
	switch {
	case connect:
		r.connect, r.proxied = true, true
		r.host, r.port, err = parseAuthority(target)
		if r.port == 0 {
			err = errAmbiguous
		}
	case strings.HasPrefix(target, "/"), target == "*":
	case absolute:
		r.proxied = true
		authority := rest
		if at := strings.IndexAny(rest, "/?#"); at >= 0 {
			authority = rest[:at]
		}
		r.host, r.port, err = parseAuthority(authority)
		if standard := map[string]uint16{"http": 80, "https": 443, "ftp": 21}[strings.ToLower(scheme)]; standard == 0 {
			err = errAmbiguous
		} else if r.port == 0 {
			r.port = standard
		}
	default:
		err = errAmbiguous
	}
	return r, err
}

// parseAuthority reads host:port; the port is 0 where there is none.
func parseAuthority(text string) (host string, port uint16, err error) {
	host, number := text, ""
	inner, bracket := strings.CutPrefix(text, "[")
	colon := false
	if bracket {
		host, number, _ = strings.Cut(inner, "]")
		number, colon = strings.CutPrefix(number, ":")
		if !colon && number != "" || len(host) == len(inner) {
			return "", 0, errAmbiguous
		}
	} else {
		host, number, colon = strings.Cut(text, ":")
	}
	if colon {
		n, bad := strconv.ParseUint(number, 10, 16)
		if bad != nil || n == 0 {
			return "", 0, errAmbiguous
		}
		port = uint16(n)
	}
	if host == "" || strings.ContainsAny(host, " @/,\t") {
		return "", 0, errAmbiguous
	}
	return host, port, nil
}

// parseFields reads those header fields that say for whom a request is and how
// long. None of them may come twice.
func parseFields(lines []string) (map[string]string, error) {
	fields := map[string]string{}
	for _, line := range lines {
		name, value, found := strings.Cut(line, ":")
		if !found || !isToken(name) || strings.ContainsAny(value, "\r\n\x00") {
			return nil, errAmbiguous
		}
		switch name = strings.ToLower(name); name {
		case "host", "content-length", "transfer-encoding", "upgrade":
			if _, twice := fields[name]; twice {
				return nil, errAmbiguous
			}
			fields[name] = strings.Trim(value, " \t")
		}
	}
	return fields, nil
}

// frame notes how long the body is.
func (r *request) frame(fields map[string]string, keeps bool) (err error) {
	length, sized := fields["content-length"]
	coding, coded := fields["transfer-encoding"]
	r.upgrade = fields["upgrade"]
	switch {
	case coded:
		r.chunked = true
		if sized || !keeps || !strings.EqualFold(coding, "chunked") {
			return errAmbiguous
		}
	case sized:
		if r.length, err = strconv.ParseUint(length, 10, 62); err != nil || strings.HasPrefix(length, "+") {
			return errAmbiguous
		}
	}
	if r.connect && (r.chunked || r.length > 0 || r.upgrade != "") {
		return errAmbiguous
	}
	return nil
}

// setHost takes the Host field. It has to say what the target says, if that says it.
func (r *request) setHost(fields map[string]string, needed bool) error {
	text, there := fields["host"]
	if !there {
		if needed && !r.proxied {
			return errAmbiguous
		}
		return nil
	}
	host, _, err := parseAuthority(text)
	if err != nil || r.proxied && !strings.EqualFold(host, r.host) {
		return errAmbiguous
	}
	r.host = host
	return nil
}

// chunkSize reads the line in front of a chunk, without its end.
func chunkSize(line []byte) (uint64, error) {
	digits, _, _ := bytes.Cut(line, []byte(";"))
	if bytes.ContainsAny(line, "\r\n\x00") {
		return 0, errAmbiguous
	}
	n, err := strconv.ParseUint(string(digits), 16, 62)
	if err != nil || digits[0] == '+' {
		return 0, errAmbiguous
	}
	return n, nil
}

// isToken tells whether text is what methods and names of header fields are.
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(c rune) bool { return !isTokenByte(c) })
}

func isTokenByte(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c < 0x80 && strings.ContainsRune("!#$%&'*+-.^_`|~", c)
}
