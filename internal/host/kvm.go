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
// anew each time. A cancelled ctx gives no verdict but its error.
func (i Info) KVM(ctx context.Context, o KVMOptions) (Verdict, error) {
	if i.OS != "linux" {
		return Verdict{Reason: "KVM is a part of Linux"}, nil
	}
	if err := openable(device); err != nil {
		return Verdict{Reason: whyClosed(err)}, nil
	}
	seen, known := recall(o.Cache)
	key, err := i.identify(o, seen)
	if err != nil {
		return Verdict{}, err
	}
	if known && i.BootID != "" && seen.Key == key {
		seen.Verdict.Cached = true
		return seen.Verdict, nil
	}
	v := probe(ctx, device, o.Guest)
	if err := ctx.Err(); err != nil {
		return Verdict{}, fmt.Errorf("probe KVM: %w", err)
	}
	if err := remember(o.Cache, record{Key: key, Verdict: v}); err != nil {
		return Verdict{}, err
	}
	return v, nil
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
func probe(ctx context.Context, device string, guest func(context.Context) error) Verdict {
	if err := instruction(device); err != nil {
		return Verdict{Reason: fmt.Sprintf("%s opens but runs no guest: %v", device, err)}
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
