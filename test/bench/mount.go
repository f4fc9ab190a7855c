//go:build linux

package main

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// mountWork does in one folder what programs do in a project, and says how long
// each took. Files that are read are not in the guest's memory.
const mountWork = `
import io, json, os, random, shutil, subprocess, sys, tarfile, time
top, files, tracked, mib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
took = {}
def timed(name, f):
    a = time.monotonic(); f(); took[name] = time.monotonic() - a
def cold(): subprocess.run(["sudo", "sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches"], check=True)
def git(*a): subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *a], check=True, stdout=subprocess.DEVNULL)
os.makedirs(top); os.chdir(top)
block = random.Random(1).randbytes(1 << 20)
def write():
    with open("big", "wb", 0) as f:
        for _ in range(mib): f.write(block)
        os.fsync(f.fileno())
def read():
    with open("big", "rb", 0) as f:
        while f.read(1 << 20): pass
timed("write", write); cold(); timed("read", read); os.remove("big")
def make():
    for i in range(files):
        if i % 100 == 0: os.makedirs(f"small/{i // 100}")
        with open(f"small/{i // 100}/{i}", "w") as f: f.write("a line\n" * 40)
def look():
    for folder, _, names in os.walk("small"):
        for n in names:
            with open(os.path.join(folder, n)) as f: f.read()
timed("make", make); cold(); timed("look", look); timed("remove", lambda: shutil.rmtree("small"))
os.mkdir("repository"); os.chdir("repository"); git("init", "-q", ".")
for i in range(tracked):
    if i % 50 == 0: os.mkdir(f"d{i // 50}")
    with open(f"d{i // 50}/{i}", "w") as f: f.write(f"line {i}\n" * 20)
timed("add", lambda: git("add", "-A")); git("commit", "-qm", "one"); time.sleep(1.1); git("status"); time.sleep(1.1)
timed("status", lambda: git("status")); os.chdir("..")
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w:gz") as t:
    for i in range(files // 2):
        info = tarfile.TarInfo(f"package/lib/{i % 7}/{i}.js"); info.size = 1500
        t.addfile(info, io.BytesIO(block[i:i + 1500]))
def install():  # as npm does: each package beside its place, then renamed to it
    for n in range(4):
        packed.seek(0)
        with tarfile.open(fileobj=packed) as t:
            members = t.getmembers()[n::4]
            t.extractall(f"node_modules/.{n}-new", members, filter="data")
        os.rename(f"node_modules/.{n}-new/package", f"node_modules/{n}"); os.rmdir(f"node_modules/.{n}-new")
    subprocess.run("grep -rl nothing node_modules", shell=True, stdout=subprocess.DEVNULL)
os.mkdir("node_modules"); timed("install", install); shutil.rmtree("node_modules")
for name in "package.json", "package-lock.json": shutil.copy("/workspace/" + name, ".")
timed("npm", lambda: subprocess.run(["npm", "ci", "--offline", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"], check=True, stdout=subprocess.DEVNULL))
os.chdir("/"); shutil.rmtree(top); print(json.dumps(took))
`

// How much is done.
const (
	mountFiles   = 10_000
	mountTracked = 5_000
	mountMiB     = 256
)

// npmProject are package.json and package-lock.json of a project as people have: a
// server, a page in React, TypeScript, a linter, tests; 308 packages.
//
//go:embed project
var npmProject embed.FS

// fillCache has npm download what the project needs, which is not measured.
const fillCache = `mkdir ~/warm && cp /workspace/package*.json ~/warm && cd ~/warm && npm ci --ignore-scripts --no-audit --no-fund --loglevel error && rm -rf ~/warm`

// mounts compares a mounted folder with the guest's own disk, by turns.
func (b *bench) mounts(ctx context.Context) (string, error) {
	if err := os.CopyFS(b.scratch, npmProject); err != nil {
		return "", err
	}
	project := filepath.Join(b.scratch, "project")
	if err := os.WriteFile(filepath.Join(project, "work.py"), []byte(mountWork), 0o644); err != nil {
		return "", err
	}
	if _, err := b.must(ctx, "claude", "start", "-n", "mounted", "--mount", project, "--no-attach"); err != nil {
		return "", err
	}
	defer func() { _, _ = b.must(context.WithoutCancel(ctx), "delete", "mounted", "--yes") }()
	if _, err := b.must(ctx, "exec", "mounted", "--", "sh", "-c", fillCache); err != nil {
		return "", err
	}
	own, there := map[string]series{}, map[string]series{}
	for range max(1, b.rounds/2) {
		for folder, all := range map[string]map[string]series{"/home/agent/work": own, "/workspace/work": there} {
			if err := b.mountRound(ctx, folder, all); err != nil {
				return "", err
			}
		}
	}
	return mountTable(own, there), nil
}

func (b *bench) mountRound(ctx context.Context, folder string, all map[string]series) error {
	out, err := b.must(ctx, "exec", "mounted", "--", "python3", "/workspace/work.py", folder,
		fmt.Sprint(mountFiles), fmt.Sprint(mountTracked), fmt.Sprint(mountMiB))
	if err != nil {
		return err
	}
	var took map[string]float64
	if err := json.Unmarshal([]byte(out), &took); err != nil {
		return fmt.Errorf("read what took how long: %w: %s", err, out)
	}
	for name, seconds := range took {
		all[name] = append(all[name], time.Duration(seconds*float64(time.Second)))
	}
	return nil
}

func mountTable(own, there map[string]series) string {
	var text strings.Builder
	text.WriteString("## Mounts\n\nThe same work of a Python program on a mounted folder and on the guest's own disk, by turns in one sandbox. What is read is not in the guest's memory.\n\n| | mounted | own disk | ratio |\n|---|---|---|---|\n")
	for _, row := range []struct{ name, text string }{
		{"write", fmt.Sprintf("write %d MiB, fsync", mountMiB)},
		{"read", fmt.Sprintf("read %d MiB", mountMiB)},
		{"make", fmt.Sprintf("make %d files of 280 bytes", mountFiles)},
		{"look", fmt.Sprintf("read %d files", mountFiles)},
		{"remove", fmt.Sprintf("remove %d files", mountFiles)},
		{"add", fmt.Sprintf("`git add` of %d files", mountTracked)},
		{"status", fmt.Sprintf("`git status` of %d files", mountTracked)},
		{"install", fmt.Sprintf("unpack and rename 4 packages with %d files, search them", mountFiles/2)},
		{"npm", "`npm ci` of a project with 308 packages, all in npm's cache"},
	} {
		fmt.Fprintf(&text, "| %s | %s | %s | %.1f |\n", row.text, there[row.name], own[row.name], ratio(there[row.name], own[row.name]))
	}
	return text.String()
}
