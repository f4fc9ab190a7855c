package wire

// UserData is the seed's user-data document: cloud-config in JSON (valid YAML)
// behind the line "#cloud-config". It has standard keys only, all of which an
// ordinary cloud-init understands: its schema refuses others. It never holds a
// credential.
type UserData struct {
	Hostname          string      `json:"hostname"`
	SSHPasswordAuth   bool        `json:"ssh_pwauth"`     // always false
	DisableRoot       bool        `json:"disable_root"`   // false: root logs in with the same key, on request
	DeleteHostKeys    bool        `json:"ssh_deletekeys"` // true
	HostKeys          HostKeys    `json:"ssh_keys"`
	AuthorizedKeys    []string    `json:"ssh_authorized_keys"`
	Users             []User      `json:"users"`
	CACertificates    CACerts     `json:"ca_certs,omitzero"` // the schema refuses an empty one
	WriteFiles        []WriteFile `json:"write_files,omitempty"`
	ResizeRootfs      bool        `json:"resize_rootfs"`     // false
	PreserveHostname  bool        `json:"preserve_hostname"` // false
	ManageEtcHosts    bool        `json:"manage_etc_hosts"`  // true
	PackageUpdateBoot bool        `json:"package_update"`    // false

	// Former is where seeds had the Session before it was a document of its own.
	Former *Session `json:"smolvm,omitempty"`
}

// HostKeys is the guest's SSH host key, made on the host at create time.
type HostKeys struct {
	Private string `json:"ed25519_private"` // OpenSSH PEM
	Public  string `json:"ed25519_public"`  // authorized_keys form
}

// User is one login account.
type User struct {
	Name           string   `json:"name"`
	UID            int      `json:"uid"`
	Shell          string   `json:"shell"`
	Sudo           string   `json:"sudo"`
	LockPassword   bool     `json:"lock_passwd"`
	AuthorizedKeys []string `json:"ssh_authorized_keys"`
}

// CACerts are extra certificate authorities in PEM, one certificate each.
type CACerts struct {
	Trusted []string `json:"trusted,omitempty"`
}

// AuthorityFile is where the initial RAM file system has a certificate authority in
// PEM that is made anew for each start of a sandbox. The guest trusts it besides the
// seed's.
const AuthorityFile = "/authority.crt"

// WriteFile is one file to be written at boot.
type WriteFile struct {
	Path        string `json:"path"`
	Content     string `json:"content"`
	Encoding    string `json:"encoding,omitempty"` // "" or "b64"
	Owner       string `json:"owner,omitempty"`
	Permissions string `json:"permissions,omitempty"` // octal, such as "0644"
}

// SessionFile is the name of the seed's document that our agent alone reads, a
// Session. cloud-init does not look at it.
const SessionFile = "smolvm-data"

// Session is what our agent alone reads. It never holds a credential.
type Session struct {
	// Env is set in every session: proxies and the like, never secrets.
	Env map[string]string `json:"env,omitempty"`
	// Build marks a sandbox in which a recipe runs: CA certificates are then used
	// only through /run and environment variables, so that no layer holds them.
	Build bool `json:"build,omitempty"`
	// Services run from each boot to its end.
	Services []Service `json:"services,omitempty"`
}

// MetaData is the seed's meta-data document.
type MetaData struct {
	InstanceID    string `json:"instance-id"`
	LocalHostname string `json:"local-hostname"`
}

// NetworkConfig is the seed's network-config document, netplan's version 2.
type NetworkConfig struct {
	Version   int                 `json:"version"`
	Ethernets map[string]Ethernet `json:"ethernets"`
}

// Ethernet is one interface of a NetworkConfig.
type Ethernet struct {
	Match       Match       `json:"match"`
	DHCP4       bool        `json:"dhcp4"`
	MTU         int         `json:"mtu,omitempty"`       // 0: as the card says
	Addresses   []string    `json:"addresses,omitempty"` // with prefix length
	Routes      []Route     `json:"routes,omitempty"`
	Nameservers Nameservers `json:"nameservers"`
}

// Match finds the interface by name pattern.
type Match struct {
	Name string `json:"name"`
}

// Route is one static route; To is "default" or a prefix.
type Route struct {
	To  string `json:"to"`
	Via string `json:"via"`
}

// Nameservers are the resolvers in order, and the domains in which names without
// dots are looked up.
type Nameservers struct {
	Addresses []string `json:"addresses"`
	Search    []string `json:"search,omitempty"`
}
