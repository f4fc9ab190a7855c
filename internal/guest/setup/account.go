//go:build linux

package setup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/wire"
)

// Account is one user as /etc/passwd and /etc/group have it.
type Account struct {
	Name   string
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Home   string
	Shell  string
}

// ErrNoAccount says that there is no such user.
var ErrNoAccount = errors.New("no such user")

// FindAccount looks a user up in the files below root.
func FindAccount(root, name string) (Account, error) {
	var account Account
	err := eachLine(filepath.Join(root, "etc/passwd"), func(fields []string) bool {
		if len(fields) < 7 || fields[0] != name {
			return true
		}
		uid, err1 := strconv.ParseUint(fields[2], 10, 32)
		gid, err2 := strconv.ParseUint(fields[3], 10, 32)
		if err1 != nil || err2 != nil {
			return true
		}
		account = Account{Name: name, UID: uint32(uid), GID: uint32(gid), Home: fields[5], Shell: fields[6]}
		return false
	})
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return Account{}, err
	case account.Name == "" && name == "root": // a root that is still to be set up
		return Account{Name: "root", Home: "/root", Shell: "/bin/sh"}, nil
	case account.Name == "":
		return Account{}, fmt.Errorf("user %q: %w", name, ErrNoAccount)
	}
	if account.Shell == "" {
		account.Shell = "/bin/sh"
	}
	account.Groups, err = groupsOf(root, name)
	return account, err
}

func groupsOf(root, name string) ([]uint32, error) {
	var groups []uint32
	err := eachLine(filepath.Join(root, "etc/group"), func(fields []string) bool {
		if len(fields) < 4 || !slices.Contains(strings.Split(fields[3], ","), name) {
			return true
		}
		if gid, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			groups = append(groups, uint32(gid))
		}
		return true
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return groups, err
}

// eachLine hands the colon-separated fields of each line on until more says no.
func eachLine(path string, more func(fields []string) bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if !more(strings.Split(lines.Text(), ":")) {
			return nil
		}
	}
	return lines.Err()
}

// AddAccount makes a user whom the image lacks, with a group and a home of its
// own and a locked password. A user that is there is left alone.
func AddAccount(root string, user wire.User) error {
	_, err := FindAccount(root, user.Name)
	if err == nil || !errors.Is(err, ErrNoAccount) {
		return err
	}
	shell := user.Shell
	if shell == "" {
		shell = "/bin/sh"
	}
	home := "/home/" + user.Name
	id := strconv.Itoa(user.UID)
	lines := []struct{ file, line string }{
		{"etc/group", user.Name + ":x:" + id + ":"},
		{"etc/passwd", user.Name + ":x:" + id + ":" + id + "::" + home + ":" + shell},
		{"etc/shadow", user.Name + ":!:19000:0:99999:7:::"},
	}
	for _, l := range lines {
		if err := appendLine(filepath.Join(root, l.file), l.line); err != nil {
			return fmt.Errorf("add user %s: %w", user.Name, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, home), 0o755); err != nil {
		return fmt.Errorf("add user %s: %w", user.Name, err)
	}
	if err := os.Chown(filepath.Join(root, home), user.UID, user.UID); err != nil {
		return fmt.Errorf("add user %s: %w", user.Name, err)
	}
	if user.Sudo == "" {
		return nil
	}
	rule := user.Name + " " + user.Sudo + "\n"
	return writeFile(filepath.Join(root, "etc/sudoers.d/90-smolvm-"+user.Name), []byte(rule), 0o440)
}

func appendLine(path, line string) error {
	mode := fs.FileMode(0o644)
	if filepath.Base(path) == "shadow" {
		mode = 0o640
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = file.WriteString(line + "\n")
	return errors.Join(err, file.Close())
}
