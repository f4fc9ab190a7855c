package process

import "fmt"

// Tool is the name of a program SmolVM may run.
type Tool string

// The programs. Add one here, with the package that brings it, before using it.
const (
	QEMUx86  Tool = "qemu-system-x86_64"
	QEMUArm  Tool = "qemu-system-aarch64"
	MkfsExt4 Tool = "mkfs.ext4"

	Firecracker Tool = "firecracker"

	Mmdebstrap Tool = "mmdebstrap"
	DpkgDeb    Tool = "dpkg-deb"
	Zstd       Tool = "zstd"
	Pip        Tool = "pip"         // python3 -m pip
	Git        Tool = "git"         // asked who commits
	Security   Tool = "security"    // macOS' keychain
	SecretTool Tool = "secret-tool" // the Secret Service's, elsewhere
	SystemdRun Tool = "systemd-run" // gives the supervisor a control group, and becomes it
	Self       Tool = "self"        // this program again: the supervisor
)

// tool is one entry of the allow-list.
type tool struct {
	file string   // file name looked for
	args []string // always passed first
	deb  string   // Debian package that brings it
	brew string   // Homebrew formula that brings it; empty: none does
	text string   // how to get it where no package brings it
	env  []string // environment names passed on besides PATH; a trailing * is a prefix
}

var (
	// quiet is what programs get that only work on local files: a home for
	// nothing, a folder for temporary files, a locale for their messages.
	quiet = []string{"HOME", "TMPDIR", "LANG", "LC_ALL", "LC_MESSAGES", "TZ"}

	// online adds what a program needs that downloads: proxies and CA bundles.
	online = append([]string{
		"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
		"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
	}, quiet...)

	// own is what this program gets again.
	own = append([]string{"SMOLVM_*", "XDG_RUNTIME_DIR"}, online...)
)

// tools is the allow-list.
var tools = map[Tool]tool{
	QEMUx86:  {file: "qemu-system-x86_64", deb: "qemu-system-x86", brew: "qemu", env: quiet},
	QEMUArm:  {file: "qemu-system-aarch64", deb: "qemu-system-arm", brew: "qemu", env: quiet},
	MkfsExt4: {file: "mkfs.ext4", deb: "e2fsprogs", brew: "e2fsprogs", env: quiet},
	Firecracker: {file: "firecracker", text: "Take Firecracker's official release, https://github.com/firecracker-microvm/firecracker/releases, " +
		"and put its program into ~/.smolvm/bin as firecracker; or use --backend qemu."},
	Mmdebstrap: {file: "mmdebstrap", deb: "mmdebstrap", env: append([]string{"APT_CONFIG", "SOURCE_DATE_EPOCH"}, online...)},
	DpkgDeb:    {file: "dpkg-deb", deb: "dpkg", brew: "dpkg", env: quiet},
	Zstd:       {file: "zstd", deb: "zstd", brew: "zstd", env: quiet},
	Pip:        {file: "python3", args: []string{"-m", "pip"}, deb: "python3-pip", brew: "python", env: append([]string{"PIP_*"}, online...)},
	Git:        {file: "git", deb: "git", brew: "git", env: append([]string{"XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"}, quiet...)},
	Security:   {file: "security", text: "It belongs to macOS, in /usr/bin.", env: quiet},
	SecretTool: {file: "secret-tool", deb: "libsecret-tools", brew: "libsecret", env: append([]string{"DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"}, quiet...)},
	SystemdRun: {file: "systemd-run", deb: "systemd", env: own},
	Self:       {file: "smolvm", env: own},
}

// hint says how to install the program.
func (t tool) hint() string {
	switch {
	case t.deb == "":
		return t.text
	case t.brew == "":
		return fmt.Sprintf("Install it: sudo apt-get install %s", t.deb)
	}
	return fmt.Sprintf("Install it: sudo apt-get install %s (Debian, Ubuntu) or brew install %s (macOS)", t.deb, t.brew)
}
