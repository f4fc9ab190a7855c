package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// want is what a command line should do.
type want struct {
	status int
	log    []string // asked of the rooms below
	out    string   // exactly
	errs   string   // contained in standard error; empty: it is empty
}

func (w *fakeWorld) run(t *testing.T, line string, want want) {
	t.Helper()
	if got := w.app.Main(strings.Fields(line)); got != want.status {
		t.Errorf("%s: exit status %d, want %d; said %s", line, got, want.status, &w.errs)
	}
	if diff := cmp.Diff(want.log, w.log); diff != "" {
		t.Errorf("%s: did (-want +got)\n%s", line, diff)
	}
	if diff := cmp.Diff(want.out, w.out.String()); diff != "" {
		t.Errorf("%s: wrote (-want +got)\n%s", line, diff)
	}
	if errs := w.errs.String(); !strings.Contains(errs, want.errs) || (want.errs == "" && errs != "") {
		t.Errorf("%s: said %q, want %q", line, errs, want.errs)
	}
}

// With --progress json a failure is one line of JSON, too.
func TestFailureAsEvent(t *testing.T) {
	newWorld(t).run(t, "--progress json prune --keep-storage 5G extra", want{status: 2, errs: `"kind":"error","code":"usage","message":`})
}

// Everything that can be refused is refused before any work: the log is empty.
func TestRefusedBeforeWork(t *testing.T) {
	for line, want := range map[string]want{
		"claude start -n Bad_Name":                       {status: 125, errs: `sandbox name "Bad_Name"`},
		"claude start -n taken":                          {status: 125, errs: `already a sandbox "taken"`},
		"claude start --memory 9G":                       {status: 125, errs: "--memory 9.0 GiB is more than this computer's 8.0 GiB\n  hint: Give less, such as 4G."},
		"claude start --memory 10M":                      {status: 125, errs: "--memory 10.0 MiB is too little"},
		"claude start --memory 4096":                     {status: 125, errs: "has no unit"},
		"claude start --memory 0G":                       {status: 125, errs: `size "0G" is nothing`},
		"claude start --memory lots":                     {status: 125, errs: "is not a whole number"},
		"claude start --disk 1M":                         {status: 125, errs: "--disk 1.0 MiB is too small\n  hint: Give at least 256M."},
		"claude start --disk 9T":                         {status: 125, errs: "--disk 9.0 TiB is too large\n  hint: Give at most 8T."},
		"claude start --cpus 5":                          {status: 125, errs: "--cpus 5 is more than this computer's 4"},
		"claude start --cpus -1":                         {status: 125, errs: "--cpus -1 is too few"},
		"claude start --cpus 0":                          {status: 125, errs: "--cpus 0 is too few"},
		"claude start --cpus two":                        {status: 125, errs: `--cpus "two" is not a whole number`},
		"claude start --backend vbox":                    {status: 125, errs: `no backend "vbox"`},
		"claude start --timeout 0s":                      {status: 125, errs: "leaves no time to boot"},
		"claude start --attach --no-attach":              {status: 125, errs: "exclude each other"},
		"claude start --no-attach -- --version":          {status: 125, errs: "--no-attach does not run it"},
		"claude start --rm":                              {status: 125, errs: "nothing is attached here"},
		"claude start --rm --no-attach":                  {status: 125, errs: "nothing is attached here"},
		"claude start work":                              {status: 125, errs: `unexpected argument "work"`},
		"claude start work -- x":                         {status: 125, errs: `unexpected argument "work"`},
		"claude start --memry 1G":                        {status: 125, errs: "Did you mean --memory?"},
		"claude start --progress loud":                   {status: 125, errs: `--progress "loud" is not a style`},
		"claude strat":                                   {status: 2, errs: "Did you mean start?"},
		"claude strat --memory 1G":                       {status: 2, errs: "Did you mean start?"},
		"cluade start":                                   {status: 125, errs: "smolvm: there is no preset \"cluade\"\n  hint: Did you mean claude?"},
		"cluade start -n x":                              {status: 125, errs: `there is no preset "cluade"`},
		"lst":                                            {status: 2, errs: "smolvm: smolvm has no command \"lst\"\n  hint: Did you mean list?"},
		"zzzzzz":                                         {status: 2, errs: "See smolvm --help."},
		"--quietly list":                                 {status: 2, errs: "unknown flag: --quietly"},
		"image mirror https://e.org/i":                   {status: 2, errs: `nothing can be published at a "https://" address`},
		"image mirror file://host/i":                     {status: 2, errs: "is not the address of a folder"},
		"image build --output s3://b/i --key k claude":   {status: 2, errs: `at a "s3://" address`},
		"image publish out claude":                       {status: 2, errs: "publishing needs a key that signs"},
		"image build --output out claude":                {status: 2, errs: "publishing needs a key that signs"},
		"image build --key k claude":                     {status: 2, errs: "no destination was given"},
		"image publish --no-sign oci://h/i:1 claude":     {status: 2, errs: "what is in a registry has to be signed"},
		"image rotate --key k --trust t http://h/i":      {status: 2, errs: `at a "http://" address`},
		"list more":                                      {status: 2, errs: `smolvm list: unexpected argument "more"`},
		"claude start --memory":                          {status: 125, errs: "--memory needs a value"},
		"claude start --timeout soon":                    {status: 125, errs: `--timeout "soon" is not a time, such as 90s or 5m`},
		"claude start --keep=maybe":                      {status: 125, errs: `--keep "maybe" is neither true nor false`},
		"rename taken":                                   {status: 2, errs: "smolvm rename: NEW-NAME is missing"},
		"port add taken":                                 {status: 2, errs: "smolvm port add: [[ADDRESS:]HOST:]PORT is missing"},
		"env set":                                        {status: 2, errs: "NAME is missing"},
		"env set taken":                                  {status: 2, errs: "VARIABLE[=VALUE] is missing"},
		"ssh":                                            {status: 125, errs: "NAME is missing"},
		"image publish out":                              {status: 2, errs: "PRESET is missing"},
		"image publish --all out claude":                 {status: 2, errs: `unexpected argument "claude"`},
		"help nope":                                      {status: 2, errs: "smolvm: smolvm has no command \"nope\"\n"},
		"help port lst":                                  {status: 2, errs: "smolvm port has no command \"lst\"\n  hint: Did you mean list?"},
		"info":                                           {status: 2, errs: "NAME is missing\n  hint: Usage: smolvm info NAME\n"},
		"info takn":                                      {status: 3, errs: "there is no sandbox \"takn\"\n  hint: Did you mean taken?"},
		"start nowhere":                                  {status: 125, errs: "See smolvm list."},
		"start":                                          {status: 125, errs: "the sandbox's name is missing"},
		"start a b":                                      {status: 125, errs: "unexpected argument"},
		"start --attach --no-attach taken":               {status: 125, errs: "exclude each other"},
		"stop taken nowhere":                             {status: 3, errs: `there is no sandbox "nowhere"`},
		"stop -t -1s taken":                              {status: 2, errs: "is negative"},
		"attach taken":                                   {status: 125, errs: "smolvm: sandbox \"taken\" is stopped\n  hint: Start it: smolvm start taken"},
		"exec taken ls":                                  {status: 125, errs: "is stopped"},
		"exec taken":                                     {status: 125, errs: "needs a sandbox and a command"},
		"exec taken --":                                  {status: 125, errs: "needs a sandbox and a command"},
		"exec -u daemon taken ls":                        {status: 125, errs: `no user "daemon"`},
		"ssh taken":                                      {status: 125, errs: "is stopped"},
		"ssh --stdio taken ls":                           {status: 125, errs: "exclude each other"},
		"delete":                                         {status: 2, errs: "give names or --all"},
		"delete --all taken":                             {status: 2, errs: "give names or --all"},
		"delete --all":                                   {status: 2, errs: "no terminal to ask on"},
		"delete nowhere taken":                           {status: 3, errs: `there is no sandbox "nowhere"`},
		"logs --network --supervisor off":                {status: 2, errs: "different logs"},
		"logs nowhere":                                   {status: 3, errs: "there is no sandbox"},
		"image pul":                                      {status: 2, errs: "Did you mean pull?"},
		"image pull":                                     {status: 2, errs: "give presets or --all"},
		"image pull cluade":                              {status: 3, errs: "Did you mean claude?"},
		"image pull --arch riscv64 claude":               {status: 2, errs: "not an architecture"},
		"image inspect cluade":                           {status: 3, log: []string{"catalogue"}, errs: "there is no image \"cluade\"\n  hint: Did you mean claude?"},
		"image inspect codex":                            {status: 3, log: []string{"catalogue"}, errs: "smolvm codex start builds it here"},
		"image verify codex":                             {status: 3, errs: "no image of codex is in the cache\n  hint: Get one: smolvm image pull codex"},
		"image rm":                                       {status: 2, errs: "IMAGE is missing"},
		"image rm 2026.1/claude-code-arm64-qemu":         {status: 3, errs: "Did you mean 2026.1/claude-code-amd64-qemu?"},
		"image rm claude nothing":                        {status: 3, errs: "there is no image \"nothing\"\n  hint: See smolvm image list."},
		"image save":                                     {status: 2, errs: "PRESET is missing"},
		"image save --json claude":                       {status: 2, out: envelopeError("usage", "the tar and --json cannot both go to standard output", "Give --output FILE.")},
		"image load -i nowhere.tar":                      {status: 3, errs: "nowhere.tar"},
		"image load more":                                {status: 2, errs: `unexpected argument "more"`},
		"image mirror":                                   {status: 2, errs: "DEST is missing"},
		"image mirorr x":                                 {status: 2, errs: "Did you mean mirror?"},
		"image rotate d":                                 {status: 2, errs: "a new key list needs keys and signatures"},
		"image rotate --key k --trust p --threshold 2 d": {status: 2, errs: "--threshold 2 is not between 1 and the number"},
		"image rotate --key nowhere.key --trust nowhere.pub d": {status: 2, errs: "nowhere.key"},
		"prune --keep-storage 5":                               {status: 2, errs: "has no unit"},
		"prune --keep-storage -5G":                             {status: 2, errs: "--keep-storage"},
		"prune --dryrun":                                       {status: 2, errs: "Did you mean --dry-run?"},
		"purne":                                                {status: 2, errs: "Did you mean prune?"},
		"config sho":                                           {status: 2, errs: "Did you mean show?"},
		"config trust ad":                                      {status: 2, errs: "Did you mean add?"},
		"config trust add":                                     {status: 2, errs: "KEY is missing"},
		"config trust add k.pub":                               {status: 2, errs: "no catalogue is configured that a key could be for"},
		"config trust add k.pub --catalogue /c":                {status: 2, errs: "\"k.pub\" is neither a public key nor a file that can be read: no such file"},
		"completion bsh":                                       {status: 2, errs: "Did you mean bash?"},
	} {
		w := newWorld(t)
		w.add("taken", sandbox.Stopped)
		w.run(t, line, want)
	}
}

