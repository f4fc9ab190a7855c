package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Where the VMM offers vsock instead of a virtio-serial port, the guest connects to
// VsockPort of its host and both prove that they know the boot's token, which no
// other process of either side does: the guest writes one line with a nonce and its
// proof, the host answers with its own. Then the connection is what its purpose
// says; the guest link's opening line follows as on any port.
const (
	// VsockPort is the port of the host on which it waits for the guest.
	VsockPort = 52
	// VsockHost is the host's address (VMADDR_CID_HOST).
	VsockHost = 2
	// OptVsock is "smolvm.vsock": the token of this boot. Without it the link is a
	// virtio-serial port.
	OptVsock = "smolvm.vsock"
	// vsockMagic begins both lines.
	vsockMagic = "SMOLVM-VSOCK/1"
	// MaxVsockLine bounds either line, its newline included.
	MaxVsockLine = 256
)

// Purpose is what a vsock connection of the guest is for.
type Purpose string

// The purposes. A VMM that cannot tell power-off from reboot is told beforehand, on
// a connection that carries nothing else.
const (
	ForLink     Purpose = "link"
	ForShare    Purpose = "share" // mounts, see SharePort
	ForPowerOff Purpose = "poweroff"
	ForReboot   Purpose = "reboot"
)

// VsockHello is the guest's line. nonce is NonceLen bytes in hexadecimal.
func VsockHello(token string, purpose Purpose, nonce string) string {
	return strings.Join([]string{vsockMagic, string(purpose), nonce, prove(token, "guest", purpose, nonce)}, " ") + "\n"
}

// VsockAnswer is the host's line to the guest's.
func VsockAnswer(token string, purpose Purpose, nonce string) string {
	return vsockMagic + " " + prove(token, "host", purpose, nonce) + "\n"
}

// CheckVsockHello tells whether a line is the hello of a guest that knows the token,
// and what it says.
func CheckVsockHello(token, line string) (purpose Purpose, nonce string, ok bool) {
	words := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(words) != 4 || len(words[2]) != 2*NonceLen || !hmac.Equal([]byte(line), []byte(VsockHello(token, Purpose(words[1]), words[2]))) {
		return "", "", false
	}
	switch purpose = Purpose(words[1]); purpose {
	case ForLink, ForShare, ForPowerOff, ForReboot:
		return purpose, words[2], true
	}
	return "", "", false
}

// CheckVsockAnswer tells whether a line is the answer of a host that knows the token.
func CheckVsockAnswer(token, line string, purpose Purpose, nonce string) bool {
	return hmac.Equal([]byte(line), []byte(VsockAnswer(token, purpose, nonce)))
}

func prove(token, who string, purpose Purpose, nonce string) string {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte(who + " " + string(purpose) + " " + nonce)) // never fails
	return hex.EncodeToString(mac.Sum(nil))
}
