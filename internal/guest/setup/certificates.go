//go:build linux

package setup

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/smolvm/smolvm/internal/wire"
)

// Where certificates are found and put.
const (
	imageBundle = "etc/ssl/certs/ca-certificates.crt"
	localCerts  = "usr/local/share/ca-certificates"
	runBundle   = "run/smolvm/ca-certificates.crt"
	runExtra    = "run/smolvm/ca-extra.crt"
	runApt      = "run/smolvm/apt.conf"
)

// Trust adds the certificate of a file to those of the seed, if there is one.
func (s *Seed) Trust(file string) error {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the certificate of this start: %w", err)
	}
	s.User.CACertificates.Trusted = append(s.User.CACertificates.Trusted, string(raw))
	return nil
}

// addedMark begins, in a bundle, what was added to it. The certificates of a start
// replace those of the one before.
const addedMark = "# Added by SmolVM at this start; what follows is replaced at the next.\n"

// applyCertificates makes the seed's certificates known and returns the
// variables that name them. A joined bundle in /run serves sessions. Outside
// builds the image's own bundle gets them as well, for programs whose
// environment was cleared, and the folder from which update-ca-certificates
// would make that bundle anew. In a build nothing but /run is written, so that
// no layer holds a host's certificates.
func applyCertificates(root string, certs wire.CACerts, build bool) (map[string]string, error) {
	extra, err := joinCertificates(certs.Trusted)
	if err != nil {
		return nil, err
	}
	image, err := os.ReadFile(filepath.Join(root, imageBundle))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read certificate bundle: %w", err)
	}
	image, _, marked := bytes.Cut(image, []byte(addedMark))
	switch {
	case len(extra) == 0 && !marked:
		return nil, nil
	case len(extra) == 0:
		return nil, forgetCertificates(root, image)
	}
	bundle := image
	if !bytes.Contains(image, extra) {
		bundle = slices.Concat(bytes.TrimRight(image, "\n"), []byte("\n"+addedMark), extra)
	}
	files := map[string][]byte{
		runBundle: bundle,
		runExtra:  extra,
		// apt ignores the variables.
		runApt: []byte(`Acquire::https::CAInfo "/` + runBundle + "\";\n"),
	}
	if !build {
		files[imageBundle] = bundle
		if err := removeLocal(root); err != nil {
			return nil, err
		}
		for i, cert := range certs.Trusted {
			files[filepath.Join(localCerts, "smolvm-"+strconv.Itoa(i)+".crt")] = trimCertificate(cert)
		}
	}
	for name, content := range files {
		if err := writeFile(filepath.Join(root, name), content, 0o644); err != nil {
			return nil, fmt.Errorf("write certificates: %w", err)
		}
	}
	return certificateEnv(), nil
}

// forgetCertificates takes away what an earlier start added.
func forgetCertificates(root string, image []byte) error {
	if err := removeLocal(root); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(root, imageBundle), image, 0o644); err != nil {
		return fmt.Errorf("write certificates: %w", err)
	}
	return nil
}

// removeLocal removes the certificates that earlier starts wrote.
func removeLocal(root string) error {
	old, _ := filepath.Glob(filepath.Join(root, localCerts, "smolvm-*.crt")) // the pattern is well formed
	var errs []error
	for _, path := range old {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// joinCertificates checks that each is PEM and nothing else and joins them.
func joinCertificates(certs []string) ([]byte, error) {
	var joined []byte
	for i, cert := range certs {
		block, _ := pem.Decode([]byte(cert))
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("seed: certificate %d is not PEM", i)
		}
		joined = append(joined, trimCertificate(cert)...)
	}
	return joined, nil
}

func trimCertificate(cert string) []byte {
	return append(bytes.TrimSpace([]byte(cert)), '\n')
}

// certificateEnv names the bundle for the tools that take no notice of the
// system's. Node has its own list and takes only additions, and reading a whole
// bundle again would cost it time at every start.
func certificateEnv() map[string]string {
	bundle := "/" + runBundle
	return map[string]string{
		"SSL_CERT_FILE":       bundle,
		"REQUESTS_CA_BUNDLE":  bundle,
		"CURL_CA_BUNDLE":      bundle,
		"GIT_SSL_CAINFO":      bundle,
		"PIP_CERT":            bundle,
		"NODE_EXTRA_CA_CERTS": "/" + runExtra,
		"UV_SYSTEM_CERTS":     "1",
		"APT_CONFIG":          "/" + runApt,
	}
}
