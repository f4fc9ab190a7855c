package wire

import (
	"strings"
	"testing"
)

func TestCheckAddress(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://example.org/login?a=b&c=%20#x": true, "http://127.0.0.1:8080/": true, "HTTPS://Example.org": true,
		"": false, "file:///etc/passwd": false, "javascript:alert(1)": false, "https://": false, "example.org": false,
		"https://example.org/\x1b[2J": false, "https://example.org/a b": false, "https://exämple.org/": false,
		"https://user:pass@example.org/": false, "https://example.org/\n--new-window": false, "--help": false,
		"https://example.org/" + strings.Repeat("x", MaxAddress): false, "smb://x/y": false, "https://[::1": false,
	} {
		if err := CheckAddress(text); (err == nil) != ok {
			t.Errorf("%.60q: %v", text, err)
		} else if err != nil && strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%q repeats what is hostile", err)
		}
	}
}

func TestCallback(t *testing.T) {
	for address, want := range map[string]int{
		"https://a.example/o?redirect_uri=http%3A%2F%2Flocalhost%3A54545%2Fcallback&state=1": 54545,
		"https://a.example/o?redirect_uri=http://127.0.0.1:1455/auth/callback":               1455,
		"https://a.example/o?redirect_uri=http://[::1]:1455/":                                1455,
		"https://a.example/o?callback_url=http://localhost:2000":                             2000,
		"https://a.example/o?redirect_uri=http://localhost:22/":                              0,
		"https://a.example/o?redirect_uri=http://localhost/":                                 0,
		"https://a.example/o?redirect_uri=https://localhost:3000/":                           0,
		"https://a.example/o?redirect_uri=http://10.0.0.1:3000/":                             0,
		"https://a.example/o?redirect_uri=http://localhost.evil.example:3000/":               0,
		"https://a.example/o?redirect_uri=http://localhost:99999/":                           0,
		"https://a.example/o": 0, "%": 0,
	} {
		if got := Callback(address); got != want {
			t.Errorf("%s: %d, want %d", address, got, want)
		}
	}
}
