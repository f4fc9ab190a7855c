package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

// mountView is a mount in JSON.
type mountView struct {
	Host     string `json:"host"`
	Guest    string `json:"guest"`
	File     bool   `json:"file"`
	ReadOnly bool   `json:"read_only"`
}

func mountsOf(all []record.Mount) []mountView {
	views := make([]mountView, 0, len(all))
	for _, m := range all {
		views = append(views, mountView{Host: m.Host, Guest: m.Guest, File: m.File, ReadOnly: m.ReadOnly})
	}
	return views
}

func (m mountView) access() string {
	if m.ReadOnly {
		return "read-only"
	}
	return "read-write"
}

func (m mountView) text() string { return fmt.Sprintf("%s at %s, %s", m.Host, m.Guest, m.access()) }

func mountText(m record.Mount) string { return mountsOf([]record.Mount{m})[0].text() }

// mountText is the plan's mounts for people.
func (p startPlan) mountText() string {
	if len(p.Mounts) == 0 {
		return "none"
	}
	lines := make([]string, len(p.Mounts))
	for i, m := range p.Mounts {
		lines[i] = m.text()
	}
	return strings.Join(lines, "; ")
}

func mountFlags(cmd *cobra.Command, o *startOptions) {
	flags := cmd.Flags()
	flags.StringArrayVar(&o.Mounts, "mount", nil,
		"mount a folder or file: `HOST[:GUEST[:ro]]`; without GUEST at "+wire.Workspace+"; may be repeated")
	flags.BoolVar(&o.SamePath, "mount-same-path", false, "without GUEST, mount at the path that HOST has here")
	flags.BoolVar(&o.NoMount, "no-mount", false, "mount nothing")
}

