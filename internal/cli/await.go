package cli

import (
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/wire"
)

// serviceTime bounds how long the agent's program waits for the services beside it. A
// client of a service that is slower than that says what it lacks.
const serviceTime = 5 * time.Minute

// awaitServices waits until the sandbox's services answer on their ports: the agent's
// program may be a client of one, or share files with it that a service which is
// starting keeps to itself.
func (a *App) awaitServices(ctx context.Context, boxes sandboxes, s sandbox.Status) error {
	return a.awaitServicesFor(ctx, boxes, s, serviceTime)
}

func (a *App) awaitServicesFor(ctx context.Context, boxes sandboxes, s sandbox.Status, limit time.Duration) error {
	patience, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, service := range s.Services {
		if service.Port == 0 {
			continue
		}
		if err := a.awaitService(patience, boxes, s.Name, service); err != nil {
			return err
		}
		if errors.Is(patience.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
			a.notice("The service %s does not answer after %v; the agent starts without it. See smolvm logs --service %s %s.",
				service.Name, limit, service.Name, s.Name)
			return nil
		}
	}
	return ctx.Err()
}

// awaitService takes the lock that the guest holds until the service answers. Where
// the guest has none, as it is older than this program, there is nothing to wait for.
func (a *App) awaitService(ctx context.Context, boxes sandboxes, name string, service wire.Service) error {
	conn, err := boxes.Connect(ctx, name)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer event.Span(a.Progress(), a.Now, event.Service, service.Name)(0)
	defer a.whenInterrupted(ctx, "The sandbox goes on running, unless it was started with --rm.")()
	_, err = conn.Exec(ctx, supervise.Command{Start: wire.Start{
		Argv: []string{"/usr/bin/flock", "--shared", path.Join(wire.ServiceGate, service.Name), "true"}, Dir: "/",
	}}, supervise.Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard})
	if ctx.Err() != nil {
		return nil // the caller knows whether it was the time or the user
	}
	return err
}
