package doctor

import (
	"fmt"
	"strings"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/fault"
)

// route is how this computer reaches the internet, which sandboxes inherit.
func route(f Facts) Check {
	c := Check{Name: "proxy and CA", State: OK, Found: "none of its own"}
	var has []string
	if f.Proxy != "" {
		has = append(has, "proxy "+f.Proxy)
	}
	if f.Certificates > 0 {
		has = append(has, fmt.Sprintf("%d certificates of its own", f.Certificates))
	}
	if len(has) > 0 {
		c.Found, c.Means = strings.Join(has, ", "), "sandboxes are given them too"
	}
	if f.ProxyFlag != "" {
		c.State, c.Means = Degraded, "the proxy is on an address that is closed to sandboxes"
		c.Fix = "Start them with " + f.ProxyFlag + "."
	}
	if f.CertError != nil {
		return failed("proxy and CA", Unusable, f.CertError, "no sandbox is made without this computer's certificates")
	}
	return c
}

// ping is no loss that a start would be refused for: little needs it.
func ping(f Facts) Check {
	c := Check{Name: "ping", State: OK, Found: "ordinary users may send pings"}
	if f.Ping != nil {
		c.Found, c.Means = f.Ping.Error(), "sandboxes cannot ping; all else of their network works"
		if hint := fault.HintOf(f.Ping); hint != "" {
			c.Fix, c.Commands = "Allow it, if you need it.", []string{hint}
		}
	}
	return c
}

func limits(f Facts) Check {
	c := Check{Name: "limits", State: OK, Found: fmt.Sprintf("%d open files", f.Survey.OpenFiles)}
	if f.Survey.Watches > 0 {
		c.Found += fmt.Sprintf(", %d watched files", f.Survey.Watches)
	}
	if f.Survey.OpenFiles > 0 && f.Survey.OpenFiles < openFiles {
		c.State, c.Means = Degraded, "many connections to a sandbox will fail"
		c.Fix = fmt.Sprintf("Raise it: ulimit -n %d", openFiles)
	}
	return c
}

// cage is what machine monitors are locked into without root. QEMU also runs without.
func cage(f Facts) Check {
	c := Check{Name: "confinement", State: OK, Found: "a cage without root works"}
	if f.Host.OS != "linux" {
		c.Found, c.Means = "cages are a part of Linux", "QEMU runs as any program of yours"
		return c
	}
	if f.Namespaces != nil {
		c.Found, c.Fix = "no cage can be made: "+f.Namespaces.Error(), fault.HintOf(f.Namespaces)
	} else if f.Root {
		c.Found = "a cage works for root; as another user that may differ"
	}
	c.Means = "QEMU and Firecracker run in one"
	if f.Namespaces != nil {
		c.Means = "QEMU runs with its filter of system calls alone; Firecracker is not used"
	}
	return c
}

// group is what limits a machine monitor as a whole. Without one each of its processes
// has limits, where it has a cage.
func group(f Facts) Check {
	c := Check{Name: "control group", State: OK}
	if f.Host.OS != "linux" {
		c.Found = "control groups are a part of Linux"
		return c
	}
	if f.Groups.Why != nil {
		c.Found, c.Fix = f.Groups.Why.Error(), fault.HintOf(f.Groups.Why)
		c.Means = "machine monitors have the limits of their cage alone"
		return c
	}
	c.Found = "each sandbox gets one that limits " + strings.Join(f.Groups.Controllers, ", ")
	if f.Groups.Scoped {
		c.Found += ", from systemd"
	}
	if missing := cgroup.Missing(f.Groups.Controllers); len(missing) > 0 {
		c.Means = "there is no controller for " + strings.Join(missing, " and ")
		c.Fix, c.Commands = "Let systemd give its users all of them, and log in again.", []string{delegation}
	}
	return c
}

// delegation gives the users' own systemds the controllers. Up to version 251 they lack
// that of processor time.
const delegation = `sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\nDelegate=cpu memory pids\n' | ` +
	`sudo tee /etc/systemd/system/user@.service.d/smolvm.conf && sudo systemctl daemon-reload`

func clock(f Facts) Check {
	c := Check{Name: "clock", State: OK, Found: f.Now.UTC().Format("2006-01-02 15:04 UTC")}
	switch {
	case f.Now.Before(f.Built):
		c.State, c.Means = Degraded, "that is before this program was built, so it is wrong: expiry cannot be judged"
		c.Fix, c.Commands = "Set it.", []string{"sudo timedatectl set-ntp true"}
	case !f.Survey.Synced:
		c.Found += ", not kept by a time service"
	}
	return c
}

// start is what `smolvm claude start` would do.
func start(f Facts, usable bool) string {
	const command = "smolvm claude start would "
	switch {
	case !usable:
		return command + "be refused: repair what is unusable first."
	case f.Catalogue.Err != nil:
		return command + "be refused: the catalogue of images cannot be read."
	case f.Catalogue.Expired && f.Catalogue.Missing > 0:
		return command + "be refused: the images have expired and are not all here."
	case f.buildsHere() && !f.Catalogue.Base && f.Builders != nil:
		return command + "be refused: no base is published for this computer, and none can be built: " + f.Builders.Error() +
			". " + fault.HintOf(f.Builders)
	}
	return command + obtain(f) + "boot it on " + how(f) + "."
}

// buildsHere tells whether the image of Claude Code is built on this computer.
func (f Facts) buildsHere() bool { return f.OwnBuilds || !f.Catalogue.Image }

// obtain is how the image comes here.
func obtain(f Facts) string {
	fetch := ""
	if f.Catalogue.Missing > 0 {
		fetch = fmt.Sprintf("download %.0f MiB of release %s, verify it, ", float64(f.Catalogue.Missing)/(1<<20), f.Catalogue.Release)
	}
	switch {
	case f.buildsHere() && !f.Catalogue.Base:
		return "build the image on this computer with its base, once, and "
	case f.buildsHere() && f.Catalogue.Made:
		return "take the image that was built here, and "
	case f.buildsHere():
		return fetch + "build the image on this computer, once, and "
	case fetch == "":
		return fmt.Sprintf("take release %s from the cache, download nothing, and ", f.Catalogue.Release)
	}
	return fetch + "and "
}

// how is what the sandbox runs on.
func how(f Facts) string {
	switch {
	case f.onFirecracker():
		return "Firecracker"
	case f.KVM.Usable:
		return "QEMU with KVM"
	case f.Host.OS == "darwin":
		return "QEMU with Apple's Hypervisor framework"
	}
	return "QEMU, emulated"
}
