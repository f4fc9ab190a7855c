package supervise

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/smolvm/smolvm/internal/escrow"
	"github.com/smolvm/smolvm/internal/wire"
)

// hold gives the agent placeholders for the order's secrets, and begins to speak
// for it to their hosts.
func (s *supervisor) hold(life context.Context) error {
	if len(s.order.Secrets) == 0 {
		return nil
	}
	if !s.rec.Network || s.order.NoNet {
		return errors.New("the sandbox has no network in which placeholders could be replaced")
	}
	roots, err := s.roots()
	if err != nil {
		return err
	}
	if s.order.Credentials == nil {
		s.order.Credentials = &wire.Credentials{}
	}
	if s.order.Credentials.Env == nil {
		s.order.Credentials.Env = map[string]string{}
	}
	for i := range s.order.Secrets {
		secret := &s.order.Secrets[i]
		secret.Placeholder = escrow.Placeholder(secret.Prefix, s.rec.ID, secret.Name)
		s.order.Credentials.Env[secret.Name] = secret.Placeholder
	}
	if s.escrow, err = escrow.New(escrow.Config{Secrets: s.order.Secrets, Roots: roots, Now: s.Now, Log: s.log.Warn}); err != nil {
		return err
	}
	s.running.Go(func() {
		if err := s.escrow.Run(life); err != nil {
			s.log.Error("the credential proxy ended", "error", err)
		}
	})
	return nil
}

// roots are the certificate authorities that this computer trusts.
func (s *supervisor) roots() (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read this computer's certificate authorities: %w", err)
	}
	if s.Authorities == nil {
		return pool, nil
	}
	more, err := s.Authorities()
	for _, text := range more {
		pool.AppendCertsFromPEM([]byte(text))
	}
	return pool, err
}

// authority is the certificate that the guest, and nobody else, has to trust.
func (s *supervisor) authority() []byte {
	if s.escrow == nil {
		return nil
	}
	return s.escrow.Certificate()
}
