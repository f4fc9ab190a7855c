package cli

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/ui"
)

// namesOf are the words that name one image: RELEASE/PRESET-ARCH-VMM with and
// without the release.
func namesOf(i store.View) []string {
	return []string{filepath.ToSlash(i.Name()), filepath.Base(i.Name())}
}

// imageName is an image's whole name.
func imageName(i store.View) string { return namesOf(i)[0] }

// imageSyntax explains the argument of commands on images in the cache.
const imageSyntax = `An IMAGE is a preset, which names all its images in the cache, or one of them as
'smolvm image list' shows it: RELEASE/PRESET-ARCH-VMM, with or without RELEASE/.`

// pickCached finds the images in the cache that words name; without words all.
func (a *App) pickCached(words []string) ([]store.Image, error) {
	all, err := a.Cached()
	if err != nil || len(words) == 0 {
		return all, err
	}
	var picked []store.Image
	for _, word := range words {
		found := a.named(word, all)
		if len(found) == 0 {
			return nil, a.notCached(word, all)
		}
		for _, image := range found {
			if !slices.ContainsFunc(picked, func(i store.Image) bool { return i.Path == image.Path }) {
				picked = append(picked, image)
			}
		}
	}
	return picked, nil
}

// named are the images that one word names.
func (a *App) named(word string, all []store.Image) []store.Image {
	preset := word
	if names, err := a.presetNames([]string{word}); err == nil {
		preset = names[0]
	}
	var found []store.Image
	for _, i := range all {
		if i.Preset == preset || slices.Contains(namesOf(i.View), word) {
			found = append(found, i)
		}
	}
	return found
}

// notCached says that no image has that name, and what could have been meant.
func (a *App) notCached(word string, all []store.Image) error {
	if _, err := a.presetNames([]string{word}); err == nil {
		return fault.New(fault.NotFound, "Get one: smolvm image pull "+word, "no image of %s is in the cache", word)
	}
	return a.notNamed(word, all)
}

// notNamed is the error for a word that names none of the images.
func (a *App) notNamed(word string, all []store.Image) error {
	var known []string
	for _, i := range all {
		known = append(append(known, i.Preset), namesOf(i.View)...)
	}
	presets, _ := a.AllPresets() // the names are only offered
	for _, p := range presets {
		known = append(append(known, p.Name), p.Aliases...)
	}
	hint := nearHint(word, known, "See smolvm image list.")
	if slices.Contains(known, word) {
		hint = fmt.Sprintf("smolvm image list --available shows what is published; smolvm %s start builds it here where none is.", word)
	}
	return fault.New(fault.NotFound, hint, "there is no image %q", ui.Clean(word))
}

// completeCached offers the images in the cache that are not yet among the arguments.
func (a *App) completeCached(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	all, _ := a.Cached() // no names are better than an error in the middle of a line
	var names []string
	for _, i := range all {
		for _, name := range []string{i.Preset, imageName(i.View)} {
			if !slices.Contains(names, name) && !slices.Contains(args, name) {
				names = append(names, name)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// presetNames turns words into names of presets.
func (a *App) presetNames(words []string) ([]string, error) {
	all, err := a.AllPresets()
	if err != nil {
		return nil, err
	}
	known, names := map[string]string{}, []string{}
	var offered []string
	for _, p := range all {
		for _, word := range append([]string{p.Name}, p.Aliases...) {
			known[word] = p.Name
			offered = append(offered, word)
		}
	}
	for _, word := range words {
		name, there := known[word]
		if !there {
			return nil, fault.New(fault.NotFound, nearHint(word, offered, "See smolvm --help."), "there is no preset %q", ui.Clean(word))
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// completePresets offers the names of presets.
func (a *App) completePresets(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, _ := a.AllPresets() // no names are better than an error in the middle of a line
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
