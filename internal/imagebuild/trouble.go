package imagebuild

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/smolvm/smolvm/internal/fault"
)

// trouble is something that installers say in many words and that has one cause.
type trouble struct {
	says *regexp.Regexp
	code fault.Code
	hint string
}

// troubles are what npm, uv, pip, apt, curl and git say, the most certain first: a
// registry that is down also makes versions seem gone. The texts were taken from
// real failures of these programs; one that is not known keeps its own words only.
var troubles = []trouble{
	{
		regexp.MustCompile(`No space left on device|ENOSPC|Disk quota exceeded`), fault.Storage,
		"The build sandbox is full: its disk, or the memory that is behind $TMPDIR and the installers' caches. " +
			"A preset's disk_mib makes the disk larger; large files do not belong into $TMPDIR.",
	},
	{
		regexp.MustCompile(`Input/output error|\bEIO\b|Read-only file system|EROFS`), fault.Storage,
		"A disk of the build sandbox failed, most likely because this computer's own disk is full: look at what is free where the build cache is.",
	},
	{
		regexp.MustCompile(`EINTEGRITY|(?i)hash(es)? mismatch|do not match the hashes|hash sum mismatch|sha512 integrity|is not signed|NO_PUBKEY`), fault.Trust,
		"What the index gave is not what the recipe locks, and nothing of it was kept. Find out which of them is wrong: " +
			"the lock in the recipe, or an index or proxy that changes packages.",
	},
	{
		regexp.MustCompile(`SELF_SIGNED_CERT|UNABLE_TO_(GET_ISSUER|VERIFY_LEAF)|CERT_HAS_EXPIRED|CERT_NOT_YET_VALID|(?i)certificate verify failed|unable to get local issuer|self[- ]signed certificate|invalid peer certificate|unknownissuer`), fault.Network,
		"The index's certificate is not believed. Behind a proxy that opens TLS, name its CA with SSL_CERT_FILE: sandboxes are given it. Else look at this computer's clock.",
	},
	{
		regexp.MustCompile(`EAI_AGAIN|ENOTFOUND|(?i)could not resolve|temporary failure (in name )?resol|name or service not known|name resolution|dns error|failed to lookup address`), fault.Network,
		"Names cannot be resolved: look at this computer's network, or at the index's name.",
	},
	{
		regexp.MustCompile(`ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT|(?i)connection (refused|reset|timed out)|network is unreachable|no route to host|failed to connect|could not connect|operation timed out|error sending request`), fault.Network,
		"The package index did not answer. Try again later; where a proxy is needed, set https_proxy: sandboxes are given it.",
	},
	{
		// What pip says both of an index that it cannot reach and of a name that is not there.
		regexp.MustCompile(`\(from versions: none\)`), fault.Network,
		"The index did not answer, or has no package of that name. Try again later; where a proxy is needed, set https_proxy: sandboxes are given it.",
	},
	{
		regexp.MustCompile(`\bE(429|5\d\d)\b|(?i)(429 too many|50[0234] (bad gateway|service|gateway|internal|unknown))|(HTTP|status|error:?) (429|50[0234])\b`), fault.Network,
		"The package index is overloaded or out of order. Try again later.",
	},
	{
		regexp.MustCompile(`\bETARGET\b|\bE404\b|(?i)no matching version|no matching distribution|there is no version of|was not found in the package registry|unable to locate package|has no installation candidate|\b404\s+not found`), fault.Build,
		"The index does not have that version, or has it no more. Pin one that is there: in the preset's file, or, for a shipped preset, by a newer smolvm.",
	},
}

// recognise finds the cause in the last lines of a program that failed. The cause
// that is not known is a defect of the recipe.
func recognise(said string) (fault.Code, string) {
	for _, t := range troubles {
		if t.says.MatchString(said) {
			return t.code, t.hint
		}
	}
	return fault.Build, ""
}

// killed is the status of a program that signal 9 ended: in a sandbox in which
// nobody sends it, that is the kernel, short of memory.
const killed = 128 + 9

// fetchFailed is the error of a program of this computer that downloads, with the
// cause where it tells one.
func fetchFailed(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	var known *fault.Fault
	if errors.As(err, &known) { // such as that there is no such program
		return fmt.Errorf("%s: %w", what, err)
	}
	code, hint := recognise(err.Error())
	return fault.New(code, hint, "%s: %w", what, err)
}
