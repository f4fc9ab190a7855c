package sandbox

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/seed"
	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/wire"
)

// idLen is the number of random bytes in an instance id.
const idLen = 8

// Create makes a sandbox's folder, keys, seed and scratch disk. Until its first
// start has become ready it belongs to this process: when that ends, or the
// start fails, the sandbox is removed. It fails with Conflict when the name is taken.
func (m *Manager) Create(ctx context.Context, spec Spec) (record.Record, error) {
	if spec.Mode == "" {
		spec.Mode = wire.ModeRun
	}
	lock, err := m.Book.Create(spec.Name)
	if err != nil {
		return record.Record{}, err
	}
	r, err := m.create(ctx, spec)
	if err != nil {
		return record.Record{}, errors.Join(err, lock.Remove())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fresh[spec.Name] = lock
	return r, nil
}

func (m *Manager) create(ctx context.Context, spec Spec) (record.Record, error) {
	id, err := m.newID()
	if err != nil {
		return record.Record{}, err
	}
	r := recordOf(spec)
	r.ID, r.Created = id, m.Now().UTC()
	if err := m.Book.Write(r); err != nil {
		return record.Record{}, err
	}
	folder := m.Book.Folder(spec.Name)
	keys, err := m.writeKeys(folder, spec.Name)
	if err != nil {
		return record.Record{}, err
	}
	if err := m.writeSeed(folder, spec, r.ID, keys); err != nil {
		return record.Record{}, err
	}
	done := event.Span(m.Sink, m.Now, event.Scratch, spec.Name)
	if err := disk.CreateScratch(ctx, m.Runner, folder.Scratch(), spec.DiskBytes); err != nil {
		return record.Record{}, err
	}
	done(spec.DiskBytes)
	return r, nil
}

func recordOf(s Spec) record.Record {
	return record.Record{
		Name: s.Name, Preset: s.Preset, Directory: s.Directory, Arch: s.Arch, VMM: s.VMM, Accel: string(s.Accel), VMMProgram: s.VMMProgram, Agent: s.Agent,
		Launch: s.Launch, Arguments: s.Arguments, Ports: s.Ports, Services: s.Services, Mounts: s.Mounts, Forwards: s.Forwards, Image: s.Image, CPUs: s.CPUs, MemoryMiB: s.MemoryMiB, DiskBytes: s.DiskBytes,
		Mode: s.Mode, Extra: s.Extra, ExtraReadOnly: s.ExtraReadOnly, Network: s.Network, Egress: s.Egress, State: record.Creating,
	}
}

// keyPairs are a sandbox's own keys.
type keyPairs struct{ host, client sshx.KeyPair }

// writeKeys makes the guest's host key and the one key it lets in.
func (m *Manager) writeKeys(folder record.Folder, name string) (keyPairs, error) {
	host, err := sshx.GenerateKey(m.Rand, "host@"+name)
	if err != nil {
		return keyPairs{}, err
	}
	client, err := sshx.GenerateKey(m.Rand, "smolvm@"+name)
	if err != nil {
		return keyPairs{}, err
	}
	known, err := sshx.KnownHosts(name, host.AuthorizedKey)
	if err != nil {
		return keyPairs{}, err
	}
	for path, text := range map[string]string{
		folder.HostKey():         host.PrivatePEM,
		folder.HostKeyPublic():   host.AuthorizedKey + "\n",
		folder.ClientKey():       client.PrivatePEM,
		folder.ClientKeyPublic(): client.AuthorizedKey + "\n",
		folder.KnownHosts():      known + "\n",
	} {
		if err := writeNew(path, text); err != nil {
			return keyPairs{}, fault.New(fault.Storage, "", "write the keys of sandbox %q: %w", name, err)
		}
	}
	return keyPairs{host, client}, nil
}

// writeNew writes a file that must not exist, for its owner only.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Sync(), f.Close())
}

func (m *Manager) writeSeed(folder record.Folder, spec Spec, id string, keys keyPairs) error {
	done := event.Span(m.Sink, m.Now, event.Seed, spec.Name)
	builds := spec.Mode == wire.ModeBuild || spec.Mode == wire.ModeBootstrap
	var search []string
	if !builds { // an image is the same wherever it is built
		search = host.Searched(host.ResolverFile)
	}
	err := seed.Write(folder.Seed(), seed.Build(seed.Input{
		Hostname: record.Hostname(spec.Name), InstanceID: id,
		HostKeyPrivate: keys.host.PrivatePEM, HostKeyPublic: keys.host.AuthorizedKey,
		AuthorizedKeys: []string{keys.client.AuthorizedKey},
		CACerts:        spec.CACerts, Env: spec.Env, Services: spec.Services, Build: builds, Search: search,
	}))
	done(0)
	return err
}