// A host that cannot run a sandbox, or a cache that cannot be written, is found
// out before the download.
func TestUnableHostIsFoundFirst(t *testing.T) {
	w := newWorld(t)
	w.able = fault.New(fault.Host, "Install it.", "there is no QEMU")
	w.run(t, "claude start --no-attach", want{status: 125, errs: "smolvm: there is no QEMU\n  hint: Install it."})
}

func TestStartDetached(t *testing.T) {
	w := newWorld(t)
	w.run(t, "claude start --cpus 3 --memory 1536M --disk 1G --timeout 9s", want{
		log:  []string{"catalogue", "pull claude-code", "create claude-code", "give up", "start claude-code 9s"},
		out:  "claude-code\n",
		errs: "claude-code is running. Run its agent with: smolvm attach claude-code\n",
	})
	for _, notice := range []string{
		"Nothing of this computer is mounted; --mount . mounts the current folder at /workspace.\n",
		"The kernel is a stand-in for SmolVM's own: 6.12.1-cloud (Debian's cloud kernel).\n",
		"The sandbox is emulated and therefore slow: /dev/kvm is not there.\n",
	} {
		if !strings.Contains(w.errs.String(), notice) {
			t.Errorf("never said %q in %q", notice, &w.errs)
		}
	}
	spec := w.created[0]
	wanted := sandbox.Spec{
		Name: "claude-code", Preset: "claude-code", Agent: spec.Agent, Launch: []string{"claude-code", "--yolo"},
		Image: spec.Image, Arch: "amd64", VMM: "qemu", Accel: vmm.TCG, CPUs: 3, MemoryMiB: 1536, DiskBytes: 1 << 30,
		Mode: wire.ModeRun, Network: true, Env: spec.Env, CACerts: spec.CACerts, // of the host the test runs on
	}
	if diff := cmp.Diff(wanted, spec); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultSizes(t *testing.T) {
	w := newWorld(t)
	w.rows[0].Resources.CPUs, w.rows[0].Resources.MemoryMiB = 16, 16384
	w.app.Main([]string{"claude", "start", "--no-mount"})
	if got := w.created[0]; got.CPUs != 4 || got.MemoryMiB != 6144 || got.DiskBytes != 20480<<20 {
		t.Errorf("got %d CPUs, %d MiB, %d bytes of disk; the host has 4 and 8192", got.CPUs, got.MemoryMiB, got.DiskBytes)
	}
	if strings.Contains(w.errs.String(), "mounted") {
		t.Errorf("--no-mount was told about mounts: %q", &w.errs)
	}
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	w.add("claude-code", sandbox.Running)
	w.add("claude-code-3", sandbox.Running)
	// Another process takes claude-code-2 in between.
	w.createErr = []error{fault.New(fault.Conflict, "", "taken")}
	w.app.Main([]string{"claude", "start"})
	wanted := []string{"catalogue", "pull claude-code", "create claude-code-2", "create claude-code-4", "give up", "start claude-code-4 2m0s"}
	if diff := cmp.Diff(wanted, w.log); diff != "" {
		t.Error(diff)
	}
	w = newWorld(t)
	w.createErr = []error{fault.New(fault.Conflict, "", "taken meanwhile")}
	w.run(t, "claude start -n mine", want{
		status: 125, errs: "taken meanwhile", log: []string{"catalogue", "pull claude-code", "create mine", "give up"},
	})
}

func TestStartAttached(t *testing.T) {
	w := newWorld(t)
	w.app.Streams.In = strings.NewReader("input")
	w.program = func(c supervise.Command, s supervise.Streams) (int, error) {
		data, err := io.ReadAll(s.In)
		fmt.Fprintf(s.Out, "got %s", data)
		return 42, err
	}
	w.run(t, "claude start --rm --no-mount -n x -- -p go", want{
		status: 42,
		log: []string{
			"catalogue", "pull claude-code", "create x", "give up", "start x 2m0s",
			"exec x claude-code --yolo -p go user= dir= tty=false", "delete x",
		},
		out:  "got input",
		errs: "stand-in",
	})
	if strings.Contains(w.errs.String(), "smolvm:") {
		t.Errorf("something was said about the program's status: %q", &w.errs)
	}
}

func TestStartAttachedJSON(t *testing.T) {
	w := newWorld(t)
	w.program = func(_ supervise.Command, s supervise.Streams) (int, error) {
		fmt.Fprint(s.Out, "out")
		fmt.Fprint(s.Err, "err")
		return 3, nil
	}
	if got := w.app.Main(strings.Fields("claude start --json -- x")); got != 3 {
		t.Errorf("exit status %d", got)
	}
	var envelope struct {
		Schema int
		OK     bool
		Data   ended
	}
	if err := json.Unmarshal(w.out.Bytes(), &envelope); err != nil {
		t.Fatal(err)
	}
	wanted := ended{Sandbox: "claude-code", ExitStatus: 3, Stdout: "out", Stderr: "err"}
	if diff := cmp.Diff(wanted, envelope.Data); diff != "" || !envelope.OK {
		t.Error(diff)
	}
}

func TestFailuresInJSON(t *testing.T) {
	for line, code := range map[string]fault.Code{
		"claude start --json -n Bad":    fault.Usage,
		"claude start --json --bogus":   fault.Usage,
		"cluade start --json":           fault.NotFound,
		"info --json nowhere":           fault.NotFound,
		"exec --json taken ls":          fault.NotRunning,
		"image pull --json codex":       fault.NotFound,
		"claude start -n taken --json":  fault.Conflict,
		"lst --json":                    fault.Usage,
		"delete --all --json":           fault.Usage,
		"stop --json taken nowhere":     fault.NotFound,
		"image list --available --json": fault.Trust,
	} {
		w := newWorld(t)
		w.add("taken", sandbox.Stopped)
		if strings.Contains(line, "--available") {
			w.catalogue = fault.New(fault.Trust, "", "unsigned")
		}
		w.app.Main(strings.Fields(line))
		var envelope struct {
			Schema int
			OK     bool
			Error  struct{ Code fault.Code }
		}
		if err := json.Unmarshal(w.out.Bytes(), &envelope); err != nil {
			t.Errorf("%s: %v in %q", line, err, &w.out)
		}
		if envelope.OK || envelope.Schema != 1 || envelope.Error.Code != code {
			t.Errorf("%s: got %+v, want %s", line, envelope, code)
		}
		if w.errs.Len() > 0 {
			t.Errorf("%s: also said %q", line, &w.errs)
		}
	}
	// A --json of the command in the sandbox is none of ours.
	w := newWorld(t)
	w.add("taken", sandbox.Stopped)
	w.run(t, "exec taken ls --json", want{status: 125, errs: "is stopped"})
}

func TestUnpublishedPreset(t *testing.T) {
	w := newWorld(t)
	w.run(t, "codex start", want{
		log: []string{"catalogue", "ask the VMM", "build codex: no image of codex for qemu on amd64 is published", "create codex", "give up", "start codex 2m0s"},
		out: "codex\n", errs: "codex is running",
	})
}

func TestOwnBuilds(t *testing.T) {
	w := newWorld(t)
	w.ownBuilds = true
	w.run(t, "claude start", want{
		log: []string{"ask the VMM", "build claude-code: SMOLVM_USE_PUBLISHED asks for it", "create claude-code", "give up", "start claude-code 2m0s"},
		out: "claude-code\n", errs: "claude-code is running",
	})
}

// TestUselessVMMIsToldBeforeTheDownload holds that nobody waits for bytes or a build
// that no machine can use, and that an image in the cache costs no question.
func TestUselessVMMIsToldBeforeTheDownload(t *testing.T) {
	for line, log := range map[string][]string{
		"claude start":           {"catalogue", "ask the VMM"},
		"codex start":            {"catalogue", "ask the VMM"},
		"claude start --dry-run": {"ask the VMM"},
	} {
		w := newWorld(t)
		w.cache, w.unsound = store.Absent, fault.New(fault.Host, "Install a newer one.", "it is too old")
		w.run(t, line, want{status: 125, log: log, errs: "smolvm: it is too old\n  hint: Install a newer one.\n"})
	}
	w := newWorld(t)
	w.unsound = errors.New("nobody should have asked")
	w.run(t, "claude start", want{
		log: []string{"catalogue", "pull claude-code", "create claude-code", "give up", "start claude-code 2m0s"}, out: "claude-code\n", errs: "is running",
	})
}

func TestFailedStartLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.startErr = fault.New(fault.Boot, "Give it more time.", "not ready in time")
	w.run(t, "claude start", want{
		status: 125, errs: "smolvm: not ready in time\n  hint: Give it more time.\n",
		log: []string{"catalogue", "pull claude-code", "create claude-code", "give up", "start claude-code 2m0s", "delete claude-code"},
	})
	w = newWorld(t)
	w.add("box", sandbox.Stopped)
	w.startErr = fault.New(fault.Boot, "", "not ready in time")
	w.run(t, "start box", want{status: 125, log: []string{"start box 2m0s"}, errs: "not ready"})
}

