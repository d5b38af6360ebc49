// Package file keeps objects as files under one folder: the store of a single agent without a bucket.
package file

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"varve.dev/objectstore"
)

// Config says where.
type Config struct {
	// Dir is made if it is missing. Several processes of one machine may share it.
	Dir string
}

// Store maps a key to the file of that name. A file appears under its name whole and fsynced, by a link, which fails
// where the name is taken: this is what makes the conditional put atomic, also between processes.
type Store struct {
	dir  string
	temp string
	bufs sync.Pool // of *[bufBytes]byte
}

const (
	// tempName holds uploads under way. "+" is in no key.
	tempName = "+tmp"
	// staleTemp is older than any upload can be: its process has died.
	staleTemp = 24 * time.Hour
	// bufBytes is copied at a time: hashed while it is in the processor's cache.
	bufBytes = 256 << 10
	// mkdirTries bounds the race of a put with deletes that remove the folder as empty between mkdir and link.
	mkdirTries = 100
)

// Open makes the folder and proves that files can be written and linked in it.
func Open(_ context.Context, cfg Config) (*Store, error) {
	s := &Store{dir: filepath.Clean(cfg.Dir), temp: filepath.Join(cfg.Dir, tempName)}
	s.bufs.New = func() any { return new([bufBytes]byte) }
	if err := os.MkdirAll(s.temp, 0o755); err != nil {
		return nil, setup(cfg.Dir, err)
	}
	if err := s.tryLink(); err != nil {
		return nil, setup(cfg.Dir, err)
	}
	if err := s.removeStale(); err != nil {
		return nil, setup(cfg.Dir, err)
	}
	// The folder itself must survive a power cut.
	if err := syncDirs(filepath.Dir(s.dir), s.temp); err != nil {
		return nil, setup(cfg.Dir, err)
	}
	return s, nil
}

func setup(dir string, err error) error {
	return &objectstore.SetupError{
		Problem: fmt.Sprintf("the folder %s cannot hold a store", dir),
		Hint:    "store.url must name a folder that this user may write, on a filesystem with hard links",
		Err:     err,
	}
}

func (s *Store) tryLink() error {
	name := filepath.Join(s.temp, "probe-"+rand.Text())
	if err := os.WriteFile(name, []byte("probe"), 0o644); err != nil {
		return err
	}
	return errors.Join(os.Link(name, name+".link"), os.Remove(name), ignoreMissing(os.Remove(name+".link")))
}

func (s *Store) removeStale() error {
	entries, err := os.ReadDir(s.temp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < staleTemp {
			continue // a missing one has just become an object
		}
		if err := ignoreMissing(os.Remove(filepath.Join(s.temp, e.Name()))); err != nil {
			return err
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Store) path(key string) string { return filepath.Join(s.dir, filepath.FromSlash(key)) }

func (s *Store) Put(ctx context.Context, key string, body objectstore.Body) error {
	if err := objectstore.CheckPut(key, body); err != nil {
		return err
	}
	err := s.put(ctx, key, body)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("put %s: %w: %w", key, objectstore.ErrUnavailable, err) // space may be made
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, key string, body objectstore.Body) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// The loser of most races is found before it writes anything; the link decides.
	if _, err := os.Lstat(s.path(key)); err == nil {
		return s.taken(key)
	}
	temp := filepath.Join(s.temp, rand.Text())
	err := s.write(ctx, temp, body)
	if err == nil {
		err = s.publish(temp, key)
	}
	return errors.Join(err, ignoreMissing(os.Remove(temp)))
}

// taken explains why a name is not free. Its caller may find the object to be its own, so the name is made durable here
// too: the process that made it may have died before it could.
func (s *Store) taken(key string) error {
	if info, err := os.Lstat(s.path(key)); err == nil && info.IsDir() {
		return errors.New("it is the folder of other keys")
	}
	if err := s.syncUp(filepath.Dir(s.path(key))); err != nil {
		return err
	}
	return objectstore.ErrExists
}

func (s *Store) write(ctx context.Context, name string, body objectstore.Body) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := s.copyBody(ctx, f, body); err != nil {
		return err
	}
	return f.Sync()
}

func (s *Store) copyBody(ctx context.Context, f *os.File, body objectstore.Body) (err error) {
	r := body.Open()
	if c, ok := r.(io.Closer); ok {
		defer func() { err = errors.Join(err, c.Close()) }()
	}
	buf := s.bufs.Get().(*[bufBytes]byte)
	defer s.bufs.Put(buf)
	var sum uint32
	for left := body.Size(); left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece := buf[:min(left, bufBytes)]
		if n, err := io.ReadFull(r, piece); err != nil {
			return fmt.Errorf("read its body: %d of %d bytes: %w", body.Size()-left+int64(n), body.Size(), err)
		}
		sum = crc32.Update(sum, castagnoli, piece)
		if _, err := f.Write(piece); err != nil {
			return err
		}
		left -= int64(len(piece))
	}
	if sum != body.CRC32C() {
		return fmt.Errorf("%w: body has CRC32C %08x, promised %08x", objectstore.ErrChecksum, sum, body.CRC32C())
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// publish gives a finished file its name and returns when the name is durable.
func (s *Store) publish(temp, key string) error {
	path := s.path(key)
	for try := 1; ; try++ {
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.Link(temp, path)
		}
		switch {
		case err == nil:
			if err := s.syncUp(filepath.Dir(path)); err != nil {
				return errors.Join(err, os.Remove(path)) // a name that may not last must not be found by a retry
			}
			return nil
		case errors.Is(err, fs.ErrExist):
			return s.taken(key)
		case !errors.Is(err, fs.ErrNotExist) || try == mkdirTries:
			return err
		}
	}
}

