package supervise

import (
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/wire"
)

// older is a supervisor of version 1 as it was: it takes that version alone, and of
// the operations only some.
func older(t *testing.T, knows ...operation) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			answerOlder(conn, knows)
			_ = conn.Close()
		}
	}()
	return socket
}

func answerOlder(conn net.Conn, knows []operation) {
	in, out := &frameReader{in: conn}, &frameWriter{out: conn}
	_, payload, err := in.next()
	var r struct {
		Version int
		Op      operation
	}
	if err != nil || json.Unmarshal(payload, &r) != nil {
		return
	}
	refusal := `{"code":"internal","text":"unknown operation \"` + string(r.Op) + `\""}`
	for _, op := range knows {
		if op == r.Op {
			refusal = ""
		}
	}
	if r.Version != 1 {
		refusal = `{"code":"conflict","hint":"...","text":"its supervisor speaks version 1 of the control protocol, this smolvm 2"}`
	}
	if refusal != "" {
		_ = out.send(failed, []byte(refusal))
		return
	}
	_ = out.send(accepted, []byte(`{"name":"box","ready":true,"pid":7,"vmm_pid":8}`))
}

// TestOlderSupervisor: what it knows works, and for what it does not know the fix
// is told.
func TestOlderSupervisor(t *testing.T) {
	c, err := Dial(t.Context(), older(t, opStatus, opStop))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, err := c.Status(t.Context()); err != nil || s.Pid != 7 || s.Idle != nil || s.Protocol != 0 {
		t.Errorf("its status is %+v, %v", s, err)
	}
	if err := c.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
	for name, attempt := range map[string]func() error{
		"change the mounts": func() error { return c.Remount(t.Context(), MountChange{Remove: []string{"/x"}}) },
		"rename a running":  func() error { return c.Rename(t.Context(), "other") },
		"change the network": func() error {
			_, err := c.Network(t.Context(), egress.Change{})
			return err
		},
		"copy files": func() error {
			_, err := c.Copy(t.Context(), wire.Copy{})
			return err
		},
		"keep an unused": func() error {
			_, err := c.Wake(t.Context(), nil)
			return err
		},
		"forward ports": func() error {
			_, err := c.Port(t.Context(), PortRequest{})
			return err
		},
	} {
		err := attempt()
		if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), name) || !strings.Contains(fault.HintOf(err), "Stop and start it") {
			t.Errorf("%s: %v (%s)", name, err, fault.HintOf(err))
		}
	}
}

// TestVersionsOfRequests: all versions from the oldest on are taken, others refused
// in the words that older and newer clients know.
func TestVersionsOfRequests(t *testing.T) {
	for version := range protocolVersion + 2 {
		payload, _ := json.Marshal(request{Version: version, Op: opStatus})
		_, err := decodeRequest(requested, payload)
		taken := version >= oldestProtocol && version <= protocolVersion
		if (err == nil) != taken {
			t.Errorf("version %d: %v", version, err)
		}
		if err != nil && errOther(opStatus, failureOf(err).Text) == nil {
			t.Errorf("version %d: a client does not know %q", version, err)
		}
	}
	for _, op := range []operation{opStatus, opStop, opExec, opSSH, opBulk, opWatch, opRename, opGive, opLogins, opPort, opMounts, opNetwork, opLoopback} {
		if op.since() != 1 {
			t.Errorf("%s was there in version 1 and says %d: older supervisors would refuse it", op, op.since())
		}
	}
	slow := int64(1 << 20)
	if r := (request{Op: opNetwork, Network: &egress.Change{Rate: &slow}}); r.since() != 3 {
		t.Errorf("a rate is for version %d: supervisors that know none would overlook it", r.since())
	}
}

func TestServerRefusesAnOperationOfTheFuture(t *testing.T) {
	r := newRoom(t, nil)
	conn, err := net.Dial("unix", filepath.Join(r.folder, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := (&frameWriter{out: conn}).sendJSON(requested, request{Version: protocolVersion, Op: "teleport"}); err != nil {
		t.Fatal(err)
	}
	k, payload, err := (&frameReader{in: conn}).next()
	if err != nil || k != failed {
		t.Fatalf("frame %q, %v", byte(k), err)
	}
	if err := decodeFailure(payload, "teleport"); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "cannot teleport") {
		t.Error(err)
	}
}