func TestInterruptedStart(t *testing.T) {
	w := newWorld(t)
	signals := make(chan os.Signal)
	w.app.Signals = signals
	w.startErr = fmt.Errorf("wait for ready: %w", context.Canceled)
	w.started = func(ctx context.Context) {
		signals <- syscall.SIGINT
		<-ctx.Done()
		signals <- syscall.SIGINT // is not taken as a reason to leave things behind
	}
	w.run(t, "claude start", want{
		status: 130, errs: "smolvm: interrupted\n",
		log: []string{"catalogue", "pull claude-code", "create claude-code", "give up", "start claude-code 2m0s", "delete claude-code"},
	})
	if len(w.boxes) > 0 {
		t.Errorf("left %v", w.boxes)
	}
}

// Signals reach a program that has no terminal; the third forces the end.
func TestSignalsArePassedOn(t *testing.T) {
	w := newWorld(t)
	w.add("box", sandbox.Running)
	signals := make(chan os.Signal)
	w.app.Signals = signals
	w.program = func(_ supervise.Command, s supervise.Streams) (int, error) {
		signals <- syscall.SIGTERM
		signals <- syscall.SIGINT
		if got := []string{<-s.Signals, <-s.Signals}; got[0] != "TERM" || got[1] != "INT" {
			return 0, fmt.Errorf("got the signals %v", got)
		}
		return 143, nil
	}
	w.run(t, "exec box sleep 9", want{status: 143, log: []string{"exec box sleep 9 user=agent dir= tty=false"}})
}

