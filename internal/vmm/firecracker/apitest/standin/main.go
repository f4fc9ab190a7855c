// Command standin is a stand-in for the program firecracker, for tests of its
// driver: it serves the scripted API at --api-sock and writes the log lines that the
// real one writes. Once started, its guest connects, and does what the kernel's
// option standin= says; its network card sends every frame back. It keeps nothing.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/smolvm/smolvm/internal/vmm/firecracker/apitest"
	"github.com/smolvm/smolvm/internal/wire"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Print("Firecracker v1.12.1\n\n")
		return
	}
	socket, log := flag.String("api-sock", "", ""), flag.String("log-path", "", "")
	metrics := flag.String("metrics-path", "", "")
	flag.String("id", "", "")
	flag.String("level", "", "")
	flag.Parse()
	out, err := os.OpenFile(*log, os.O_WRONLY, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		fmt.Fprintln(out, "2026-01-01T00:00:00.0 [x:main] RunWithApiError error: Failed to open the API socket:", err)
		os.Exit(1)
	}
	fmt.Fprintln(out, "2026-01-01T00:00:00.0 [x:fc_api] API server started.")
	m := &guest{log: out, metrics: *metrics, ended: make(chan int, 1)}
	server := &apitest.Server{Version: "1.12.1", On: m.on}
	go server.Serve(listener)
	code := <-m.ended
	server.Settle() // a load that fails ends it, and is answered all the same
	os.Exit(code)
}

// guest is what the machine's guest does.
type guest struct {
	log     io.Writer
	memory  int64 // bytes
	kept    int   // how often it was kept
	metrics string
	args    string
	vsock   string
	ended   chan int
}

func (g *guest) on(request string, body map[string]any) error {
	switch request {
	case "PUT /boot-source":
		g.args, _ = body["boot_args"].(string)
		if _, err := os.ReadFile(body["kernel_image_path"].(string)); err != nil {
			return fmt.Errorf("the kernel file cannot be opened: %w", err)
		}
	case "PUT /machine-config":
		mib, _ := body["mem_size_mib"].(float64)
		g.memory = int64(mib) << 20
	case "PUT /network-interfaces/net0":
		name, _ := body["host_dev_name"].(string)
		return plugIn(name)
	case "PUT /vsock":
		g.vsock, _ = body["uds_path"].(string)
	case "PUT /snapshot/create":
		return errors.Join(os.WriteFile(body["snapshot_path"].(string), nil, 0o644),
			g.keep(body["mem_file_path"].(string), body["snapshot_type"] == "Full"))
	case "PUT /snapshot/load":
		memory, _ := body["mem_backend"].(map[string]any)
		path, _ := memory["backend_path"].(string)
		if err := g.remember(path); err != nil {
			go func() { g.ended <- 1 }() // a failed load ends the process
			return fmt.Errorf("load snapshot error: %w", err)
		}
		go func() { g.ended <- g.live() }()
	case "PUT /actions":
		if body["action_type"] == "InstanceStart" {
			go func() { g.ended <- g.live() }()
		}
	}
	return nil
}

// page is a part of memory. What this guest has in the first is there from the start;
// each time that it is kept it writes a word into the next.
const page = 4096

// keep writes memory to a file: all of it, or what changed since it was kept before, into
// a file that has its size already, as the real one does. Another file is emptied first.
func (g *guest) keep(path string, all bool) error {
	g.kept++
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != g.memory {
		err = errors.Join(f.Truncate(0), f.Truncate(g.memory))
	}
	for i := range g.kept + 1 {
		text := g.vsock + "\n" + g.args
		if i > 0 {
			text = fmt.Sprintf("kept %d", i)
		}
		if all || i == g.kept {
			_, failed := f.WriteAt([]byte(text), int64(i)*page)
			err = errors.Join(err, failed)
		}
	}
	return errors.Join(err, f.Close())
}

// remember reads memory that was kept.
func (g *guest) remember(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	text := make([]byte, page)
	if _, err := f.ReadAt(text, 0); err != nil {
		return err
	}
	g.vsock, g.args, _ = strings.Cut(strings.TrimRight(string(text), "\x00"), "\n")
	for g.memory, g.kept = info.Size(), 0; ; g.kept++ {
		if _, err := f.ReadAt(text, int64(g.kept+1)*page); err != nil || text[0] == 0 {
			return err
		}
	}
}

func (g *guest) option(name string) string {
	for word := range strings.FieldsSeq(g.args) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

// live is one boot; it returns the exit status.
func (g *guest) live() int {
	fmt.Println("the guest's console")
	switch how := g.option("standin"); how {
	case "internal-error": // as on a host whose KVM runs no guest
		fmt.Fprintln(g.log, "2026-01-01T00:00:00.0 [x:fc_vcpu 0] Received KVM_EXIT_INTERNAL_ERROR signal")
		return 0
	case "failed-processor": // only the counters tell
		if f, err := os.OpenFile(g.metrics, os.O_WRONLY, 0); err == nil {
			fmt.Fprintln(f, `{"utc_timestamp_ms":1,"vcpu":{"exit_io_in":3,"failures":1}}`)
		}
		return 0
	case "panic":
		return 0
	case "die":
		return 148
	case "stranger":
		g.call("not the token", wire.ForLink)
		select {}
	default:
		conn := g.call(g.option(wire.OptVsock), wire.ForLink)
		fmt.Fprintln(conn, "hello of", how)
		_, _ = io.Copy(io.Discard, conn) // until the host lets go, or says a byte
		if how == "poweroff" || how == "reboot" {
			g.call(g.option(wire.OptVsock), wire.Purpose(how))
		}
		return 0
	}
}

func (g *guest) call(token string, purpose wire.Purpose) net.Conn {
	conn, err := net.Dial("unix", fmt.Sprintf("%s_%d", g.vsock, wire.VsockPort))
	if err != nil {
		fmt.Println("standin:", err)
		os.Exit(1)
	}
	raw := make([]byte, wire.NonceLen)
	_, _ = rand.Read(raw) // never fails
	nonce := hex.EncodeToString(raw)
	_, _ = io.WriteString(conn, wire.VsockHello(token, purpose, nonce))
	answer := make([]byte, len(wire.VsockAnswer(token, purpose, nonce)))
	if _, err := io.ReadFull(conn, answer); err != nil {
		fmt.Println("standin: not let in:", err)
	} else if !wire.CheckVsockAnswer(token, string(answer), purpose, nonce) {
		fmt.Println("standin: the host does not know the token")
		os.Exit(1)
	}
	return conn
}
