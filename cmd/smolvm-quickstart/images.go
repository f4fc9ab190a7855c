package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/embedded"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/vmm"
)

// maxCPUs bounds a build sandbox: more do not make emulation faster.
const maxCPUs = 4

// publish builds what is missing and publishes it.
func (t tools) publish(ctx context.Context) (manifest.Manifest, error) {
	base, err := imagebuild.ReadBase(images.Files())
	if err != nil {
		return manifest.Manifest{}, err
	}
	request, err := t.request()
	if err != nil {
		return manifest.Manifest{}, err
	}
	builder, err := t.builder(base)
	if err != nil {
		return manifest.Manifest{}, err
	}
	plan, err := builder.Plan(request)
	if err != nil {
		return manifest.Manifest{}, err
	}
	if err := plan.Write(t.streams.Err); err != nil {
		return manifest.Manifest{}, err
	}
	built, err := builder.Build(ctx, request)
	if err != nil {
		return manifest.Manifest{}, err
	}
	publication, err := t.publication(base)
	if err != nil {
		return manifest.Manifest{}, err
	}
	return publication.Publish(ctx, built)
}

// request finds the presets that were named.
func (t tools) request() (imagebuild.Request, error) {
	all, err := config.Presets(images.Files())
	if err != nil {
		return imagebuild.Request{}, err
	}
	request := imagebuild.Request{Arch: t.Arch}
	for _, word := range t.Presets {
		p, ok := preset.Find(all, word)
		if !ok {
			return request, fault.New(fault.NotFound, "", "there is no preset %q", word)
		}
		request.Presets = append(request.Presets, p)
	}
	return request, nil
}

func (t tools) builder(base imagebuild.Base) (*imagebuild.Builder, error) {
	certificates, err := t.config.HostCA()
	if err != nil {
		return nil, err
	}
	return imagebuild.New(imagebuild.Options{
		Cache: t.config.BuildCache, Base: base, Runner: t.run, Agent: embedded.Agent, Sink: t.sink, Now: t.now,
		Machines: imagebuild.Sandboxes{
			Runner: t.run, Accel: vmm.TCG, CPUs: min(host.Probe().CPUs, maxCPUs), Sink: t.sink, Now: t.now,
			Rand: rand.Reader, Env: t.config.SessionEnv(), CACerts: certificates,
		}.Open,
	}), nil
}

// publication is the folder of this checkout, signed with its development key.
func (t tools) publication(base imagebuild.Base) (imagebuild.Publication, error) {
	private, err := os.ReadFile(filepath.Join(t.Dist, "dev", "minisign.key"))
	if err != nil {
		return imagebuild.Publication{}, fmt.Errorf("read the development key (make build makes it): %w", err)
	}
	public, err := os.ReadFile(filepath.Join(t.Dist, "dev", "minisign.pub"))
	if err != nil {
		return imagebuild.Publication{}, fmt.Errorf("read the development key: %w", err)
	}
	return imagebuild.Publication{
		Dir: filepath.Join(t.Dist, "images"), Private: string(private), Public: strings.TrimSpace(string(public)),
		VMMs: []string{config.QEMU}, Base: base, Now: t.now, Sink: t.sink,
	}, nil
}