func TestThirdSignalForcesTheEnd(t *testing.T) {
	w := newWorld(t)
	w.add("box", sandbox.Running)
	signals := make(chan os.Signal)
	w.app.Signals = signals
	w.program = func(supervise.Command, supervise.Streams) (int, error) {
		for range forceAfter {
			signals <- syscall.SIGINT
		}
		signals <- syscall.SIGHUP // the third was handled when this one is taken
		return 0, errors.New("connection closed")
	}
	w.run(t, "exec box sleep 9", want{
		status: 130, errs: "interrupted", log: []string{"exec box sleep 9 user=agent dir= tty=false"},
	})
}

// OpenSSH hangs its proxy command up when it is done: that is no news.
func TestHungUpProxyIsSilent(t *testing.T) {
	w := newWorld(t)
	w.add("box", sandbox.Running)
	signals := make(chan os.Signal)
	w.app.Signals = signals
	w.proxied = func(ctx context.Context) error {
		signals <- syscall.SIGHUP
		<-ctx.Done()
		return ctx.Err()
	}
	w.run(t, "ssh --stdio box", want{status: 130, log: []string{"ssh box"}})
}

func TestRunningCommands(t *testing.T) {
	for line, want := range map[string]want{
		"exec box -- ls -l --json":                 {log: []string{"exec box ls -l --json user=agent dir= tty=false"}},
		"exec -u root -w /etc box ls":              {log: []string{"exec box ls user=root dir=/etc tty=false"}},
		"ssh box":                                  {log: []string{"exec box  user=agent dir= tty=false"}},
		"ssh box cd /; ls":                         {log: []string{"exec box bash -lc cd /; ls user=agent dir= tty=false"}},
		"ssh --stdio box":                          {log: []string{"ssh box"}, out: "SSH-2.0"},
		"attach box -- -c":                         {log: []string{"exec box claude --yolo -c user= dir= tty=false"}},
		"attach box":                               {log: []string{"exec box claude --yolo user= dir= tty=false"}},
		"start box":                                {out: "box\n", errs: "box is running", log: []string{"wake"}},
		"start box --keep":                         {out: "box\n", errs: "box is running", log: []string{"keep true"}},
		"start box --keep=false":                   {out: "box\n", errs: "box is running", log: []string{"keep false"}},
		"start box --keep=maybe":                   {status: 125, errs: "maybe"},
		"start box --attach":                       {log: []string{"wake", "exec box claude --yolo user= dir= tty=false"}},
		"start off --timeout 3s":                   {out: "off\n", errs: "off is running", log: []string{"start off 3s"}},
		"start off -- -c":                          {log: []string{"start off 2m0s", "exec off claude --yolo -c user= dir= tty=false"}},
		"stop box off box":                         {log: []string{"stop box 30s", "stop off 30s"}, errs: "stopped box\noff was not running\n"},
		"stop --all":                               {log: []string{"stop box 30s"}, errs: "stopped box\n"},
		"stop box off":                             {log: []string{"stop box 30s", "stop off 30s"}, errs: "stopped box\noff was not running\n"},
		"delete box":                               {log: []string{"delete box"}, errs: "deleted box\n"},
		"delete --all --yes":                       {log: []string{"delete box", "delete off"}, errs: "deleted box\ndeleted off\n"},
		"rm off --json":                            {log: []string{"delete off"}, out: envelopeOf(`{"deleted":["off"]}`)},
		"resize off --cpus 1":                      {log: []string{"resize off {CPUs:1 MemoryMiB:0 DiskBytes:0}"}, errs: "off: 1 CPU from its next start on\n"},
		"resize off --memory 1G --cpus 2":          {log: []string{"resize off {CPUs:2 MemoryMiB:1024 DiskBytes:0}"}, errs: "off: 1.0 GiB of memory from its"},
		"resize off --disk 40G":                    {log: []string{"resize off {CPUs:0 MemoryMiB:0 DiskBytes:42949672960}"}, errs: "off: a disk of 40.0 GiB from"},
		"resize off --disk 1G":                     {status: 2, errs: "cannot be made smaller"},
		"resize off --cpus 5":                      {status: 6, errs: "more than this computer's 4"},
		"resize box --disk 40G":                    {log: []string{"grow box 42949672960"}, errs: "box: a disk of 40.0 GiB now\n"},
		"resize box --disk 40G --cpus 1":           {status: 4, errs: "Its disk alone can grow while it runs."},
		"resize box --memory 1G":                   {status: 4, errs: "smolvm stop box"},
		"resize box --disk 1G":                     {status: 2, errs: "cannot be made smaller"},
		"resize off":                               {status: 2, errs: "nothing to change"},
		"resize off --cpus 0":                      {status: 2, errs: "too few"},
		"rename box new":                           {log: []string{"rename box new"}, errs: "renamed box to new\n"},
		"rename box new --json":                    {log: []string{"rename box new"}, out: envelopeOf(`{"name":"new","was":"box"}`)},
		"rename box box":                           {status: 2, errs: "has that name already"},
		"rename box Box":                           {status: 2, errs: "a character that names cannot have"},
		"fork box":                                 {log: []string{`fork box ["box-2"] secrets=false idle=10m0s`}, errs: "forked box: box-2\n"},
		"fork box -n 2 --with-secrets":             {log: []string{`fork box ["box-2" "box-3"] secrets=true idle=10m0s`}, errs: "forked box: box-2, box-3\n"},
		"fork off":                                 {status: 5, errs: "smolvm start off"},
		"fork nothere":                             {status: 3, errs: `there is no sandbox "nothere"`},
		"fork box -n 0":                            {status: 2, errs: "-n 0 is no number of forks"},
		"fork box -n 101":                          {status: 2, errs: "from 1 to 100"},
		"snapshot create box":                      {log: []string{"snapshot box box secrets=false"}, errs: "kept box as snapshot box, 200.0 MiB\n"},
		"snapshot create box ready --with-secrets": {log: []string{"snapshot box ready secrets=true"}, errs: "kept box as snapshot ready, 200.0 MiB\n"},
		"snapshot create off":                      {status: 5, errs: "smolvm start off"},
		"snapshot create nothere":                  {status: 3, errs: `there is no sandbox "nothere"`},
		"snapshot create box ../x":                 {status: 2, errs: `snapshot name "../x" has a character that names cannot have`},
		"snapshot restore ready":                   {log: []string{`restore ready ["box-2"] idle=10m0s`}, errs: "restored ready: box-2 runs\n"},
		"snapshot restore ready -n new":            {log: []string{`restore ready ["new"] idle=10m0s`}, errs: "restored ready: new runs\n"},
		"snapshot restore ready -n off":            {status: 4, errs: `there is already a sandbox "off"`},
		"snapshot restore ready -n A":              {status: 2, errs: "a character that names cannot have"},
		"snapshot restore read":                    {status: 3, errs: "Did you mean ready?"},
		"snapshot restore spoiled":                 {status: 4, errs: "cannot be restored"},
		"snapshot list -q":                         {out: "ready\nspoiled\n"},
		"snapshot rm ready":                        {log: []string{"snapshot rm ready"}, errs: "removed ready\n"},
		"snapshot rm nothere ready":                {status: 3, errs: `there is no snapshot "nothere"`},
		"snapshot rm":                              {status: 2, errs: "SNAPSHOT is missing"},
		"list -q":                                  {out: "box\noff\n"},
		"image pull claude":                        {log: []string{"catalogue", "pull claude-code", "give up"}, errs: "claude-code 2026.1 for qemu on amd64 is in the cache.\n"},
		"image pull --keep-archive claude":         {log: []string{"catalogue", "pull claude-code", "keep archive", "give up"}, errs: "is in the cache"},
		"image pull --all --progress json":         {log: []string{"catalogue", "pull claude-code", "give up"}, errs: `"kind":"notice"`},
		"image save -o /tmp/x.tar claude":          {log: []string{"catalogue", "pull claude-code", "save [claude-code-amd64-qemu] to /tmp/x.tar", "give up"}, errs: "Saved claude-code-amd64-qemu of release 2026.1, 5.0 MiB."},
		"image save claude":                        {log: []string{"catalogue", "pull claude-code", "save [claude-code-amd64-qemu] to ", "give up"}, out: "tar", errs: "Saved"},
		"image load":                               {log: []string{"load SSH-2.0"}, errs: "Loaded claude-code-amd64-qemu of release 2026.1 from /m.json, signed by 0123456789ABCDEF."},
		"image mirror /m":                          {log: []string{"catalogue", "mirror /m"}, out: "/m/manifest.json\n", errs: "9 files, 3.0 MiB, of which 1.0 MiB were copied now"},
		"image mirror oci://r/x:1":                 {log: []string{"catalogue", "mirror oci://r/x:1"}, out: "oci://r/x:1/manifest.json\n", errs: "mirrored"},
		"image rm claude":                          {log: []string{"remove 2026.1/claude-code-amd64-qemu dry=false"}, out: prunedText("freed"), errs: "Kept for sandbox off: 2025.9/codex-amd64-qemu, kernel 0123456789ab\n"},
		"image rm --dry-run 2026.1/claude-code-amd64-qemu claude": {log: []string{"remove 2026.1/claude-code-amd64-qemu dry=true"}, out: prunedText("would free"), errs: "Kept"},
		"prune":                                {log: []string{"prune all=false dry=false keep=-1 current=[2026.1]"}, out: prunedText("freed"), errs: "Kept"},
		"prune --dry-run --all":                {log: []string{"prune all=true dry=true keep=-1 current=[2026.1]"}, out: prunedText("would free"), errs: "Kept"},
		"prune --keep-storage 0 -y":            {log: []string{"prune all=false dry=false keep=0 current=[2026.1]"}, out: prunedText("freed"), errs: "Kept"},
		"prune --keep-storage 1G -y":           {log: []string{"prune all=false dry=false keep=1073741824 current=[2026.1]"}, out: prunedText("freed"), errs: "Kept"},
		"config trust list":                    {errs: "No key is trusted. Add one"},
		"image pull --all --arch arm64 --json": {status: 3, log: []string{"catalogue"}, out: envelopeError("not-found", "no image for qemu on arm64 is published", "See smolvm image list --available.")},
	} {
		w := newWorld(t)
		w.add("box", sandbox.Running)
		w.add("off", sandbox.Stopped)
		w.app.Streams.In = strings.NewReader("SSH-2.0")
		w.run(t, line, want)
	}
}

