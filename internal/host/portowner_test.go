package host

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"testing/fstest"
)

func TestOwnerOfPortOnThisComputer(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells who listens")
	}
	for _, address := range []string{"127.0.0.1:0", ":0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		owner, ok := OwnerOfPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
		if !ok || owner.Pid != os.Getpid() || owner.UID != os.Getuid() || len(owner.Args) == 0 || owner.Args[0] != os.Args[0] {
			t.Errorf("%s: %+v, %v", address, owner, ok)
		}
	}
}

func TestOwnerOfAnotherUser(t *testing.T) {
	proc := fstest.MapFS{"net/tcp": {Data: []byte("  sl  local_address rem_address st\n" +
		"   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 77 1 0 100 0 0 10 0\n")}}
	for text, want := range map[string]bool{"127.0.0.1:80": true, "0.0.0.0:80": true, "127.0.0.1:81": false, "[::1]:80": false} {
		owner, ok := ownerOfPort(proc, netip.MustParseAddrPort(text))
		if ok != want || ok && (owner.UID != 33 || owner.Pid != 0) {
			t.Errorf("%s: %+v, %v", text, owner, ok)
		}
	}
}
