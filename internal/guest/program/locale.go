//go:build linux

package program

import (
	"os"
	"path/filepath"
	"strings"
)

// localeFolder is where Debian keeps locales: one folder each, or all of them
// in locale-archive.
const localeFolder = "/usr/lib/locale"

// fallbackLocale is part of every glibc.
const fallbackLocale = "C.UTF-8"

// KeepLocales drops the locales that this system does not have: programs would
// warn about each and then use the POSIX one, without UTF-8.
func KeepLocales(env map[string]string) { keepLocales(env, localeFolder) }

func keepLocales(env map[string]string, folder string) {
	for name, value := range env {
		if strings.HasPrefix(name, "LC_") && !hasLocale(folder, value) {
			delete(env, name)
		}
	}
	if !hasLocale(folder, env["LANG"]) {
		env["LANG"] = fallbackLocale
		delete(env, "LANGUAGE")
	}
}

func hasLocale(folder, name string) bool {
	switch name {
	case "":
		return false
	case "C", "POSIX", fallbackLocale, "C.utf8":
		return true
	}
	if strings.ContainsAny(name, "/\x00") {
		return false
	}
	// The folder of en_US.UTF-8 is en_US.utf8.
	base, charset, _ := strings.Cut(name, ".")
	if charset != "" {
		base += "." + strings.ReplaceAll(strings.ToLower(charset), "-", "")
	}
	for _, path := range []string{base, name, "locale-archive"} {
		if _, err := os.Stat(filepath.Join(folder, path)); err == nil {
			return true
		}
	}
	return false
}