// TestEmptyWords are refused, as if not given they would mean something else.
func TestEmptyWords(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"start":         {[]string{"claude", "start", "-n", ""}, 125, `--name: it is empty`},
		"start, joined": {[]string{"claude", "start", "--name="}, 125, `--name: it is empty`},
		"network":       {[]string{"claude", "start", "--network", ""}, 125, `--network: it is empty`},
		"rate":          {[]string{"claude", "start", "--network-rate", ""}, 125, `--network-rate: it is empty`},
		"restore":       {[]string{"snapshot", "restore", "ready", "-n", ""}, 2, `--name: it is empty`},
		"create":        {[]string{"snapshot", "create", "box", ""}, 2, `snapshot name "" has 0 characters`},
	} {
		w := newWorld(t)
		w.add("box", sandbox.Running)
		if status := w.app.Main(c.args); status != c.status || !strings.Contains(w.errs.String(), c.says) || len(w.log) > 0 {
			t.Errorf("%s: status %d, work %q, said %s", name, status, w.log, &w.errs)
		}
	}
}

// TestNoRoomForANumber says how to fork or restore a sandbox whose name is as long as
// names are.
func TestNoRoomForANumber(t *testing.T) {
	long := strings.Repeat("x", 63)
	w := newWorld(t)
	w.add(long, sandbox.Running)
	w.run(t, "fork "+long, want{status: 2, errs: "leaves no room for -2\n  hint: Give it a shorter one with smolvm rename, or use smolvm snapshot create " + long + " and smolvm snapshot restore -n."})
	_, err := restoredName(w, sandbox.Kept{Record: record.Record{Snapshot: &record.Snapshot{Of: long}}}, "")
	if fault.CodeOf(err) != fault.Usage || fault.HintOf(err) != "Choose a name with -n." {
		t.Errorf("restored: %v", err)
	}
}

