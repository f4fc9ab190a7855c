//go:build vm

package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// withSSHConfig runs a program of OpenSSH's, or one that uses it, by nothing but the
// Include line that ssh-config says, and gives what it prints.
func (w *world) withSSHConfig(t *testing.T, stdin, program string, args ...string) string {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte("Include \""+w.home+"/ssh_config\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if program == "rsync" {
		args = append([]string{"-e", "ssh -F " + config}, args...)
	} else {
		args = append([]string{"-F", config}, args...)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = []string{"HOME=" + w.home, "PATH=" + w.path} // and not SMOLVM_HOME
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// someFiles makes a folder with a few files for the tools to carry.
func someFiles(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for path, text := range map[string]string{"a file": "one\n", "sub/run.sh": "#!/bin/sh\n", "sub/big": strings.Repeat("0123456789abcdef", 1<<16)} {
		at := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "sub/run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sums describes all files below a folder, of this computer or by way of run.
const sums = `cd "$1" && find . -mindepth 1 -printf '%P %y %l %m\n' | sort && find . -type f -exec sha256sum {} + | sort`

func localSums(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", sums, "sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestOpenSSHByConfig uses ssh, scp, sftp and rsync as a user does who has put the
// one line into his own configuration.
func TestOpenSSHByConfig(t *testing.T) {
	w := theWorld
	name := w.common(t)
	host := name + ".smolvm"
	if got := w.withSSHConfig(t, "in", "ssh", host, "cat; id -un"); got != "inagent\n" {
		t.Errorf("ssh says %q", got)
	}
	from := someFiles(t)
	want := localSums(t, from)
	check := func(what, dir string) {
		t.Helper()
		if got := w.must(t, "exec", name, "--", "sh", "-c", sums, "sh", dir); got != want {
			t.Errorf("%s left\n%s\nwant\n%s", what, got, want)
		}
	}
	w.withSSHConfig(t, "", "scp", "-q", "-p", "-r", from, host+":/workspace/scp")
	check("scp", "/workspace/scp")
	back := filepath.Join(t.TempDir(), "back")
	w.withSSHConfig(t, "", "scp", "-q", "-p", "-r", host+":/workspace/scp", back)
	if got := localSums(t, back); got != want {
		t.Errorf("scp brought back\n%s\nwant\n%s", got, want)
	}
	got := w.withSSHConfig(t, "cd /workspace\nput -r "+from+" sftp\nls -1 sftp\nbye\n", "sftp", "-q", "-p", "-b", "-", host)
	if !strings.Contains(got, "sftp/a file") {
		t.Errorf("sftp lists %q", got)
	}
}

func TestRsyncByConfig(t *testing.T) {
	w := theWorld
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Skip("this computer has no rsync")
	}
	name := w.common(t)
	host := name + ".smolvm"
	remote := w.rsyncInside(t, name)
	from := someFiles(t)
	if err := os.Symlink("a file", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	to := host + ":/workspace/rsync/"
	w.withSSHConfig(t, "", "rsync", "-a", "--rsync-path", remote, from+"/", to)
	want := localSums(t, from)
	if got := w.must(t, "exec", name, "--", "sh", "-c", sums, "sh", "/workspace/rsync"); got != want {
		t.Errorf("rsync left\n%s\nwant\n%s", got, want)
	}
	if got := w.must(t, "exec", name, "--", "readlink", "/workspace/rsync/link"); got != "a file\n" {
		t.Errorf("the link leads to %q", got)
	}
	// The second time only what changed goes over, and what is gone here goes there.
	if err := os.WriteFile(filepath.Join(from, "a file"), []byte("two and more\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(from, "sub/run.sh")); err != nil {
		t.Fatal(err)
	}
	got := w.withSSHConfig(t, "", "rsync", "-a", "-i", "--delete", "--rsync-path", remote, from+"/", to)
	if strings.Contains(got, "sub/big") || !strings.Contains(got, "a file") || !strings.Contains(got, "deleting") {
		t.Errorf("the second rsync did\n%s", got)
	}
	back := filepath.Join(t.TempDir(), "back")
	w.withSSHConfig(t, "", "rsync", "-a", "--rsync-path", remote, to, back)
	if got, want := localSums(t, back), localSums(t, from); got != want {
		t.Errorf("rsync brought back\n%s\nwant\n%s", got, want)
	}
}

// rsyncInside gives the command for rsync in the sandbox: its own, or this
// computer's with the libraries that it needs.
func (w *world) rsyncInside(t *testing.T, name string) string {
	t.Helper()
	if w.run(t, nil, "exec", name, "--", "rsync", "--version").status == 0 {
		return "rsync"
	}
	path, err := exec.LookPath("rsync")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", path, err)
	}
	dir := t.TempDir()
	files, loader := []string{path}, ""
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			files = append(files, word)
			if strings.Contains(word, "/ld-linux") {
				loader = filepath.Base(word)
			}
		}
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(file)), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const there = "/home/agent/rsync"
	w.must(t, "cp", dir, name+":"+there)
	return there + "/" + loader + " --library-path " + there + " " + there + "/rsync"
}

// The block follows the sandbox under another name while it runs.
func TestSSHConfigFollowsRename(t *testing.T) {
	w := theWorld
	w.sandbox(t, "before")
	w.must(t, "rename", "before", "after")
	t.Cleanup(func() { w.remove("after") })
	if got := w.withSSHConfig(t, "", "ssh", "after.smolvm", "echo in"); got != "in\n" {
		t.Errorf("ssh says %q", got)
	}
	if text := read(t, filepath.Join(w.home, "ssh_config")); strings.Contains(text, "before") {
		t.Errorf("the old name is still there:\n%s", text)
	}
}
