package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// guestLimit bounds the probe guest: on a processor that runs it, it is up in
// well under a second; where KVM is useless it stays silent for half a minute.
const guestLimit = 5 * time.Second

// KVMOptions are what a KVM probe needs.
type KVMOptions struct {
	Cache  string // file of the verdict; empty: always probe
	VMM    string // path of the VMM that would use KVM
	Kernel string // SHA-256 of the guest kernel, in hexadecimal
	// Guest boots a guest of that kernel under that VMM with KVM and returns nil
	// once the guest's own program has run. It honours its context.
	Guest func(context.Context) error
}

// Verdict says whether KVM is of use.
type Verdict struct {
	Usable bool   `json:"usable"`
	Reason string `json:"reason"` // why not, one line for the user; empty when usable
	Cached bool   `json:"-"`      // known from an earlier probe during this boot
}

// device is where Linux offers KVM.
const device = "/dev/kvm"

// KVM finds out whether KVM really runs guests here. That it opens says little:
// on some virtual machines it even creates a VM, while no kernel gets past its
// first instructions. So one instruction is run first (2 ms), then a guest
// (bounded by 5 s). A verdict of those holds until the computer, its microcode,
// the VMM or the kernel changes; missing files and permissions are looked up
// anew each time. A cancelled ctx gives no verdict but its error. A verdict that
// cannot be kept is returned with a Storage fault.
func (i Info) KVM(ctx context.Context, o KVMOptions) (Verdict, error) {
	if i.OS != "linux" {
		return Verdict{Reason: "KVM is a part of Linux"}, nil
	}
	return i.decide(ctx, kvm{path: device, try: instruction}, o)
}

// kvm is the device and the way to run one instruction on it.
type kvm struct {
	path string
	try  func(path string) error
}

// decide is KVM for any device.
func (i Info) decide(ctx context.Context, k kvm, o KVMOptions) (Verdict, error) {
	if err := openable(k.path); err != nil {
		return Verdict{Reason: whyClosed(err)}, nil
	}
	seen, known := recall(o.Cache)
	id, vmm, err := i.identify(o, seen)
	if err != nil {
		return Verdict{}, err
	}
	known = known && i.BootID != "" && seen.Key == id
	if known && seen.VMM == vmm {
		seen.Verdict.Cached = true
		return seen.Verdict, nil
	}
	v := seen.Verdict // of the same bytes in a file that was only touched
	if !known {
		v = probe(ctx, k, o.Guest)
	}
	if err := ctx.Err(); err != nil {
		return Verdict{}, fmt.Errorf("probe KVM: %w", err)
	}
	v.Cached = known
	return v, remember(o.Cache, record{Key: id, VMM: vmm, Verdict: v})
}

func whyClosed(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no " + device + " (virtualization is off in the firmware, or this computer is itself virtual)"
	case errors.Is(err, fs.ErrPermission):
		return "no permission for " + device + " (add yourself to the group that owns it, often kvm)"
	}
	return fmt.Sprintf("%s does not open: %v", device, err)
}

// probe runs one instruction, then the guest.
func probe(ctx context.Context, k kvm, guest func(context.Context) error) Verdict {
	if err := k.try(k.path); err != nil {
		return Verdict{Reason: fmt.Sprintf("%s opens but runs no guest: %v", k.path, err)}
	}
	if guest == nil {
		return Verdict{Usable: true}
	}
	limited, cancel := context.WithTimeoutCause(ctx, guestLimit, fmt.Errorf("silent for %s", guestLimit))
	defer cancel()
	if err := guest(limited); err != nil {
		if limited.Err() != nil {
			err = context.Cause(limited)
		}
		return Verdict{Reason: fmt.Sprintf("a probe guest did not come up under KVM: %v", err)}
	}
	return Verdict{Usable: true}
}
