package mount_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/mount"
	"github.com/smolvm/smolvm/internal/share"
	"github.com/smolvm/smolvm/internal/wire"
)

// TestWatchersAreToldAsRoot watches a mounted folder of this computer as a program
// in a guest does, while files are changed beside and through the mount.
func TestWatchersAreToldAsRoot(t *testing.T) {
	if *folder != "" || os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	top := t.TempDir()
	source, target := filepath.Join(top, "source"), filepath.Join(top, "target")
	for name, text := range map[string]string{"a/known": "1", "a/gone": "1", "a/moved": "1", "a/own": "1"} {
		if err := os.MkdirAll(filepath.Join(source, "a"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(source, name), text)
	}
	server := share.New(share.Owner{}, time.Now)
	if err := server.Add(share.Mount{ID: "0", Host: source, ReadOnly: false}); err != nil {
		t.Fatal(err)
	}
	host, guest := pair(t)
	table := mount.Table{Folder: filepath.Join(top, "all"), Open: func(context.Context) (*mount.Stream, error) {
		return &mount.Stream{In: guest, Out: guest}, nil
	}}
	var told []string
	var telling sync.Mutex
	err := server.Watch(func(all []wire.Change) {
		telling.Lock()
		defer telling.Unlock()
		for _, c := range all {
			told = append(told, string(c.Name))
		}
		table.Touch(all)
	}, func() { t.Error("too many folders") })
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(host) }()
	if err := table.Set(t.Context(), []wire.Mount{{ID: "0", Target: target}}); err != nil {
		t.Skipf("this computer does not let root mount: %v", err)
	}
	defer func() {
		_ = table.Set(context.Background(), nil)
		_ = syscall.Unmount(table.Folder, syscall.MNT_DETACH)
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	events := watchFolder(t, filepath.Join(target, "a"))
	here := filepath.Join(source, "a")
	for _, c := range []struct {
		want string
		do   func() error
	}{
		{"known", func() error { return os.WriteFile(filepath.Join(here, "known"), []byte("22"), 0o644) }},
		{"new", func() error { return os.WriteFile(filepath.Join(here, "new"), []byte("1"), 0o644) }},
		{"", func() error { return os.Remove(filepath.Join(here, "gone")) }},
		{"to", func() error { return os.Rename(filepath.Join(here, "moved"), filepath.Join(here, "to")) }},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if seen := events.until(strings.TrimSpace("event " + c.want)); !seen {
			t.Errorf("%s was not told", c.want)
		}
	}
	if folders, more, ok := server.Watched(); folders < 1 || more || !ok {
		t.Errorf("%d folders are watched, there are more: %v, watched at all: %v", folders, more, ok)
	}
	if got := in(t, filepath.Join(target, "a"), "cat known; ls gone 2>/dev/null || echo gone"); got != "22gone\n" {
		t.Errorf("through the mount: %q", got)
	}
	telling.Lock()
	told = nil
	telling.Unlock()
	// Through the mount, of which the guest's kernel has told already.
	in(t, filepath.Join(target, "a"), "echo 333 >own; echo x >made; ln made link; rm made; mv link made; mkdir d; rmdir d")
	if err := os.WriteFile(filepath.Join(here, "last"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if !events.until("event last") {
		t.Error("last was not told")
	}
	telling.Lock()
	defer telling.Unlock()
	if got := strings.Join(told, " "); got != "last" {
		t.Errorf("told of %s", got)
	}
	info, err := os.Stat(filepath.Join(here, "known"))
	if err != nil || time.Since(info.ModTime()) > time.Minute {
		t.Errorf("known has time %v, %v", info.ModTime(), err)
	}
}

// TestWatch is a program that watches a folder and prints the names of its events.
// It is another process than the one that serves the mount, as Go programs cannot
// wait for themselves.
func TestWatch(t *testing.T) {
	if *watching == "" {
		t.Skip("run by TestWatchersAreToldAsRoot")
	}
	entries, err := os.ReadDir(*watching) // as all do who watch a tree
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		_, _ = os.Stat(filepath.Join(*watching, e.Name()))
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.InotifyAddWatch(fd, *watching, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_DELETE); err != nil {
		t.Fatal(err)
	}
	fmt.Println("watching")
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			length := int(binary.NativeEndian.Uint32(b[12:]))
			fmt.Printf("event %s\n", bytes.TrimRight(b[16:16+length], "\x00"))
			b = b[16+length:]
		}
	}
}

var watching = flag.String("watching", "", "folder to watch")

// watcher is a process that watches a folder.
type watcher struct{ lines chan string }

func watchFolder(t *testing.T, dir string) watcher {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestWatch$", "-watching", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := watcher{make(chan string, 1000)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for in := bufio.NewScanner(out); in.Scan(); {
			w.lines <- in.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	if !w.until("watching") {
		t.Fatal("the watcher did not begin")
	}
	return w
}

// until waits for a line.
func (w watcher) until(line string) bool {
	late := time.After(10 * time.Second)
	for {
		select {
		case got := <-w.lines:
			if strings.TrimSpace(got) == line {
				return true
			}
		case <-late:
			return false
		}
	}
}

// in runs a command that uses the mount.
func in(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", "cd "+dir+"; "+script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", script, err, out)
	}
	return string(out)
}
