// Package memory keeps objects in this process: for tests, and for agents whose data may go with them.
package memory

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"varve.dev/objectstore"
)

// Store is a map. It is as strict as the strictest store that we know: it checks sums, and refuses a key that is the
// folder of another.
type Store struct {
	mu      sync.RWMutex // guards what follows
	objects map[string]object
	folders map[string]int // how many objects lie somewhere below
}

type object struct {
	data []byte // never changes
	sum  uint32
}

// Config is empty: there is nothing to choose.
type Config struct{}

// Open returns an empty store. It cannot fail; the signature is that of every driver.
func Open(context.Context, Config) (*Store, error) { return New(), nil }

// New returns an empty store.
func New() *Store { return &Store{objects: map[string]object{}, folders: map[string]int{}} }

func (s *Store) Put(ctx context.Context, key string, body objectstore.Body) error {
	if err := objectstore.CheckPut(key, body); err != nil {
		return err
	}
	data, err := read(ctx, body)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if sum := crc32.Checksum(data, castagnoli); sum != body.CRC32C() {
		return fmt.Errorf("put %s: %w: body has CRC32C %08x, promised %08x", key, objectstore.ErrChecksum, sum, body.CRC32C())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[key]; ok {
		return fmt.Errorf("put %s: %w", key, objectstore.ErrExists)
	}
	if s.folders[key] > 0 {
		return fmt.Errorf("put %s: it is the folder of other keys", key)
	}
	for folder := range folders(key) {
		if _, ok := s.objects[folder]; ok {
			return fmt.Errorf("put %s: %s is an object, not a folder", key, folder)
		}
	}
	s.objects[key] = object{data, body.CRC32C()}
	for folder := range folders(key) {
		s.folders[folder]++
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func read(ctx context.Context, body objectstore.Body) (data []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := body.Open()
	if c, ok := r.(io.Closer); ok {
		defer func() { err = errors.Join(err, c.Close()) }()
	}
	data = make([]byte, body.Size()) // CheckPut has bounded it
	if n, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read its body: %d of %d bytes: %w", n, len(data), err)
	}
	return data, nil
}

func folders(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range len(key) {
			if key[i] == '/' && !yield(key[:i]) {
				return
			}
		}
	}
}

func (s *Store) find(ctx context.Context, key string) (object, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return object{}, err
	}
	if err := ctx.Err(); err != nil {
		return object{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[key]
	if !ok {
		return object{}, objectstore.ErrNotFound
	}
	return o, nil
}

func (s *Store) ReadAt(ctx context.Context, key string, dst []byte, off int64) error {
	o, err := s.find(ctx, key)
	if err != nil {
		return fmt.Errorf("get %s: %w", key, err)
	}
	if size := int64(len(o.data)); off < 0 || off > size || int64(len(dst)) > size-off {
		return fmt.Errorf("get %s: %w: %d bytes at %d of %d", key, objectstore.ErrRange, len(dst), off, size)
	}
	copy(dst, o.data[off:])
	return nil
}

func (s *Store) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	o, err := s.find(ctx, key)
	if err != nil {
		return objectstore.Info{}, fmt.Errorf("head %s: %w", key, err)
	}
	return objectstore.Info{Key: key, Size: int64(len(o.data)), CRC32C: o.sum, HasCRC32C: true}, nil
}

func (s *Store) Delete(ctx context.Context, keys []string) error {
	for _, key := range keys {
		if err := objectstore.CheckKey(key); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if _, ok := s.objects[key]; !ok {
			continue
		}
		delete(s.objects, key)
		for folder := range folders(key) {
			if s.folders[folder]--; s.folders[folder] == 0 {
				delete(s.folders, folder)
			}
		}
	}
	return nil
}

// List shows what is there when the iteration begins.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(objectstore.Info{}, fmt.Errorf("list %s: %w", prefix, err))
			return
		}
		for _, info := range s.snapshot(prefix) {
			if !yield(info, nil) {
				return
			}
		}
	}
}

func (s *Store) snapshot(prefix string) []objectstore.Info {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var infos []objectstore.Info
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		if strings.HasPrefix(key, prefix) {
			infos = append(infos, objectstore.Info{Key: key, Size: int64(len(s.objects[key].data))})
		}
	}
	return infos
}
