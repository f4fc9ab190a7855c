// Package apitest is a stand-in for Firecracker's API server, for tests of what
// drives it: it answers as the real one was seen to, and misbehaves on request. It
// keeps nothing on disk but its socket.
package apitest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// maxBody is what the real server takes; it closes the connection of who sends more.
const maxBody = 51200

// Fields are those that each object may have; others are refused, as the real
// server refuses them. An object that is not listed is not there.
var fields = map[string][]string{
	"PUT /boot-source":          {"kernel_image_path", "initrd_path", "boot_args"},
	"PUT /machine-config":       {"vcpu_count", "mem_size_mib", "track_dirty_pages", "smt"},
	"PUT /cpu-config":           {"cpuid_modifiers", "msr_modifiers", "kvm_capabilities"},
	"PUT /drives/*":             {"drive_id", "path_on_host", "is_root_device", "is_read_only", "cache_type"},
	"PUT /vsock":                {"guest_cid", "uds_path"},
	"PUT /balloon":              {"amount_mib", "deflate_on_oom", "stats_polling_interval_s"},
	"PUT /entropy":              {},
	"PUT /metrics":              {"metrics_path"},
	"PUT /actions":              {"action_type"},
	"PUT /network-interfaces/*": {"iface_id", "host_dev_name", "guest_mac"},
	"PUT /snapshot/create":      {"snapshot_type", "snapshot_path", "mem_file_path"},
	"PUT /snapshot/load":        {"snapshot_path", "mem_backend", "enable_diff_snapshots", "resume_vm"},
	"PATCH /vm":                 {"state"},
	"PATCH /balloon":            {"amount_mib"},
	"PATCH /drives/*":           {"drive_id", "path_on_host"},
}

// Server is one stand-in. Its fields are set before Serve.
type Server struct {
	Version string // such as 1.12.1
	// Misbehave may answer a request (METHOD PATH) itself: the bytes are sent as
	// they are and the connection is closed; nil goes on as usual.
	Misbehave func(request string) []byte
	// On is told each request that was carried out.
	On func(request string, body map[string]any) error
	// BalloonMiB is what the balloon holds.
	BalloonMiB int64

	answering sync.Mutex // held from a request until its answer is sent

	mu    sync.Mutex
	state string
	track bool // changed pages are noted
	set   []string
	conns []net.Conn
	group sync.WaitGroup
}

// Serve answers on l until it is closed.
func (s *Server) Serve(l net.Listener) {
	s.mu.Lock()
	s.state = "Not started"
	s.mu.Unlock()
	for {
		conn, err := l.Accept()
		if err != nil {
			s.mu.Lock()
			for _, c := range s.conns {
				_ = c.Close()
			}
			s.mu.Unlock()
			s.group.Wait()
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.group.Go(func() { s.converse(conn) })
	}
}

// Carried lists the requests that were carried out, in order.
func (s *Server) Carried() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.set)
}

func (s *Server) converse(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		request, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		name := request.Method + " " + request.URL.Path
		body, err := io.ReadAll(io.LimitReader(request.Body, maxBody+1))
		if err != nil {
			return
		}
		if s.Misbehave != nil {
			if bytes := s.Misbehave(name); bytes != nil {
				_, _ = conn.Write(bytes)
				return
			}
		}
		if len(body) > maxBody {
			_, _ = io.WriteString(conn, answer(413, `{"error":"Request payload with size `+fmt.Sprint(len(body))+` is larger than the limit of 51200 allowed by server."}`))
			return
		}
		if err := s.answer(conn, request.Method, name, body); err != nil {
			return
		}
	}
}

func (s *Server) answer(conn net.Conn, method, name string, body []byte) error {
	s.answering.Lock()
	defer s.answering.Unlock()
	_, err := io.WriteString(conn, s.carryOut(method, name, body))
	return err
}

// Settle waits until what was begun is answered.
func (s *Server) Settle() {
	s.answering.Lock()
	defer s.answering.Unlock()
}

func answer(code int, body string) string {
	if code == http.StatusNoContent {
		return "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"
	}
	return fmt.Sprintf("HTTP/1.1 %d \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", code, len(body), body)
}

func fault(format string, args ...any) string {
	text, _ := json.Marshal(map[string]string{"fault_message": fmt.Sprintf(format, args...)})
	return answer(http.StatusBadRequest, string(text))
}

