package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm/internal/acquire"
	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/doctor"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/vmm"
)

// usualPreset is whose start the doctor foretells.
const usualPreset = "claude-code"

// Limits of what the doctor tries.
const (
	bootLimit    = time.Minute      // of a probe guest; emulated ones take 2 to 4 s
	networkLimit = 20 * time.Second // of the catalogue: the other checks are worth seeing
	scopeLimit   = 10 * time.Second // of systemd, which takes 10 to 50 ms
)

// facts looks at everything that the doctor judges. What fails is a fact; only
// an interrupt is an error.
func (a *App) facts(ctx context.Context) (doctor.Facts, error) {
	c, err := a.Config()
	if err != nil {
		return doctor.Facts{}, err
	}
	info := a.Host()
	f := doctor.Facts{
		Host: info, Survey: info.Look(), User: userName(), Root: os.Geteuid() == 0,
		Home: lookAtHome(c.Home), Now: a.Now(), Built: a.Build.Built, Proxy: proxyOf(c), OwnBuilds: !c.UsePublished,
	}
	a.tryBackend(ctx, c, &f)
	program, err := a.driver().Describe(ctx, info.Arch)
	f.Emulator, f.EmulatorError = program.String(), err
	_, f.Formatter = a.runner().Find(process.MkfsExt4)
	f.Builders = a.builders()
	certificates, err := c.HostCA()
	f.Certificates, f.CertError = len(certificates), err
	f.Namespaces, f.Groups = a.tryCage(ctx), a.tryGroup(ctx)
	f.ProxyFlag, f.Ping = a.proxyFlag(ctx, c), host.Ping()
	a.tryFirecracker(ctx, &f)
	a.tryImage(ctx, &f)
	return f, ctx.Err()
}

// tryBackend says which VMM is chosen, and why.
func (a *App) tryBackend(ctx context.Context, c config.Config, f *doctor.Facts) {
	m, err := a.Machine("", "")
	if err == nil {
		err = a.settle(ctx, &m, 0)
	}
	chosen(m, f)
	f.BackendError = err
	if err == nil && c.Backend != "" {
		f.Backend, f.BackendError = m.vmm+", as SMOLVM_BACKEND says", a.groundsFor(m.arch).refuse(m.vmm)
	}
}

// chosen tells the doctor which VMM runs sandboxes, and what is in the way of
// Firecracker.
func chosen(m machine, f *doctor.Facts) {
	f.VMM, f.Backend = m.vmm, m.vmm
	switch {
	case errors.Is(m.why, errNoFirecracker):
		f.Backend += ", as " + m.why.Error() // whose own check has more
	case m.why != nil:
		f.Backend += ", as Firecracker is not used: " + m.why.Error()
		f.BackendFix = fault.HintOf(m.why)
	}
}

// builders tells which program is missing for building a base here.
func (a *App) builders() error {
	for _, tool := range imagebuild.BaseTools() {
		if _, err := a.runner().Find(tool); err != nil {
			return err
		}
	}
	return nil
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "$USER"
}

// proxyOf is the proxy for https, without its password.
func proxyOf(c config.Config) string {
	for _, name := range []string{"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"} {
		if value := c.Getenv(name); value != "" {
			return fetch.Shown(value)
		}
	}
	return ""
}

// proxyFlag is the flag of start that a sandbox needs to reach this computer's proxy.
func (a *App) proxyFlag(ctx context.Context, c config.Config) string {
	for _, name := range []string{"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"} {
		if u, err := config.ProxyURL(c.Getenv(name)); err == nil && config.OnLoopback(u) {
			return fmt.Sprintf("--allow-host %d", config.ProxyPort(u))
		}
	}
	if all := a.closedProxies(ctx, c, egress.Policy{}, lookUp); len(all) > 0 {
		return all[0].flag
	}
	return ""
}

// lookAtHome tries the state folder, or where it would be made.
func lookAtHome(path string) doctor.Home {
	h := doctor.Home{Path: path}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if h.Err = writable(filepath.Join(path, "store")); h.Err == nil {
			h.Folder, h.Err = host.Try(nearest(path))
		}
		return h
	}
	h.Exists, h.Err = true, err
	if err == nil {
		h.Mode = info.Mode().Perm()
		h.Folder, h.Err = host.Try(path)
	}
	return h
}

