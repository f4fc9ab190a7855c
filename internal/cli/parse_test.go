package cli

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/preset"
)

// parsed runs the command that make gives with args and returns the options its
// run function was called with. A line in quotes is one argument.
func parsed[Options any](t *testing.T, make func(*App, func(context.Context, *App, Options) error) *cobra.Command, args ...string) (Options, error) {
	t.Helper()
	var got Options
	cmd := make(newWorld(t).app, func(_ context.Context, _ *App, o Options) error {
		got = o
		return nil
	})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SetArgs(args)
	return got, cmd.Execute()
}

// check compares the options of one command line.
func check[Options any](t *testing.T, make func(*App, func(context.Context, *App, Options) error) *cobra.Command, line string, want Options) {
	t.Helper()
	got, err := parsed(t, make, strings.Fields(line)...)
	if err != nil {
		t.Errorf("%q: %v", line, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%q: (-want +got)\n%s", line, diff)
	}
}

func TestParsePresetStart(t *testing.T) {
	claude := preset.Preset{Name: "claude-code"}
	start := func(app *App, run func(context.Context, *App, startOptions) error) *cobra.Command {
		return newPresetStart(app, claude, func(ctx context.Context, app *App, p preset.Preset, o startOptions) error {
			if p.Name != claude.Name {
				t.Errorf("started %q", p.Name)
			}
			return run(ctx, app, o)
		})
	}
	check(t, start, "", startOptions{Timeout: defaultTimeout, Wish: working})
	check(t, start, "-n work --cpus 2 --memory 1536M --disk 20g --arch arm64 --backend qemu --timeout 90s", startOptions{
		Name: "work", CPUs: 2, Memory: 1536 << 20, Disk: 20 << 30, Arch: "arm64", Backend: "qemu", Timeout: 90 * time.Second, Wish: working,
	})
	check(t, start, "--attach --rm --no-mount --json", startOptions{
		Attach: true, Remove: true, NoMount: true, JSON: true, Timeout: defaultTimeout, Wish: working,
	})
	check(t, start, "--no-attach --name=x", startOptions{NoAttach: true, Name: "x", Timeout: defaultTimeout, Wish: working})
	// All after -- is the agent's, whatever it looks like; a -- of its own stays.
	check(t, start, "--rm -- --rm -n y -- z", startOptions{
		Remove: true, Args: []string{"--rm", "-n", "y", "--", "z"}, Timeout: defaultTimeout, Wish: working,
	})
	check(t, start, "--", startOptions{Timeout: defaultTimeout, Wish: working})
}

// working is the session that a start wants.
var working = wish{Keys: defaultDetachKeys, Start: true}

func TestParseStart(t *testing.T) {
	check(t, newStart, "box", startOptions{Name: "box", Timeout: defaultTimeout, Wish: working})
	check(t, newStart, "--no-attach box --json", startOptions{Name: "box", NoAttach: true, JSON: true, Timeout: defaultTimeout, Wish: working})
	check(t, newStart, "box --attach -- -c --json", startOptions{
		Name: "box", Attach: true, Args: []string{"-c", "--json"}, Timeout: defaultTimeout, Wish: working,
	})
	for _, line := range []string{"", "a b", "a b -- c", "-- a", "--rm box", "--memory 1G box", "--timeout soon box"} {
		if o, err := parsed(t, newStart, strings.Fields(line)...); err == nil {
			t.Errorf("start %q was taken as %+v", line, o)
		}
	}
}

func TestParseAttach(t *testing.T) {
	usual := wish{Keys: defaultDetachKeys}
	check(t, newAttach, "", attachOptions{Wish: usual})
	check(t, newAttach, "box", attachOptions{Name: "box", Wish: usual})
	check(t, newAttach, "--json box -- -p hello", attachOptions{Name: "box", Args: []string{"-p", "hello"}, Wish: usual, JSON: true})
	check(t, newAttach, "-- -p", attachOptions{Args: []string{"-p"}, Wish: usual})
	check(t, newAttach, "--new --session s --detach-keys=", attachOptions{Wish: wish{Session: "s", New: true, Chosen: true}})
	for _, line := range []string{"a b", "a b -- c"} {
		if o, err := parsed(t, newAttach, strings.Fields(line)...); err == nil {
			t.Errorf("attach %q was taken as %+v", line, o)
		}
	}
}

func TestParseExec(t *testing.T) {
	check(t, newExec, "box ls -l --json", execOptions{Name: "box", Argv: []string{"ls", "-l", "--json"}, User: "agent", Input: true})
	check(t, newExec, "box -- ls --", execOptions{Name: "box", Argv: []string{"ls", "--"}, User: "agent", Input: true})
	check(t, newExec, "-T -u root -w /etc --json box -- -x", execOptions{
		Name: "box", Argv: []string{"-x"}, User: "root", Dir: "/etc", NoTTY: true, JSON: true, Input: true,
	})
	check(t, newExec, "-it -e A=1 -e B box sh", execOptions{
		Name: "box", Argv: []string{"sh"}, User: "agent", Input: true, TTY: true, Env: []string{"A=1", "B"},
	})
	for _, line := range []string{"", "box", "box --", "--user", "-x box ls"} {
		if o, err := parsed(t, newExec, strings.Fields(line)...); err == nil {
			t.Errorf("exec %q was taken as %+v", line, o)
		}
	}
}

func TestParseSSH(t *testing.T) {
	check(t, newSSH, "box", sshOptions{Name: "box", User: "agent", Command: []string{}})
	check(t, newSSH, "--stdio box", sshOptions{Name: "box", User: "agent", Command: []string{}, Stdio: true})
	check(t, newSSH, "-u root box ls --stdio", sshOptions{Name: "box", User: "root", Command: []string{"ls", "--stdio"}})
	if _, err := parsed(t, newSSH, "--stdio"); err == nil {
		t.Error("ssh without a name was taken")
	}
}

func TestParseTheRest(t *testing.T) {
	check(t, newList, "-q --json", listOptions{Quiet: true, JSON: true})
	check(t, newInfo, "box --json", infoOptions{Name: "box", JSON: true})
	check(t, newStop, "a b -t 3s", stopOptions{Names: []string{"a", "b"}, Grace: 3 * time.Second})
	check(t, newStop, "a", stopOptions{Names: []string{"a"}, Grace: defaultGrace})
	check(t, newDelete, "a b -y", deleteOptions{Names: []string{"a", "b"}, Yes: true})
	check(t, newDelete, "--all --yes --json", deleteOptions{Names: []string{}, All: true, Yes: true, JSON: true})
	check(t, newResize, "a --cpus 2 --memory 1G --disk 40G", resizeOptions{Name: "a", CPUs: 2, Memory: 1 << 30, Disk: 40 << 30})
	check(t, newRename, "a b --json", renameOptions{From: "a", To: "b", JSON: true})
	check(t, newFork, "a", forkOptions{Name: "a", Count: 1})
	check(t, newFork, "a -n 3 --with-secrets --json", forkOptions{Name: "a", Count: 3, Secrets: true, JSON: true})
	check(t, newSnapshotCreate, "a b --with-secrets --json", snapshotCreateOptions{Name: "a", Snapshot: "b", Secrets: true, JSON: true})
	check(t, newSnapshotRestore, "a -n b", snapshotRestoreOptions{Snapshot: "a", Name: "b"})
	check(t, newSnapshotList, "-q", listOptions{Quiet: true})
	check(t, newSnapshotRemove, "a b a", snapshotRemoveOptions{Names: []string{"a", "b"}})
	check(t, newLogs, "-f box", logsOptions{Name: "box", Follow: true})
	check(t, newLogs, "box --supervisor", logsOptions{Name: "box", Supervisor: true})
	check(t, newVersion, "--json", versionOptions{JSON: true})
	check(t, newImageList, "--available", imageListOptions{Available: true})
	check(t, newImagePull, "claude codex --arch arm64 --backend qemu", imagePullOptions{
		Presets: []string{"claude", "codex"}, Arch: "arm64", Backend: "qemu",
	})
	check(t, newImagePull, "--all", imagePullOptions{Presets: []string{}, All: true})
	check(t, newImageBuild, "claude --dry-run --arch arm64", imageBuildOptions{Presets: []string{"claude"}, DryRun: true, Arch: "arm64", Pack: packFast})
	check(t, newImageBuild, "--all --compression best", imageBuildOptions{Presets: []string{}, All: true, Pack: packBest})
	check(t, newImagePublish, "--no-sign --all out", imageBuildOptions{Presets: []string{}, Output: "out", All: true, NoSign: true, Pack: packFast})
	check(t, newImagePublish, "--key k out claude pi", imageBuildOptions{Presets: []string{"claude", "pi"}, Output: "out", Keys: []string{"k"}, Pack: packFast})
	check(t, newImagePublish, "--key k --key l --mirror https://m/ --mirror oci://r/x:1 out pi", imageBuildOptions{
		Presets: []string{"pi"}, Output: "out", Keys: []string{"k", "l"}, Mirrors: []string{"https://m/", "oci://r/x:1"}, Pack: packFast,
	})
	check(t, newImageInspect, "claude --json", imageInspectOptions{Images: []string{"claude"}, JSON: true})
	check(t, newImageVerify, "", imageVerifyOptions{Images: []string{}})
	check(t, newImageRemove, "a b --dry-run", imageRemoveOptions{Images: []string{"a", "b"}, DryRun: true})
	check(t, newImageSave, "-o f claude --arch arm64", imageSaveOptions{Presets: []string{"claude"}, Output: "f", Arch: "arm64"})
	check(t, newImageLoad, "-i f --json", imageLoadOptions{Input: "f", JSON: true})
	check(t, newImageMirror, "oci://r/x:1", imageMirrorOptions{Destination: "oci://r/x:1"})
	check(t, newImageSign, "--key k --key l d --json", imageSignOptions{Dir: "d", Keys: []string{"k", "l"}, JSON: true})
	check(t, newImageCheck, "https://e.org/", imageCheckOptions{Address: "https://e.org/"})
	check(t, newImageCheck, "--json", imageCheckOptions{JSON: true})
	check(t, newImageRotate, "--key k --trust p --threshold 2 d", imageRotateOptions{
		Dir: "d", Keys: []string{"k"}, Trust: []string{"p"}, Threshold: 2,
	})
	check(t, newPrune, "-a -y --dry-run --keep-storage 10G --json", pruneOptions{All: true, Yes: true, DryRun: true, Keep: 10 << 30, JSON: true})
	check(t, newTrustAdd, "k --catalogue /c", trustOptions{Key: "k", Catalogue: "/c"})
	check(t, newTrustRemove, "k --json", trustOptions{Key: "k", JSON: true})
}
