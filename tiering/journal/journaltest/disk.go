// Package journaltest is a disk in memory for the journal: it crashes, tears what was not synced, fills up and rots.
package journaltest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"varve.dev/tiering/journal"
)

// sector is what a real disk writes or does not write as one; a torn sector is possible all the same.
const sector = 512

// errGone is what handles from before a crash answer.
var errGone = errors.New("journaltest: the process that opened this is dead")

// Disk is a journal.Disk. A crash keeps what was synced, and of the rest what the caller or chance decides.
type Disk struct {
	mu              sync.Mutex
	onWrite, onSync func(path string) error
	capacity        int64

	life  int
	seq   int
	names map[string]*inode // as a running process sees them; directories have a nil data
	kept  map[string]*inode // as they are after a crash
	ops   []op              // names that changed since
	locks map[string]bool
	syncs int
}

type inode struct {
	dir        bool
	view, disk []byte
	pending    []write
}

type write struct {
	seq int
	off int64
	b   []byte
}

// op is a change of names, and the directory whose sync makes it last.
type op struct {
	dir   string
	apply func(map[string]*inode)
}

// New is an empty disk with a root.
func New() *Disk {
	root := &inode{dir: true}
	return &Disk{
		names: map[string]*inode{"/": root}, kept: map[string]*inode{"/": root}, locks: map[string]bool{},
	}
}

// Fail makes write and sync, where they are not nil, be asked before each write and sync of a file; an error is what the
// journal sees. A failed sync has lost what was pending, though it is still readable until the cache is dropped: what
// Linux does.
func (d *Disk) Fail(write, sync func(path string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onWrite, d.onSync = write, sync
}

// SetCapacity bounds the bytes of all files; 0 means no bound.
func (d *Disk) SetCapacity(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = n
}

// Clone is a disk of its own in the same state, but for open handles and locks.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &Disk{capacity: d.capacity, life: d.life + 1, seq: d.seq, locks: map[string]bool{}, names: map[string]*inode{}, kept: map[string]*inode{}}
	twins := map[*inode]*inode{}
	twin := func(n *inode) *inode {
		if twins[n] == nil {
			twins[n] = &inode{n.dir, slices.Clone(n.view), slices.Clone(n.disk), slices.Clone(n.pending)}
		}
		return twins[n]
	}
	for name, n := range d.names {
		c.names[name] = twin(n)
	}
	for name, n := range d.kept {
		c.kept[name] = twin(n)
	}
	return c
}

// Unsynced is the number of bytes that a crash may lose.
func (d *Disk) Unsynced() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, node := range d.names {
		for _, w := range node.pending {
			n += len(w.b)
		}
	}
	return n
}

// Syncs is the number of file syncs so far.
func (d *Disk) Syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

// CrashAfter kills the process when exactly the first n un-synced bytes, in the order of writing, are on the disk. All
// names are kept.
func (d *Disk) CrashAfter(n int) {
	d.crash(func(ops int) int { return ops }, func(all []pending) {
		for _, p := range all {
			k := min(n, len(p.b))
			p.node.disk = overlay(p.node.disk, p.b[:k], p.off)
			n -= k
		}
	})
}

// Crash kills the process and the power: each un-synced sector is on the disk or not, in any order, some are torn, and
// of the changed names the first few are kept.
func (d *Disk) Crash(rng *rand.Rand) {
	d.crash(func(ops int) int { return rng.IntN(ops + 1) }, func(all []pending) {
		odds := rng.IntN(5) // of four: from nothing to everything
		for _, p := range all {
			for from := 0; from < len(p.b); {
				to := min(len(p.b), from+sector-int((p.off+int64(from))%sector))
				if rng.IntN(4) < odds {
					piece := p.b[from:to]
					if rng.IntN(8) == 0 {
						piece = piece[:rng.IntN(len(piece)+1)]
					}
					p.node.disk = overlay(p.node.disk, piece, p.off+int64(from))
				}
				from = to
			}
		}
	})
}

type pending struct {
	write
	node *inode
}