// syncUp makes every folder on the way durable, also those that are not new: another process may have made them and not
// synced them yet. The first sync writes the filesystem's log; the others find nothing to do.
func (s *Store) syncUp(dir string) error {
	dirs := []string{dir}
	for dir != s.dir {
		dir = filepath.Dir(dir)
		dirs = append(dirs, dir)
	}
	return syncDirs(dirs...)
}

func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		d, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed as empty by a delete: nothing of ours is in it
		}
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) open(ctx context.Context, key string) (*os.File, int64, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return nil, 0, err
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	f, err := os.Open(s.path(key))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, 0, objectstore.ErrNotFound
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = objectstore.ErrNotFound
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func (s *Store) ReadAt(ctx context.Context, key string, dst []byte, off int64) error {
	f, size, err := s.open(ctx, key)
	if err != nil {
		return fmt.Errorf("get %s: %w", key, err)
	}
	defer f.Close()
	if off < 0 || off > size || int64(len(dst)) > size-off {
		return fmt.Errorf("get %s: %w: %d bytes at %d of %d", key, objectstore.ErrRange, len(dst), off, size)
	}
	if n, err := f.ReadAt(dst, off); n < len(dst) {
		return fmt.Errorf("get %s: %d of %d bytes at %d: %w", key, n, len(dst), off, err)
	}
	return nil
}

// Stat reads the whole file: its checksum is that of the bytes that are there now.
func (s *Store) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	f, size, err := s.open(ctx, key)
	if err != nil {
		return objectstore.Info{}, fmt.Errorf("head %s: %w", key, err)
	}
	defer f.Close()
	sum, err := s.hash(ctx, f)
	if err != nil {
		return objectstore.Info{}, fmt.Errorf("head %s: %w", key, err)
	}
	return objectstore.Info{Key: key, Size: size, CRC32C: sum, HasCRC32C: true}, nil
}

func (s *Store) hash(ctx context.Context, f *os.File) (sum uint32, err error) {
	buf := s.bufs.Get().(*[bufBytes]byte)
	defer s.bufs.Put(buf)
	for {
		n, err := f.Read(buf[:])
		sum = crc32.Update(sum, castagnoli, buf[:n])
		if err == io.EOF {
			return sum, nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return 0, err
		}
	}
}

func (s *Store) Delete(ctx context.Context, keys []string) error {
	for _, key := range keys {
		if err := objectstore.CheckKey(key); err != nil {
			return err
		}
	}
	touched := map[string]bool{}
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
		path := s.path(key)
		if info, err := os.Lstat(path); err != nil || info.IsDir() {
			continue // no object has this key
		}
		if err := ignoreMissing(os.Remove(path)); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
		touched[filepath.Dir(path)] = true
	}
	for dir := range touched {
		if err := syncDirs(s.prune(dir)); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	return nil
}

// prune removes folders that are empty now, and returns the first that is not.
func (s *Store) prune(dir string) string {
	for dir != s.dir && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
	return dir
}

// List walks the tree. Objects that come and go meanwhile may or may not be seen.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		w := walk{ctx, s, prefix, yield}
		if _, err := w.folder(deepest(prefix)); err != nil {
			yield(objectstore.Info{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

// deepest is the deepest folder that holds all keys with this prefix.
func deepest(prefix string) string {
	folder := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if objectstore.CheckKey(strings.TrimSuffix(folder, "/")) != nil {
		return "" // the root itself; or no key begins so, and no path may be made of it
	}
	return folder
}

type walk struct {
	ctx    context.Context
	store  *Store
	prefix string
	yield  func(objectstore.Info, error) bool
}

// folder visits name, which is "" or ends with "/". A key sorts as its bytes do: a folder among files as if "/" were
// the end of its name.
func (w walk) folder(name string) (goOn bool, err error) {
	if err := w.ctx.Err(); err != nil {
		return false, err
	}
	entries, err := os.ReadDir(w.store.path(name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	children := make([]string, 0, len(entries))
	for _, e := range entries {
		child := name + e.Name()
		if objectstore.CheckKey(child) != nil {
			continue // not ours: uploads under way, or what a person put there
		}
		if e.IsDir() {
			child += "/"
		}
		if strings.HasPrefix(child, w.prefix) || strings.HasPrefix(w.prefix, child) {
			children = append(children, child)
		}
	}
	slices.Sort(children)
	for _, child := range children {
		if goOn, err := w.visit(child); !goOn || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (w walk) visit(child string) (goOn bool, err error) {
	if strings.HasSuffix(child, "/") {
		return w.folder(child)
	}
	info, err := os.Lstat(w.store.path(child))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() || !strings.HasPrefix(child, w.prefix) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return w.yield(objectstore.Info{Key: child, Size: info.Size()}, nil), nil
}
