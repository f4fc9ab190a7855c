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
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/ui"
)

// launch is what the launch gave.
type launch struct {
	Address string // of the manifest, while it was served
	Output  string // what the agent printed
	Took    time.Duration
}

// launch serves the published folder and runs the main job against it.
func (t tools) launch(ctx context.Context) (launch, error) {
	address, stop, err := serve(filepath.Join(t.Dist, "images"))
	if err != nil {
		return launch{}, err
	}
	defer stop()
	home, err := os.MkdirTemp("", "smolvm-quickstart-")
	if err != nil {
		return launch{}, fault.New(fault.Storage, "", "make an empty state folder: %w", err)
	}
	defer os.RemoveAll(home)
	begun := t.now()
	out, err := t.start(ctx, home, address+"/"+imagebuild.ManifestFile)
	return launch{Address: address, Output: out, Took: t.now().Sub(begun)}, err
}

// serve makes the folder available on this computer's loopback.
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

// start runs `smolvm PRESET start --no-mount --rm -- --version` and shows its
// progress as our own.
func (t tools) start(ctx context.Context, home, manifest string) (string, error) {
	cmd := t.run.Command(ctx, process.Self, "--progress", "json", t.Presets[0], "start", "--no-mount", "--rm", "--", "--version")
	cmd.Env = append(cmd.Env, "SMOLVM_HOME="+home, "SMOLVM_MANIFEST="+manifest)
	var out bytes.Buffer
	cmd.Stdout = &out
	errs, err := cmd.StderrPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("launch: %w", err)
	}
	forwardErr := t.forward(errs)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", fault.New(fault.Boot, "What it said is above.", "smolvm %s start: %w", t.Presets[0], err)
	}
	return out.String(), forwardErr
}

// forward renders the events of a child and passes on its other lines.
func (t tools) forward(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		var e event.Event
		if json.Unmarshal(line, &e) == nil && e.Kind != "" {
			t.sink.Emit(e)
		} else if text := bytes.TrimSpace(line); len(text) > 0 {
			t.streams.Say("%s", ui.Clean(string(text)))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
