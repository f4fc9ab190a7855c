package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/ui"
)

// launch is what the launch gave.
type launch struct {
	output string // what the agent printed
	took   time.Duration
}

// publish has smolvm build what its cache does not hold and publish it, signed
// with the checkout's development key.
func (q *quickstart) publish(ctx context.Context) error {
	key := filepath.Join(q.Dist, "dev", "minisign.key")
	args := []string{"image", "publish", "--unlocked", "--key", key} // a first launch does not end because Debian moved on
	if q.Kernel != "" {
		args = append(args, "--kernel", q.Kernel)
	}
	_, err := q.smolvm(ctx, []string{"SMOLVM_BUILD_CACHE=" + q.config.BuildCache}, append(args, q.images(), q.Preset)...)
	return err
}

// launch serves the published folder and runs the main job against it, with a
// state folder of its own.
func (q *quickstart) launch(ctx context.Context) (launch, error) {
	address, stop, err := serve(q.images())
	if err != nil {
		return launch{}, err
	}
	defer stop()
	home, err := os.MkdirTemp("", "smolvm-quickstart-")
	if err != nil {
		return launch{}, fault.New(fault.Storage, "", "make an empty state folder: %w", err)
	}
	defer os.RemoveAll(home)
	begun, before := q.now(), q.report.spent()
	environ := []string{"SMOLVM_HOME=" + home, "SMOLVM_MANIFEST=" + address + "/" + path.Base(q.manifest())}
	out, err := q.smolvm(ctx, environ, q.Preset, "start", "--no-mount", "--rm", "--", "--version")
	took := q.now().Sub(begun)
	q.report.add(stage{name: "attach, agent, delete", took: took - (q.report.spent() - before)})
	return launch{output: out, took: took}, err
}

// serve makes a folder available on this computer's loopback.
func serve(dir string) (address string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fault.New(fault.Host, "", "serve %s: %w", dir, err)
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with ErrServerClosed
	}()
	return "http://" + listener.Addr().String(), func() {
		_ = server.Close()
		<-done
	}, nil
}

// smolvm runs the program, shows its progress as our own, and returns what it
// wrote to its standard output. Cancelling ctx has it clean up after itself.
func (q *quickstart) smolvm(ctx context.Context, environ []string, args ...string) (string, error) {
	cmd := q.run.Command(ctx, process.Self, append([]string{"--progress", "json"}, args...)...)
	cmd.Env = append(cmd.Env, environ...)
	var out bytes.Buffer
	cmd.Stdout = &out
	errs, err := cmd.StderrPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("run smolvm %s: %w", args[0], err)
	}
	forwardErr := q.forward(errs)
	switch err := cmd.Wait(); {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", fault.New(fault.Internal, "What it said is above. make quickstart goes on where it ended.",
			"smolvm %s %s: %w", args[0], args[1], err)
	}
	return out.String(), forwardErr
}

// forward shows the events of a child, and passes on its other lines.
func (q *quickstart) forward(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		var e event.Event
		if json.Unmarshal(line, &e) == nil && e.Kind != "" {
			q.report.Emit(e)
		} else if text := bytes.TrimSpace(line); len(text) > 0 {
			q.streams.Say("%s", ui.Clean(string(text)))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
