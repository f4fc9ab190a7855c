package cli

import "testing"

func TestWatchedFoldersInWords(t *testing.T) {
	for view, want := range map[watchView]string{
		{Folders: 1}:             "changes of this computer are told in one folder, all that the sandbox has listed",
		{Folders: 2}:             "changes of this computer are told in 2 folders, all that the sandbox has listed",
		{Folders: 2, More: true}: "changes of this computer in 2 folders are told, in more they are not: let watchers there poll",
	} {
		if got := view.text(); got != want {
			t.Errorf("%+v: %q, want %q", view, got, want)
		}
	}
}
