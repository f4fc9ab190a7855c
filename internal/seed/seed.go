// Package seed writes a sandbox's NoCloud seed: a small FAT volume labelled
// CIDATA with the files user-data, meta-data and network-config, each JSON and
// therefore valid YAML, so that our guest agent and an ordinary cloud-init read
// the same disk. What only our agent reads is in a fourth file, smolvm-data.
//
// Inputs are values (keys, certificates, variables: never a credential); the
// output is one file, readable by its owner only, replaced by one rename. After
// a crash the old file or the new one is there; an unfinished one beside it,
// with ".new" appended to its name, is removed by the next attempt. Two may not
// write the same seed at once: callers hold the sandbox's lock.
package seed

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"unicode/utf8"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fsimg/fat"
	"github.com/smolvm/smolvm/internal/wire"
)

// Names that NoCloud prescribes.
const (
	label       = "CIDATA"
	userFile    = "user-data"
	metaFile    = "meta-data"
	networkFile = "network-config"

	// userHeader tells cloud-init what kind of user-data follows.
	userHeader = "#cloud-config\n"
)

// Document is the contents of a seed.
type Document struct {
	User    wire.UserData
	Meta    wire.MetaData
	Network wire.NetworkConfig
	Session wire.Session
}

// Input is what differs between sandboxes.
type Input struct {
	Hostname       string
	InstanceID     string // new for every sandbox, so that cloud-init runs once for each
	HostKeyPrivate string // OpenSSH PEM
	HostKeyPublic  string // authorized_keys form
	AuthorizedKeys []string
	CACerts        []string          // PEM, one certificate each
	Env            map[string]string // for every session; no secrets
	Build          bool              // a recipe runs in it
	Files          []wire.WriteFile
	Search         []string // domains in which it looks up names without dots
	Services       []wire.Service
}

// Build makes the document of a sandbox on the network of wire's addresses: the user agent
// with password-less sudo, keys only, root reachable with the same key.
func Build(in Input) Document {
	return Document{
		User: wire.UserData{
			Hostname:       in.Hostname,
			DeleteHostKeys: true,
			HostKeys:       wire.HostKeys{Private: in.HostKeyPrivate, Public: in.HostKeyPublic},
			AuthorizedKeys: in.AuthorizedKeys,
			Users: []wire.User{{
				Name: wire.AgentUser, UID: wire.AgentUID, Shell: "/bin/bash", Sudo: "ALL=(ALL) NOPASSWD:ALL",
				LockPassword: true, AuthorizedKeys: in.AuthorizedKeys,
			}},
			CACertificates: wire.CACerts{Trusted: in.CACerts},
			WriteFiles:     in.Files,
			ManageEtcHosts: true,
		},
		Session: wire.Session{Env: in.Env, Build: in.Build, Services: in.Services},
		Meta:    wire.MetaData{InstanceID: in.InstanceID, LocalHostname: in.Hostname},
		Network: wire.NetworkConfig{Version: 2, Ethernets: map[string]wire.Ethernet{
			"uplink": {
				Match: wire.Match{Name: "e*"}, MTU: wire.MTU,
				Addresses: []string{wire.Guest4.String(), wire.Guest6.String()},
				Routes: []wire.Route{
					{To: "default", Via: wire.Gateway4.Addr().String()}, {To: "default", Via: wire.Gateway6.Addr().String()},
				},
				Nameservers: wire.Nameservers{Addresses: []string{wire.Resolver4.Addr().String()}, Search: in.Search},
			},
		}},
	}
}

// Write writes the seed's volume to path, replacing what is there.
func Write(path string, d Document) error {
	files, err := encode(d)
	if err != nil {
		return fmt.Errorf("write seed %s: %w", path, err)
	}
	temp := path + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return writeFault(path, err)
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // never a file that is there
	if err != nil {
		return writeFault(path, err)
	}
	err = fat.Write(f, label, files)
	if err == nil {
		err = f.Sync() // else a power loss could keep the rename and lose the bytes
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return writeFault(path, errors.Join(err, os.Remove(temp)))
	}
	return nil
}

func writeFault(path string, err error) error {
	return fault.New(fault.Storage, "Check the disk's free space and the permissions of the state folder.",
		"write seed %s: %w", path, err)
}

// encode makes the volume's files.
func encode(d Document) ([]fat.File, error) {
	if !validText(reflect.ValueOf(d)) {
		return nil, fault.New(fault.Usage, "Seeds carry text only: check the proxy variables and the CA certificates.",
			"a value is not valid UTF-8")
	}
	var files []fat.File
	for _, part := range []struct {
		name, header string
		value        any
	}{{userFile, userHeader, d.User}, {metaFile, "", d.Meta}, {networkFile, "", d.Network}, {wire.SessionFile, "", d.Session}} {
		data, err := json.MarshalIndent(part.value, "", " ")
		if err != nil {
			return nil, err
		}
		data = append([]byte(part.header), escapeForYAML(data)...)
		files = append(files, fat.File{Name: part.name, Data: append(data, '\n')})
	}
	return files, nil
}

// validText tells whether every string in v is UTF-8. JSON would quietly
// replace other bytes.
func validText(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		return utf8.ValidString(v.String())
	case reflect.Struct:
		for i := range v.NumField() {
			if !validText(v.Field(i)) {
				return false
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if !validText(v.Index(i)) {
				return false
			}
		}
	case reflect.Map:
		for pairs := v.MapRange(); pairs.Next(); {
			if !validText(pairs.Key()) || !validText(pairs.Value()) {
				return false
			}
		}
	}
	return true
}

// escapeForYAML escapes what JSON allows in strings and YAML does not (YAML 1.2,
// production 1, c-printable): DEL, the C1 controls, and the two non-characters.
// They can occur nowhere but in strings.
func escapeForYAML(data []byte) []byte {
	out := make([]byte, 0, len(data))
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		if r >= 0x7f && r <= 0x9f || r == 0xfeff || r == 0xfffe || r == 0xffff {
			out = fmt.Appendf(out, "\\u%04x", r)
		} else {
			out = append(out, data[:n]...)
		}
		data = data[n:]
	}
	return out
}
