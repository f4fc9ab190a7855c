// Package oci finds files in an OCI registry and puts them there.
//
// A release is one OCI image manifest whose layers are the release's files, each
// titled with its name (org.opencontainers.image.title). An address is
// oci://host[:port]/repository[:tag|@digest]#file. Output is where a file's
// bytes are and a transport that is allowed to ask for them; the bytes themselves
// are fetched by the room above. Pushing writes blobs first and the manifest
// last, so that a crash leaves only blobs that nobody names, and a later push
// finds them. Nothing is kept on disk.
package oci

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Scheme begins the addresses of files in registries.
const Scheme = "oci"

// DefaultFile is meant where an address names no file.
const DefaultFile = "manifest.json"

// Errors that callers tell apart.
var (
	ErrReference = errors.New("invalid reference") // what the user wrote
	ErrInvalid   = errors.New("invalid")           // what the registry answered
)

// Reference is a parsed address without its file.
type Reference struct {
	text   string // oci://…, without the file
	repo   name.Repository
	tag    string
	digest string // hex SHA-256, "" for a tag
}

// String is the reference as it was given.
func (r Reference) String() string { return r.text }

// Beside is the address of another file of the same release; no name is the
// release itself.
func Beside(address, file string) string {
	reference, _, _ := strings.Cut(address, "#")
	if file == "" {
		return reference
	}
	return reference + "#" + file
}

// Parse takes an address apart.
func Parse(address string) (r Reference, file string, err error) {
	text, file, titled := strings.Cut(address, "#")
	if !titled || file == "" {
		file = DefaultFile
	}
	rest, ok := strings.CutPrefix(text, Scheme+"://")
	if !ok {
		return Reference{}, "", fmt.Errorf("%w %q: not an oci:// address", ErrReference, text)
	}
	r, err = parseReference(text, rest)
	return r, file, err
}

func parseReference(text, rest string) (Reference, error) {
	host, path, _ := strings.Cut(rest, "/")
	if path == "" || host != "localhost" && !strings.ContainsAny(host, ".:") || strings.Contains(host, "@") {
		return Reference{}, fmt.Errorf("%w %q: write oci://HOST/REPOSITORY:TAG, the host with a dot or a port, and no user name", ErrReference, text)
	}
	r := Reference{text: text, tag: "latest"}
	if base, digest, ok := strings.Cut(rest, "@"); ok {
		hash, ok := strings.CutPrefix(digest, "sha256:")
		if !ok || !isSHA256(hash) {
			return Reference{}, fmt.Errorf("%w %q: the digest has to be sha256: and 64 hex digits", ErrReference, text)
		}
		rest, r.digest = base, hash
	}
	tag, err := name.NewTag(rest, name.WithDefaultTag("latest"))
	if err != nil {
		return Reference{}, fmt.Errorf("%w %q: %v", ErrReference, text, err)
	}
	r.repo, r.tag = tag.Context(), tag.TagStr()
	return r, nil
}

// scheme is http for this computer's own registries only.
func (r Reference) scheme() string {
	if isLoopback(hostOf(r.repo.RegistryStr())) {
		return r.repo.Scheme()
	}
	return "https"
}

func (r Reference) url(kind, what string) string {
	return r.scheme() + "://" + r.repo.RegistryStr() + "/v2/" + r.repo.RepositoryStr() + "/" + kind + "/" + what
}

// manifestURL is where the OCI manifest is.
func (r Reference) manifestURL() string {
	if r.digest != "" {
		return r.url("manifests", "sha256:"+r.digest)
	}
	return r.url("manifests", r.tag)
}

func (r Reference) blobURL(sha256 string) string { return r.url("blobs", "sha256:"+sha256) }

// hostOf is a host without its port.
func hostOf(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func isSHA256(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 32 && strings.ToLower(text) == text
}
