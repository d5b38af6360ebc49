package file_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"varve.dev/objectstore"
	"varve.dev/objectstore/file"
	"varve.dev/objectstore/storetest"
)

func open(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(t.Context(), file.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "store")
	storetest.Run(t, func(t *testing.T) objectstore.Store { return open(t, dir) },
		storetest.Traits{RefusesWrongChecksum: true, RefusesFolders: true})
	storetest.Allocations(t, open(t, dir))
}

func TestNothingIsLeftInTheFolderAfterDelete(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	keys := []string{"a/b/c/1", "a/b/2", "x"}
	for _, key := range keys {
		if err := s.Put(t.Context(), key, objectstore.NewBytes([]byte(key))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
	var left []string
	filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
		left = append(left, path)
		return nil
	})
	if want := []string{dir, filepath.Join(dir, "+tmp")}; len(left) != len(want) || left[1] != want[1] {
		t.Errorf("left: %q, want only %q", left, want)
	}
}

func TestPutsRaceWithDeletesOfTheirFolder(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for _, name := range []string{"one", "two", "three"} {
		s := open(t, dir) // as several processes do
		wg.Go(func() {
			for range 50 {
				key := "folder/deep/" + name
				if err := s.Put(t.Context(), key, objectstore.NewBytes([]byte(name))); err != nil {
					t.Errorf("put: %v", err)
				}
				if err := s.ReadAt(t.Context(), key, make([]byte, len(name)), 0); err != nil {
					t.Errorf("read: %v", err)
				}
				if err := s.Delete(t.Context(), []string{key}); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestOpenRemovesUploadsOfTheDead(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	old, young := filepath.Join(dir, "+tmp", "OLD"), filepath.Join(dir, "+tmp", "YOUNG")
	for _, name := range []string{old, young} {
		if err := os.WriteFile(name, []byte("half"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old upload is still there: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("an upload under way is gone: %v", err)
	}
}

func TestForeignFilesAreNotListed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "not a key~"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	for info, err := range s.List(t.Context(), "") {
		t.Errorf("listed %v, %v; want nothing", info, err)
	}
	for _, err := range s.List(t.Context(), "../") {
		t.Errorf("listed outside of the folder: %v", err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a-file")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := file.Open(t.Context(), file.Config{Dir: name})
	var setup *objectstore.SetupError
	if !errors.As(err, &setup) {
		t.Errorf("got %v, want a SetupError", err)
	}
}
