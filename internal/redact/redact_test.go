package redact

import (
	"strings"
	"testing"
)

func TestSecretsAreTakenOut(t *testing.T) {
	r := New([]string{"ANTHROPIC_API_KEY=correct-horse-battery", "SSH_AUTH_SOCK=/tmp/agent.1", "HOME=/home/ana-lives-here", "MY_TOKEN=short"})
	for text, secret := range map[string]string{
		"env: correct-horse-battery.":                                     "correct-horse",
		"proxy http://ana:pass%20word@10.0.0.1:3128/":                     "pass%20word",
		"Authorization: Bearer abcdefgh12345678":                          "abcdefgh12345678",
		`{"apiKey": "abcdef123456"}`:                                      "abcdef123456",
		"api_key=abcdef123456 next":                                       "abcdef123456",
		"x sk-ant-api03-abcdefghijklmnop y":                               "abcdefghijklmnop",
		"ghp_abcdefghijklmnopqrstuvwxyz0123":                              "abcdefghijklmn",
		"AKIAABCDEFGHIJKLMNOP":                                            "AKIAABCDEFGHIJKLMNOP",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jV": "eyJzdWIi",
		"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\naC1r\n-----END OPENSSH PRIVATE KEY-----": "b3BlbnNz",
		"-----BEGIN PRIVATE KEY-----\ncut off here":                                              "cut off",
		"RWQ" + strings.Repeat("A1", 100):                                                        "A1A1A1",
		`"refresh_token":"1//0abcdefgh"`:                                                         "0abcdefgh",
	} {
		clean, taken := r.Text("before " + text + " after")
		if strings.Contains(clean, secret) || taken == 0 || !strings.HasPrefix(clean, "before ") {
			t.Errorf("%q became %q (%d)", text, clean, taken)
		}
	}
}

func TestOrdinaryTextStays(t *testing.T) {
	r := New([]string{"SSH_AUTH_SOCK=/tmp/agent.1", "HOME=/home/ana", "A_KEY=short"})
	for _, text := range []string{
		"smolvm 1.2.3 on linux/amd64", "https://example.org/images/manifest.json", "signed by 58A232C03BD932F1",
		"sha256 " + strings.Repeat("ab", 32), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGRlbW8", "/home/ana/.smolvm", "short",
		"/tmp/agent.1", "the key is on the seed disk", "RWTUvGp2rSpiCr2Yl0Bf0vRbWW5hFVVJxpXIFWWzmXKPQKkfuPRLTd7A",
	} {
		if clean, taken := r.Text(text); clean != text || taken != 0 {
			t.Errorf("%q became %q", text, clean)
		}
	}
}

// FuzzText holds that no value of a secret variable survives, whatever is around it.
func FuzzText(f *testing.F) {
	f.Add("a", "b")
	f.Add("-----BEGIN PRIVATE KEY-----", "://x@")
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "Zq9-unlikely-Secret"
		clean, _ := New([]string{"API_TOKEN=" + secret}).Text(before + secret + after)
		if strings.Contains(clean, secret) && !strings.Contains(before+after, secret) {
			t.Errorf("%q kept the secret: %q", before+"…"+after, clean)
		}
	})
}