// nearest is the first folder above path that exists.
func nearest(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || filepath.Dir(path) == path {
			return path
		}
		path = filepath.Dir(path)
	}
}

// tryCage really builds one, around this program.
func (a *App) tryCage(ctx context.Context) error {
	if a.Host().OS != "linux" {
		return errors.New("namespaces are a part of Linux")
	}
	return cage.Try(ctx, a.runner())
}

// tryGroup looks for a control group, and has systemd really make one where it would be
// asked.
func (a *App) tryGroup(ctx context.Context) cgroup.Outlook {
	o := cgroup.Here().Look()
	if !o.Scoped || o.Why != nil {
		return o
	}
	ctx, cancel := context.WithTimeoutCause(ctx, scopeLimit, errors.New("no answer in time"))
	defer cancel()
	if err := process.Run(a.runner().Scoped(ctx, "SmolVM's doctor", "version")); err != nil {
		o.Controllers, o.Why = nil, fault.New(fault.Host, fault.HintOf(err), "systemd makes no control group: %w", err)
	}
	return o
}

// tryFirecracker asks Firecracker what it is.
func (a *App) tryFirecracker(ctx context.Context, f *doctor.Facts) {
	if f.Host.OS != "linux" {
		return
	}
	c, err := a.Config()
	if err != nil {
		return // said already
	}
	f.FirecrackerNamed = a.global.Firecracker != "" || c.Firecracker != ""
	p, err := a.firecracker().Describe(ctx)
	f.Firecracker, f.FirecrackerSum, f.FirecrackerKnown, f.FirecrackerError = p.String(), p.SHA256, p.Known, err
}

// tryImage looks for the usual image and boots its kernel, under KVM where that
// seems to work.
func (a *App) tryImage(ctx context.Context, f *doctor.Facts) {
	limited, cancel := context.WithTimeoutCause(ctx, networkLimit, errors.New("no answer in time"))
	defer cancel()
	found, row, err := a.usualRow(limited, f)
	f.Catalogue.Err = err
	switch {
	case f.EmulatorError != nil && f.VMM != config.Firecracker:
		f.Boot.Why = "there is no QEMU for it"
	case err != nil || !f.Catalogue.Base:
		f.Boot.Why = "there is no kernel for it"
	default:
		a.tryBoot(ctx, found, row, f)
	}
	if f.Boot.Why != "" {
		f.KVM, _ = a.KVM(ctx, host.KVMOptions{VMM: a.Self})
	}
}

// usualRow finds the usual image and how much of it is here.
func (a *App) usualRow(ctx context.Context, f *doctor.Facts) (resolve.Catalogue, manifest.Row, error) {
	c, err := a.Config()
	if err != nil {
		return resolve.Catalogue{}, manifest.Row{}, err
	}
	f.Catalogue.Address = fetch.Shown(resolve.Address(c))
	if f.Catalogue.Address == "" {
		return resolve.Catalogue{}, manifest.Row{}, nil
	}
	found, err := a.Catalogue(ctx)
	if err != nil {
		return found, manifest.Row{}, err
	}
	f.Catalogue.Release, f.Catalogue.Signers = found.Manifest.Release, found.Signers
	f.Catalogue.Expires, f.Catalogue.Expired = found.Manifest.Expires, found.Expired
	row, there := found.Find(usualPreset, f.Host.Arch, cmp.Or(f.VMM, config.QEMU))
	if !there && f.VMM == config.Firecracker && c.Backend == "" {
		if row, there = found.Find(usualPreset, f.Host.Arch, config.QEMU); there { // as a start would
			f.VMM, f.Backend = config.QEMU, config.QEMU+", as the catalogue has no image for Firecracker"
		}
	}
	f.Catalogue.Image, f.Catalogue.Base = there, there
	if !there || !c.UsePublished { // what is built here stands on what any image stands on
		row = a.usualBase(found, f)
	}
	if f.Catalogue.Base {
		f.Catalogue.Missing, f.Catalogue.Expands, err = a.missingOf(ctx, found, row)
	}
	return found, row, err
}