// prunedText is how newWorld's pruning is shown.
func prunedText(freed string) string {
	return "KIND     NAME                           FREES\n" +
		"object   base 0123456789ab              2.0 GiB\n" +
		"partial  abcdef012345                   1.0 GiB\n" +
		"image    2025.9/claude-code-amd64-qemu  8.0 KiB\n" + freed + " 3.0 GiB\n"
}

// envelopeOf is the envelope around compact JSON, as it is written.
func envelopeOf(data string) string {
	return indent(`{"schema":1,"ok":true,"data":` + data + `,"error":null}`)
}

func envelopeError(code, message, hint string) string {
	return indent(fmt.Sprintf(`{"schema":1,"ok":false,"data":null,"error":{"code":%q,"message":%q,"hint":%q}}`, code, message, hint))
}

func TestDeleteAsksOnATerminal(t *testing.T) {
	for _, c := range []struct {
		line, answer string
		want         want
	}{
		{"delete --all", "n\n", want{errs: "Delete box, off (running: box)? [y/N] "}},
		{"delete --all", "y\n", want{log: []string{"delete box", "delete off"}, errs: "deleted off"}},
		{"delete off", "", want{log: []string{"delete off"}, errs: "deleted off"}},
		{"delete box", "n\n", want{errs: "Delete box (running: box)?"}},
		{"delete off off", "", want{log: []string{"delete off"}, errs: "deleted off\n"}},
		{"delete box -y", "", want{log: []string{"delete box"}, errs: "deleted box"}},
	} {
		w := newWorld(t)
		w.add("box", sandbox.Running)
		w.add("off", sandbox.Stopped)
		w.app.Streams.InTTY, w.app.Streams.OutTTY = true, true
		w.app.Streams.In = strings.NewReader(c.answer)
		w.run(t, c.line, c.want)
	}
}

