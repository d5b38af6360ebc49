package memory_test

import (
	"testing"

	"varve.dev/objectstore"
	"varve.dev/objectstore/memory"
	"varve.dev/objectstore/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) objectstore.Store {
		s, err := memory.Open(t.Context(), memory.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}, storetest.Traits{RefusesWrongChecksum: true, RefusesFolders: true})
}