// usualBase is what the usual image is built on where it is built here.
func (a *App) usualBase(found resolve.Catalogue, f *doctor.Facts) manifest.Row {
	b := localBuild{found: found, machine: machine{arch: f.Host.Arch, vmm: cmp.Or(f.VMM, config.QEMU)}}
	if all, err := a.AllPresets(); err == nil { // else nothing was built of it
		b.preset, _ = preset.Find(all, usualPreset)
	}
	row, there := b.foundation()
	f.Catalogue.Base, f.Catalogue.Made = there, there && a.Built(b, row)
	return row
}

// missingOf is how many bytes of a row are to be downloaded, and to be written.
func (a *App) missingOf(ctx context.Context, found resolve.Catalogue, row manifest.Row) (fetched, written int64, err error) {
	plan, err := found.Plan(ctx, row, inventory(a.Lookup))
	for _, step := range plan.Steps {
		if step.State == store.Absent {
			written += step.Asset.Content.Size
		}
	}
	return plan.Fetch, written, err
}

// inventory is what is in the cache.
type inventory func(ctx context.Context, key string) (store.Object, error)

// Lookup is resolve.Inventory's.
func (f inventory) Lookup(ctx context.Context, key string) (store.Object, error) { return f(ctx, key) }

// tryBoot boots a probe guest with the kernel of a row.
func (a *App) tryBoot(ctx context.Context, found resolve.Catalogue, row manifest.Row, f *doctor.Facts) {
	image, forget, err := a.kernelOf(ctx, found, row)
	if err != nil {
		f.Boot.Why = err.Error()
		return
	}
	defer forget()
	m := machine{arch: f.Host.Arch, vmm: cmp.Or(f.VMM, config.QEMU)}
	accel, reason, err := a.Accel(ctx, m, row, image)
	if errors.As(err, new(distrust)) && m.doubt(err) == nil { // as a start would
		chosen(m, f)
		accel, reason, err = a.Accel(ctx, m, row, image)
	}
	if err != nil {
		f.Boot.Why = err.Error()
		return
	}
	f.KVM = host.Verdict{Usable: accel == vmm.KVM, Reason: reason}
	limited, cancel := context.WithTimeoutCause(ctx, bootLimit, errors.New("silent for "+bootLimit.String()))
	defer cancel()
	begun := a.Now()
	err = a.probeGuest(limited, m, accel, image)
	f.Boot = doctor.Boot{Accel: string(accel), Took: a.Now().Sub(begun), Kernel: row.Kernel.Version, Err: err}
}

// kernelOf gives the kernel of a row: the cache's, or one that is downloaded and
// verified in a store of its own, which forget removes.
func (a *App) kernelOf(ctx context.Context, found resolve.Catalogue, row manifest.Row) (image record.Image, forget func(), err error) {
	row.Layers = nil
	if image, here := a.cachedKernel(ctx, found, row); here {
		return image, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "smolvm-doctor-")
	if err != nil {
		return image, nil, err
	}
	forget = func() { _ = os.RemoveAll(dir) }
	if image, err = a.fetchKernel(ctx, found, row, dir); err != nil {
		forget()
	}
	return image, forget, err
}

// cachedKernel is the kernel that is in the cache, untouched.
func (a *App) cachedKernel(ctx context.Context, found resolve.Catalogue, row manifest.Row) (image record.Image, here bool) {
	plan, err := found.Plan(ctx, row, inventory(a.Lookup))
	if err != nil || plan.Fetch > 0 {
		return image, false
	}
	image.CommandLine = row.Kernel.CommandLine
	for _, step := range plan.Steps {
		object, err := a.Lookup(ctx, step.Asset.Index.SHA256)
		if err != nil || object.State != store.Ready {
			return image, false
		}
		if step.Role == resolve.Kernel {
			image.Kernel = object.Path
		} else {
			image.Modules = object.Path
		}
	}
	return image, true
}

// fetchKernel brings the kernel into a new store in dir.
func (a *App) fetchKernel(ctx context.Context, found resolve.Catalogue, row manifest.Row, dir string) (record.Image, error) {
	kernels, err := store.Open(dir)
	if err != nil {
		return record.Image{}, err
	}
	plan, err := found.Plan(ctx, row, kernels)
	if err != nil {
		return record.Image{}, err
	}
	places := a.source().Mirrors(plan.Places, a.Progress())
	image, lease, err := acquire.New(kernels, places, a.Progress(), a.Now).Run(ctx, plan, acquire.Options{})
	if err != nil {
		return image, err
	}
	return image, lease.Release()
}