// mounts decides what is mounted where, outer ones first. All that cannot work is
// refused here, before anything is downloaded.
func (a *App) mounts(o startOptions) ([]record.Mount, error) {
	if o.NoMount {
		if len(o.Mounts) > 0 || o.SamePath {
			return nil, refuse("Give one of them.", "--no-mount excludes --mount and --mount-same-path")
		}
		return nil, nil
	}
	var all []record.Mount
	for _, text := range o.Mounts {
		m, err := a.mount(text, o.SamePath)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	all, err := a.withCurrent(all, o)
	if err != nil {
		return nil, err
	}
	if len(all) > wire.MaxMounts {
		return nil, refuse("Mount a folder around them.", "%d mounts are more than %d", len(all), wire.MaxMounts)
	}
	slices.SortStableFunc(all, func(x, y record.Mount) int {
		return strings.Count(x.Guest, "/") - strings.Count(y.Guest, "/")
	})
	for i, m := range all {
		if err := beside(m, all[:i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// mount reads one HOST[:GUEST[:ro]].
func (a *App) mount(text string, samePath bool) (record.Mount, error) {
	parts := strings.Split(text, ":")
	m := record.Mount{}
	if len(parts) > 3 || len(parts) == 3 && parts[2] != "ro" && parts[2] != "rw" {
		return m, refuse("Write HOST, HOST:GUEST or HOST:GUEST:ro; a path with a colon can be mounted as the current folder.",
			"--mount %s cannot be read", text)
	}
	m.ReadOnly = len(parts) == 3 && parts[2] == "ro"
	if err := a.locate(&m, parts[0]); err != nil {
		return m, fmt.Errorf("--mount %s: %w", text, err)
	}
	switch {
	case len(parts) > 1 && parts[1] != "":
		m.Guest = parts[1]
	case samePath:
		m.Guest = m.Host
	case m.File:
		return m, refuse("Write "+text+":GUEST.", "--mount %s: a file needs a path in the sandbox", text)
	default:
		m.Guest = wire.Workspace
	}
	if err := allowedTarget(m.Guest); err != nil {
		return m, fmt.Errorf("--mount %s: %w", text, err)
	}
	m.Guest = path.Clean(m.Guest)
	return m, nil
}

// locate finds the folder or file and notes its path without links.
func (a *App) locate(m *record.Mount, host string) error {
	if host == "" {
		return refuse("Write HOST, HOST:GUEST or HOST:GUEST:ro.", "no folder or file is named")
	}
	if !filepath.IsAbs(host) {
		if a.Directory == "" {
			return refuse("Go to one that is there, name an absolute path, or add --no-mount.", "the current folder is gone")
		}
		host = filepath.Join(a.Directory, host)
	}
	whole, err := filepath.EvalSymlinks(host)
	if err != nil {
		return notMountable(host, err)
	}
	info, err := os.Stat(whole)
	if err != nil {
		return notMountable(host, err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return refuse("Mount the folder around it.", "%s is neither a folder nor a file", host)
	}
	f, err := os.Open(whole)
	if err != nil {
		return notMountable(host, err)
	}
	m.Host, m.File = whole, !info.IsDir()
	return f.Close()
}

func notMountable(host string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.NotFound, "Make it first, or name another one.", "%s does not exist", host)
	}
	return fault.New(fault.Storage, "Name what you may read yourself.", "%w", err)
}

// ownTargets are folders that the guest needs as they are.
func ownTargets() []string {
	return []string{
		"/", "/bin", "/boot", "/dev", "/etc", "/home", wire.AgentHome, "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin",
		"/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/local", "/usr/local/bin",
		"/usr/local/lib", "/usr/sbin", "/usr/share", "/var", "/var/lib", "/var/log",
	}
}

// kernelTargets are those in which nothing can be mounted either.
func kernelTargets() []string { return []string{"/dev", "/proc", "/run", "/sys"} }

// allowedTarget refuses what would break the guest.
func allowedTarget(guest string) error {
	const hint = "Mount it at /workspace, or at a folder of its own such as /data."
	clean := path.Clean(guest)
	switch {
	case !path.IsAbs(guest):
		return refuse(hint, "%s is not an absolute path in the sandbox", guest)
	case strings.ContainsFunc(guest, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return refuse(hint, "the path in the sandbox has control characters")
	case len(guest) > 1024:
		return refuse(hint, "the path in the sandbox is too long")
	case slices.Contains(ownTargets(), clean):
		return refuse(hint, "the sandbox needs its own %s", clean)
	}
	for _, folder := range kernelTargets() {
		if strings.HasPrefix(clean, folder+"/") {
			return refuse(hint, "nothing can be mounted below %s", folder)
		}
	}
	return nil
}

// withCurrent adds the current folder where somebody sits at a terminal and
// nothing else is mounted in its place.
func (a *App) withCurrent(all []record.Mount, o startOptions) ([]record.Mount, error) {
	if !a.Streams.InTTY && !a.Streams.OutTTY {
		if o.SamePath && len(all) == 0 {
			return nil, refuse("Add --mount .", "--mount-same-path: not on a terminal, where the current folder is mounted by itself")
		}
		return all, nil
	}
	for _, m := range all {
		if m.Guest == wire.Workspace {
			return all, nil
		}
	}
	m := record.Mount{Guest: wire.Workspace}
	if err := a.locate(&m, "."); err != nil {
		return nil, err
	}
	if o.SamePath {
		m.Guest = m.Host
	}
	if slices.ContainsFunc(all, func(other record.Mount) bool { return other.Guest == m.Guest }) {
		return all, nil
	}
	if err := a.refuseCurrent(m.Host); err != nil {
		return nil, err
	}
	if err := allowedTarget(m.Guest); err != nil {
		return nil, err
	}
	return append([]record.Mount{m}, a.withRepository(m, all)...), nil
}

// refuseCurrent refuses to mount by itself what holds more than a project.
func (a *App) refuseCurrent(host string) error {
	const hint = "Go to a project's folder, or add --no-mount, or name it: --mount ."
	c, err := a.Config()
	if err != nil {
		return err
	}
	home, own := resolved(a.UserHome), resolved(c.Home)
	switch {
	case host == "/":
		return refuse(hint, "the current folder is /, which is not mounted unless it is named")
	case inside(home, host):
		return refuse(hint, "the current folder %s is or holds your home folder, which is not mounted unless it is named", host)
	case inside(own, host) || inside(host, own):
		return refuse(hint, "the current folder %s is or holds SmolVM's own files; it is not mounted unless it is named", host)
	}
	return nil
}

// resolved is a path without links, as far as it exists.
func resolved(path string) string {
	if whole, err := filepath.EvalSymlinks(path); err == nil {
		return whole
	}
	return path
}

// inside says whether path is folder or in it.
func inside(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && path != "" && filepath.IsLocal(rel)
}

// beside refuses a mount where another is, and one within another for which
// there is nothing to mount on: making that would change the user's folder.
func beside(m record.Mount, outer []record.Mount) error {
	for _, o := range slices.Backward(outer) {
		if o.Guest == m.Guest {
			return refuse("Name another path: HOST:GUEST.", "%s and %s would both be mounted at %s", o.Host, m.Host, m.Guest)
		}
		rel, err := filepath.Rel(o.Guest, m.Guest)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		on := filepath.Join(o.Host, rel)
		info, err := os.Stat(on)
		if err != nil || info.IsDir() == m.File {
			return refuse("Make it first, or mount elsewhere.",
				"%s is to be mounted at %s, which is in the mount of %s: there is no such %s there", m.Host, m.Guest, o.Host, kindText(m.File))
		}
		return nil
	}
	return nil
}

func kindText(file bool) string {
	if file {
		return "file"
	}
	return "folder"
}

// startFolder is where the agent starts: in the current folder that was mounted
// at its own path. Empty is the usual one.
func startFolder(all []record.Mount) string {
	for _, m := range all {
		if m.Guest == wire.Workspace {
			return ""
		}
	}
	for _, m := range all {
		if !m.File && m.Guest == m.Host {
			return m.Guest
		}
	}
	return ""
}