// With a terminal at both ends a program gets one, except where it is refused.
func TestTerminal(t *testing.T) {
	for line, tty := range map[string]bool{
		"exec box vi":           true,
		"exec -T box vi":        false,
		"exec --json box vi":    false,
		"attach box":            true,
		"ssh box":               true,
		"claude start":          true,
		"claude start -- x":     true,
		"start box":             true,
		"start --attach box":    true,
		"attach box -- --print": true,
	} {
		w := newWorld(t)
		w.add("box", sandbox.Running)
		w.app.Streams.InTTY, w.app.Streams.OutTTY = true, true
		w.app.Directory = t.TempDir()
		var got supervise.Command
		w.program = func(c supervise.Command, _ supervise.Streams) (int, error) {
			got = c
			return 0, nil
		}
		if status := w.app.Main(strings.Fields(line)); status != 0 {
			t.Errorf("%s: exit status %d: %s", line, status, &w.errs)
		}
		if got.TTY != tty || (tty && (got.Term != "xterm" || got.Size.Columns != 80)) {
			t.Errorf("%s: got %+v, want a terminal: %v", line, got, tty)
		}
	}
}

func TestStoppedSandboxWithAnAlteredLayerDoesNotBoot(t *testing.T) {
	w := newWorld(t)
	w.add("old", sandbox.Stopped)
	w.altered = fault.New(fault.Trust, "Pull the image again.", "check layer base: its bytes changed")
	w.run(t, "start old", want{status: 125, errs: "smolvm: check layer base: its bytes changed\n  hint: Pull the image again.\n"})
}
