package imagebuild

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fsimg/cpio"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

// ensureKernel leaves the kernel, the modules it needs, and the build record.
func (b *Builder) ensureKernel(ctx context.Context, plan Plan) error {
	switch {
	case plan.Kernel.Cached:
		return nil
	case plan.kernelDir != "":
		return b.takeOwnKernel(ctx, plan)
	}
	return b.takeStandIn(ctx, plan)
}

// takeStandIn takes the kernel and its modules out of a distribution's package.
func (b *Builder) takeStandIn(ctx context.Context, plan Plan) error {
	work, err := b.cache.work(kindKernel)
	if err != nil {
		return err
	}
	done := event.Span(b.sink, b.now, event.Packages, "kernel")
	name := b.base.Kernel.Packages[plan.Arch]
	debs, err := b.packages(ctx, plan.Arch, []string{name}, filepath.Join(b.cache.workDir(), "packages-kernel"))
	if err != nil {
		return err
	}
	k, err := readKernel(ctx, b.run, debs, b.base.Kernel.Modules)
	if err != nil {
		return err
	}
	rec := b.record(ctx, plan.Kernel, plan.Arch)
	rec.Version = k.release
	if rec.Inputs, err = debInputs(debs, k.packages); err != nil {
		return err
	}
	if err := k.write(work); err != nil {
		return err
	}
	if err := writeRecord(work, rec); err != nil {
		return err
	}
	if err := b.cache.commit(work, kindKernel, plan.Kernel.Key); err != nil {
		return err
	}
	done(int64(len(k.image)))
	return nil
}

// write leaves the kernel image and the module archive in a folder.
func (k distroKernel) write(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "kernel"), k.image, 0o644); err != nil {
		return err
	}
	folder := wire.ModuleFolder[1:]
	var order []byte
	entries := []cpio.Entry{{Name: folder, Mode: cpio.Directory | 0o755}}
	for _, m := range k.modules {
		file := m.name + ".ko"
		order = append(order, file+"\n"...)
		entries = append(entries, cpio.Entry{Name: folder + "/" + file, Mode: cpio.Regular | 0o644, Data: m.data})
	}
	entries = append(entries, cpio.Entry{Name: wire.ModuleList[1:], Mode: cpio.Regular | 0o644, Data: order})
	return createFile(filepath.Join(dir, "modules"), func(f *os.File) error { return cpio.Write(f, entries) })
}

// packages downloads packages and reads what they say about themselves.
func (b *Builder) packages(ctx context.Context, arch string, names []string, dir string) ([]*deb, error) {
	if err := fetchPackages(ctx, b.run, b.base.Suite, arch, names, dir); err != nil {
		return nil, err
	}
	return readPackages(ctx, b.run, dir)
}

// debInputs lists packages for the build record; only those named, or all.
func debInputs(debs []*deb, only map[string]bool) ([]Input, error) {
	var inputs []Input
	for _, d := range debs {
		if only != nil && !only[d.name] {
			continue
		}
		in, err := input(d.name, d.version, d.path)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, in)
	}
	return inputs, nil
}

// downloadBase downloads the base's packages and wheels and leaves, in a work
// folder that it returns, the root archive "root.tar" and the build record.
func (b *Builder) downloadBase(ctx context.Context, plan Plan) (string, error) {
	done := event.Span(b.sink, b.now, event.Packages, b.base.Name)
	work, err := b.cache.work(kindBase)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.cache.workDir(), fmt.Sprintf("packages-base-%d", len(plan.lock)))
	debs, wheels, err := b.fetchBase(ctx, plan, dir)
	if err != nil {
		return "", err
	}
	rec := b.record(ctx, plan.Base, plan.Arch)
	if rec.Inputs, err = debInputs(debs, nil); err != nil {
		return "", err
	}
	for i, w := range b.base.Wheels {
		in, err := input(w.Name, w.Version, wheels[i])
		if err != nil {
			return "", err
		}
		rec.Inputs = append(rec.Inputs, in)
	}
	if rec.Agent, err = b.agentDigest(plan.Arch); err != nil {
		return "", err
	}
	size, err := b.assemble(ctx, debs, wheels, dir, filepath.Join(work, rootFile))
	if err != nil {
		return "", err
	}
	done(size)
	return work, writeRecord(work, rec)
}

// rootFile is the root archive's name in the base's work folder.
const rootFile = "root.tar"

// fetchBase downloads packages and wheels side by side.
func (b *Builder) fetchBase(ctx context.Context, plan Plan, dir string) (debs []*deb, wheels []string, err error) {
	wheels = make([]string, len(b.base.Wheels))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		debs, err = b.basePackages(ctx, plan.Arch, plan.lock, dir)
		return err
	})
	group.Go(func() (err error) {
		for i, w := range b.base.Wheels {
			if wheels[i], err = fetchWheel(ctx, b.run, w, plan.Arch, filepath.Join(dir, "wheels")); err != nil {
				return err
			}
		}
		return nil
	})
	return debs, wheels, group.Wait()
}

