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

// applyCertificates makes the seed's certificates known and returns the
// variables that name them. A joined bundle in /run serves sessions. Outside
// builds the image's own bundle gets them as well, for programs whose
// environment was cleared, and the folder from which update-ca-certificates
// would make that bundle anew. In a build nothing but /run is written, so that
// no layer holds a host's certificates.
func applyCertificates(root string, certs wire.CACerts, build bool) (map[string]string, error) {
	if len(certs.Trusted) == 0 {
		return nil, nil
	}
	extra, err := joinCertificates(certs.Trusted)
	if err != nil {
		return nil, err
	}
	image, err := os.ReadFile(filepath.Join(root, imageBundle))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read certificate bundle: %w", err)
	}
	bundle := image
	if !bytes.Contains(image, extra) {
		bundle = append(append(bytes.TrimRight(image, "\n"), '\n'), extra...)
	}
	files := map[string][]byte{
		runBundle: bundle,
		runExtra:  extra,
		// apt ignores the variables.
		runApt: []byte(`Acquire::https::CAInfo "/` + runBundle + "\";\n"),
	}
	if !build {
		files[imageBundle] = bundle
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
