package sqlite

import (
	"path/filepath"
	"testing"

	"varve.dev/metadata"
	"varve.dev/metadata/metatest"
)

func TestContract(t *testing.T) {
	metatest.Run(t, func(t *testing.T) metadata.Store { return open1(t, filepath.Join(t.TempDir(), "m.db")) })
}
