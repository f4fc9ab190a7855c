package treecopy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Place is where something is copied to.
type Place struct {
	Dir   string // an existing folder
	Name  string // in it; "." with Merge into Dir itself
	Merge bool   // what is copied is a folder whose content goes here
}

// Contents, as the name of what is copied, asks for what is in the folder
// instead of the folder.
const Contents = "."

// Find decides where something of a name goes that is copied to dest, as cp does:
// into a folder that is there, else under the name dest. A dest that ends with a
// slash has to be a folder. What dest itself names may be reached through links.
func Find(dest, name string) (Place, error) {
	info, err := os.Stat(dest)
	slash := strings.HasSuffix(dest, "/")
	switch {
	case err == nil && info.IsDir() && name == Contents:
		return Place{Dir: dest, Name: ".", Merge: true}, nil
	case err == nil && info.IsDir():
		if name == "" {
			return Place{}, fmt.Errorf("%s is a folder: say what the file in it is called", dest)
		}
		return Place{Dir: dest, Name: name}, nil
	case err == nil && slash:
		return Place{}, fmt.Errorf("%s is not a folder", dest)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return Place{}, err
	case slash && name != Contents:
		return Place{}, fmt.Errorf("there is no folder %s", dest)
	}
	clean := filepath.Clean(dest)
	parent := filepath.Dir(clean)
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		return Place{}, fmt.Errorf("there is no folder %s", parent)
	}
	return Place{Dir: parent, Name: filepath.Base(clean)}, nil
}