func (d *Disk) crash(names func(ops int) int, keep func([]pending)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []pending
	seen := map[*inode]bool{}
	for _, names := range []map[string]*inode{d.names, d.kept} {
		for _, n := range names {
			if !seen[n] {
				seen[n] = true
				for _, w := range n.pending {
					all = append(all, pending{w, n})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b pending) int { return a.seq - b.seq })
	keep(all)
	for n := range seen {
		n.pending = nil
		n.view = slices.Clone(n.disk)
	}
	for _, o := range d.ops[:names(len(d.ops))] {
		o.apply(d.kept)
	}
	d.ops = nil
	d.names = maps.Clone(d.kept)
	d.locks = map[string]bool{}
	d.life++
}

// Names lists the files whose path starts with prefix, sorted.
func (d *Disk) Names(prefix string) (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, n := range d.names {
		if !n.dir && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Bytes is a copy of what a file holds on the disk.
func (d *Disk) Bytes(path string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.names[path].disk)
}

// Put makes path hold b, durably; handles that are open keep the old file.
func (d *Disk) Put(path string, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := &inode{view: slices.Clone(b), disk: slices.Clone(b)}
	d.names[path], d.kept[path] = n, n
}

func overlay(data, b []byte, off int64) []byte {
	if len(b) == 0 {
		return data
	}
	if end := off + int64(len(b)); end > int64(len(data)) {
		data = append(data, make([]byte, end-int64(len(data)))...)
	}
	copy(data[off:], b)
	return data
}

func (d *Disk) used() (n int64) {
	for _, node := range d.names {
		n += int64(len(node.view))
	}
	return n
}

func (d *Disk) change(dir string, apply func(map[string]*inode)) {
	apply(d.names)
	d.ops = append(d.ops, op{dir, apply})
}

func (d *Disk) Lock(dir string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locks[dir] {
		return nil, &journal.LockedError{Dir: dir, PID: "1"}
	}
	d.locks[dir] = true
	return &lock{d, dir, d.life}, nil
}

type lock struct {
	d    *Disk
	dir  string
	life int
}

func (l *lock) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.life == l.d.life {
		delete(l.d.locks, l.dir)
	}
	return nil
}

func (d *Disk) MkdirAll(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, missing := range d.missing(dir) {
		n := &inode{dir: true}
		d.change(filepath.Dir(missing), func(ns map[string]*inode) { ns[missing] = n })
	}
	return nil
}

// missing are dir and its parents that do not exist, outermost first.
func (d *Disk) missing(dir string) (dirs []string) {
	for ; d.names[dir] == nil; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
	}
	slices.Reverse(dirs)
	return dirs
}

func (d *Disk) List(dir string) (names []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.names[dir]; n == nil || !n.dir {
		return nil, fmt.Errorf("list %s: %w", dir, fs.ErrNotExist)
	}
	for name := range d.names {
		if name != dir && filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (d *Disk) Open(path string, create bool) (journal.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[path]
	switch {
	case n == nil && !create:
		return nil, fmt.Errorf("open %s: %w", path, fs.ErrNotExist)
	case n != nil && create:
		return nil, fmt.Errorf("create %s: %w", path, fs.ErrExist)
	case n == nil:
		n = &inode{}
		d.change(filepath.Dir(path), func(ns map[string]*inode) { ns[path] = n })
	}
	return &file{d, path, n, d.life}, nil
}

func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[from] == nil {
		return fmt.Errorf("rename %s: %w", from, fs.ErrNotExist)
	}
	d.change(filepath.Dir(to), func(ns map[string]*inode) {
		for name, n := range maps.Clone(ns) {
			if name == from || strings.HasPrefix(name, from+"/") {
				delete(ns, name)
				ns[to+strings.TrimPrefix(name, from)] = n
			}
		}
	})
	return nil
}

func (d *Disk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[path] == nil {
		return fmt.Errorf("remove %s: %w", path, fs.ErrNotExist)
	}
	d.change(filepath.Dir(path), func(ns map[string]*inode) { delete(ns, path) })
	return nil
}

// SyncDir keeps the changes in dir and, as a journaling filesystem does, all that came before them.
func (d *Disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := -1
	for i, o := range d.ops {
		if o.dir == dir {
			last = i
		}
	}
	for _, o := range d.ops[:last+1] {
		o.apply(d.kept)
	}
	d.ops = d.ops[last+1:]
	return nil
}

type file struct {
	d    *Disk
	path string
	n    *inode
	life int
}

func (f *file) enter() (leave func(), err error) {
	f.d.mu.Lock()
	if f.life != f.d.life {
		err = errGone
	}
	return f.d.mu.Unlock, err
}

// ask consults the caller's fault without the lock, so that it may use the disk.
func (d *Disk) ask(path string, sync bool) error {
	d.mu.Lock()
	hook := d.onWrite
	if sync {
		hook = d.onSync
	}
	d.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(path)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	leave, err := f.enter()
	defer leave()
	if err != nil {
		return 0, err
	}
	if off >= int64(len(f.n.view)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.view[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(bufs [][]byte, off int64) error {
	if err := f.d.ask(f.path, false); err != nil {
		return err
	}
	leave, err := f.enter()
	defer leave()
	if err != nil {
		return err
	}
	b := slices.Concat(bufs...)
	more := max(0, off+int64(len(b))-int64(len(f.n.view)))
	if f.d.capacity > 0 && more > 0 && f.d.used()+more > f.d.capacity {
		return fmt.Errorf("write %s: %w", f.path, syscall.ENOSPC)
	}
	f.d.seq++
	f.n.view = overlay(f.n.view, b, off)
	f.n.pending = append(f.n.pending, write{f.d.seq, off, b})
	return nil
}

func (f *file) Sync() error {
	failed := f.d.ask(f.path, true)
	leave, err := f.enter()
	defer leave()
	if err != nil {
		return err
	}
	f.d.syncs++
	if failed == nil {
		for _, w := range f.n.pending {
			f.n.disk = overlay(f.n.disk, w.b, w.off)
		}
	}
	f.n.pending = nil
	return failed
}

func (f *file) Settle() error {
	if err := f.Sync(); err != nil {
		return err
	}
	leave, err := f.enter()
	defer leave()
	f.n.view = slices.Clone(f.n.disk)
	return err
}

func (f *file) Size() (int64, error) {
	leave, err := f.enter()
	defer leave()
	return int64(len(f.n.view)), err
}

func (f *file) Close() error { return nil }
