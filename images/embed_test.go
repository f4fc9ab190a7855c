package images_test

import (
	"testing"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/config"
)

func TestPresets(t *testing.T) {
	presets, err := config.Presets(images.Files())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range presets {
		names = append(names, p.Name)
	}
	t.Log(names)
}