// assemble writes the root archive and returns its size.
func (b *Builder) assemble(ctx context.Context, debs []*deb, wheels []string, dir, path string) (int64, error) {
	sources, err := os.ReadFile(filepath.Join(dir, "sources.list"))
	if err != nil {
		return 0, fmt.Errorf("read the distribution's sources: %w", err)
	}
	var size int64
	err = createFile(path, func(f *os.File) error {
		w := bufio.NewWriterSize(f, 1<<20)
		if err := writeRoot(ctx, b.run, b.base, debs, sources, wheels, w); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil {
			size = info.Size()
		}
		return err
	})
	return size, err
}

// contentFile is the name of a layer's file system in its result folder.
const contentFile = "content"

// buildBase configures the root archive in a sandbox.
func (b *Builder) buildBase(ctx context.Context, plan Plan, work string, machines Machines) error {
	image, err := b.image(plan)
	if err != nil {
		return err
	}
	spec := MachineSpec{
		Name: "build-base", Arch: plan.Arch, Image: image, Mode: wire.ModeBootstrap,
		Extra: filepath.Join(work, rootFile), Epoch: b.base.Epoch, Resources: b.base.Resources,
	}
	err = b.inMachine(ctx, machines, spec, work, func(ctx context.Context, r runner) error {
		if err := r.shell(ctx, "configure packages", "root", configureScript, nil); err != nil {
			return err
		}
		return r.run(ctx, b.base.Recipe)
	})
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(work, rootFile)); err != nil {
		return err
	}
	return b.cache.commit(work, kindBase, plan.Base.Key)
}

// ensureLayer runs a preset's recipe on the base.
func (b *Builder) ensureLayer(ctx context.Context, plan Plan, step Step, p preset.Preset, machines Machines) error {
	if step.Cached {
		return nil
	}
	base := filepath.Join(b.cache.path(kindBase, plan.Base.Key), contentFile)
	image, err := b.image(plan, record.Layer{Name: b.base.Name, Path: base, SHA256: plan.Base.Key})
	if err != nil {
		return err
	}
	return b.buildLayer(ctx, step, plan.Arch, image, p, machines)
}

// buildLayer runs a preset's recipe in a sandbox that boots image, and keeps what
// it wrote.
func (b *Builder) buildLayer(ctx context.Context, step Step, arch string, image record.Image, p preset.Preset, machines Machines) error {
	work, err := b.cache.work(kindLayer)
	if err != nil {
		return err
	}
	rec := b.record(ctx, step, arch)
	rec.Version = p.Agent.Version
	if rec.Agent, err = b.agentDigest(arch); err != nil {
		return err
	}
	spec := MachineSpec{Name: "build-" + p.Name, Arch: arch, Image: image, Mode: wire.ModeBuild, Epoch: b.base.Epoch, Resources: b.base.Resources}
	spec.Resources.DiskMiB = max(spec.Resources.DiskMiB, p.Resources.DiskMiB) // sparse: room that is not used costs nothing
	err = b.inMachine(ctx, machines, spec, work, func(ctx context.Context, r runner) error {
		if err := r.run(ctx, p.Recipe); err != nil {
			return err
		}
		return r.check(ctx, p.Agent)
	})
	if err != nil {
		return err
	}
	if err := writeRecord(work, rec); err != nil {
		return err
	}
	return b.cache.commit(work, kindLayer, step.Key)
}

// maxLayer is the size of the blank disk a layer is packed on, in bytes: sparse,
// and cut to the file system's own size afterwards.
const maxLayer = 32 << 30

// inMachine runs work and the final cleaning in a sandbox and leaves its file
// system as "content" in the work folder. What the recipe printed is in the
// cache's log folder.
func (b *Builder) inMachine(ctx context.Context, machines Machines, spec MachineSpec, work string,
	recipe func(context.Context, runner) error,
) error {
	log, err := b.openLog(spec.Name)
	if err != nil {
		return err
	}
	defer log.Close()
	blank := filepath.Join(work, contentFile)
	if err := createFile(blank, func(f *os.File) error { return f.Truncate(maxLayer) }); err != nil {
		return err
	}
	return machines.Run(ctx, spec, func(ctx context.Context, s Session) error {
		out := &lockedWriter{w: io.MultiWriter(log, b.output)}
		r := runner{session: s, sink: b.sink, now: b.now, log: out, logFile: log.Name(), name: spec.Name}
		if err := r.prepare(ctx); err != nil {
			return err
		}
		if err := recipe(ctx, r); err != nil {
			return err
		}
		return r.shell(ctx, "clean", "root", cleanScript, nil)
	}, blank)
}

// openLog starts the log of one build sandbox anew.
func (b *Builder) openLog(name string) (*os.File, error) {
	dir := filepath.Join(b.cache.dir, "log")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Create(filepath.Join(dir, name+".log"))
}

// lockedWriter lets stdout and stderr of one program share a file.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// Write writes all of p before another Write begins.
func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// createFile makes a new file and has fill write it.
func createFile(path string, fill func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	if err := fill(f); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return f.Close()
}
