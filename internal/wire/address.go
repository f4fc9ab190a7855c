package wire

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// The messages about addresses that a program in the guest wants a browser to open.
const (
	OpenAddress  MessageType = "open-address"  // guest to host: Text is the address, Bytes its number
	AddressShown MessageType = "address-shown" // host to guest: Bytes is its number; Text says why it is not
)

// MaxAddress bounds an address in bytes; those of logins have a few hundred.
const MaxAddress = 4 << 10

// OpenSocket is where programs of the guest hand an address over: one line, and a
// line in answer, empty when somebody is shown it.
const OpenSocket = "/run/smolvm/open.sock"

// CheckAddress refuses what no browser should be given: all but http and https,
// and text that a terminal would not show as it is.
func CheckAddress(text string) error {
	if text == "" || len(text) > MaxAddress {
		return fmt.Errorf("an address has 1 to %d bytes, this one %d", MaxAddress, len(text))
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("the address has characters in it that addresses have not")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("it is not an address")
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("only http and https addresses are opened, not %.20q", u.Scheme)
	case u.Hostname() == "":
		return errors.New("the address names no server")
	case u.User != nil:
		return errors.New("the address has a name or a password in it")
	}
	return nil
}

// firstCallback is the first port that a login's answer is carried to.
const firstCallback = 1024

// Callback finds the port of this computer's loopback to which the login at an
// address sends its answer, as OAuth's redirect_uri names it; 0: none.
func Callback(address string) int {
	u, err := url.Parse(address)
	if err != nil {
		return 0
	}
	for _, name := range []string{"redirect_uri", "redirect_url", "callback", "callback_url"} {
		back, err := url.Parse(u.Query().Get(name))
		if err != nil || back.Scheme != "http" {
			continue
		}
		switch back.Hostname() {
		case "localhost", "127.0.0.1", "::1":
			if port, err := strconv.Atoi(back.Port()); err == nil && port >= firstCallback && port < 1<<16 {
				return port
			}
		}
	}
	return 0
}