func (s *Server) carryOut(method, name string, body []byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if method == http.MethodGet {
		return s.tell(name)
	}
	values := map[string]any{}
	if err := json.Unmarshal(body, &values); err != nil {
		return fault("An error occurred when deserializing the json body of a request: %v.", err)
	}
	kind := kindOf(name)
	known, there := fields[kind]
	if !there {
		return fault("Invalid request method and/or path: %s.", name)
	}
	for field := range values {
		if !slices.Contains(known, field) {
			return fault("An error occurred when deserializing the json body of a request: unknown field `%s`.", field)
		}
	}
	if why := s.allow(kind, values); why != "" {
		return fault("%s", why)
	}
	if s.On != nil {
		if err := s.On(name, values); err != nil {
			return fault("%v", err)
		}
	}
	s.set = append(s.set, name)
	return answer(http.StatusNoContent, "")
}

// kindOf replaces the name of a drive or card by a star.
func kindOf(name string) string {
	for _, many := range []string{"PUT /drives/", "PATCH /drives/", "PUT /network-interfaces/"} {
		if strings.HasPrefix(name, many) {
			return many + "*"
		}
	}
	return name
}

// allow keeps the order that the real server asks for; s.mu is held.
func (s *Server) allow(kind string, values map[string]any) string {
	started := s.state != "Not started"
	switch {
	case kind == "PUT /snapshot/load":
		if started || slices.ContainsFunc(s.set, func(n string) bool { return n != "PUT /metrics" }) {
			return "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources."
		}
		s.state, s.track = "Paused", values["enable_diff_snapshots"] == true
		if values["resume_vm"] == true {
			s.state = "Running"
		}
	case kind == "PUT /snapshot/create" && s.state != "Paused":
		return "Create snapshot error: Operation not allowed while the microVM is running."
	case kind == "PUT /snapshot/create" && values["snapshot_type"] == "Diff" && !s.track:
		return "Create snapshot error: Cannot create snapshot: Cannot get dirty bitmap: No such file or directory (os error 2)"
	case kind == "PUT /snapshot/create":
	case kind == "PUT /machine-config" && !started:
		s.track = values["track_dirty_pages"] == true
	case kind == "PATCH /vm" && started:
		s.state = map[any]string{"Paused": "Paused", "Resumed": "Running"}[values["state"]]
	case kind == "PATCH /balloon" && started:
	case kind == "PATCH /drives/*" && started:
		if id, _ := values["drive_id"].(string); !slices.Contains(s.set, "PUT /drives/"+id) {
			return "Unable to patch the block device: Invalid block device ID"
		}
	case kind == "PUT /actions":
		return s.act(values["action_type"], started)
	case kind == "PUT /metrics" && slices.Contains(s.set, kind):
		return "Metrics error: Reinitialization of metrics not allowed."
	case strings.HasPrefix(kind, "PATCH"):
		return "The requested operation is not supported before starting the microVM."
	case started:
		return "The requested operation is not supported after starting the microVM."
	}
	return ""
}

func (s *Server) act(what any, started bool) string {
	switch {
	case what == "FlushMetrics" && started:
		return ""
	case what != "InstanceStart":
		return fmt.Sprintf("unknown variant `%v`", what)
	case started:
		return "The requested operation is not supported after starting the microVM."
	case !slices.Contains(s.set, "PUT /boot-source"):
		return "Start microvm error: Cannot start microvm without kernel configuration."
	}
	s.state = "Running"
	return ""
}

func (s *Server) tell(name string) string {
	var value any
	switch name {
	case "GET /":
		value = map[string]string{"id": "test", "state": s.state, "vmm_version": s.Version, "app_name": "Firecracker"}
	case "GET /version":
		value = map[string]string{"firecracker_version": s.Version}
	case "GET /balloon/statistics":
		value = map[string]int64{"target_mib": 0, "actual_mib": s.BalloonMiB, "target_pages": 0, "actual_pages": 0, "free_memory": 100 << 20, "available_memory": 200 << 20, "total_memory": 500 << 20}
	default:
		return fault("Invalid request method and/or path: %s.", name)
	}
	var out bytes.Buffer
	_ = json.NewEncoder(&out).Encode(value) // a map of strings or numbers
	return answer(http.StatusOK, strings.TrimSpace(out.String()))
}
