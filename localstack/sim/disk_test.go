package sim

import (
	"context"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"varve.dev/tiering/journal"
	"varve.dev/tiering/journal/journaltest"
)

// disk is a simulated disk as one life reaches it: its folder stands at a fixed place, whatever the life calls it.
type disk struct {
	next  *journaltest.Disk
	dir   string // as the life calls it
	w     *world
	gate  *gate
	trips *trips
}

func (d *disk) path(p string) string { return "/data" + strings.TrimPrefix(p, d.dir) }

// perform waits and performs one request, unless the life is dead.
func (d *disk) perform(name string, most time.Duration, f func() error) error {
	p := d.w.plan
	if hit, how := p.draw(diskSlow, name); hit {
		most += time.Duration(how * float64(2*time.Second))
	}
	if !d.gate.pass(context.Background()) {
		return errDead
	}
	if most > 0 {
		sleep(context.Background(), p.some("disk "+name, most))
	}
	var err error
	if !d.gate.pass(context.Background()) || !d.gate.do(func() { err = f() }) {
		return errDead
	}
	d.trips.behind("disk " + name)
	if d.gate.isDead() {
		return errDead
	}
	return err
}

func (d *disk) Lock(dir string) (lock io.Closer, err error) {
	err = d.perform("lock", 0, func() (err error) {
		lock, err = d.next.Lock(d.path(dir))
		return err
	})
	return lock, err
}

func (d *disk) MkdirAll(dir string) error {
	return d.perform("names", 0, func() error { return d.next.MkdirAll(d.path(dir)) })
}

func (d *disk) List(dir string) (names []string, err error) {
	err = d.perform("list", 0, func() (err error) {
		names, err = d.next.List(d.path(dir))
		return err
	})
	return names, err
}

func (d *disk) Open(path string, create bool) (out journal.File, err error) {
	err = d.perform("open", 0, func() error {
		f, err := d.next.Open(d.path(path), create)
		if err == nil {
			out = &file{d, f}
		}
		return err
	})
	return out, err
}

func (d *disk) Rename(from, to string) error {
	return d.perform("names", 0, func() error { return d.next.Rename(d.path(from), d.path(to)) })
}

func (d *disk) Remove(path string) error {
	return d.perform("names", 0, func() error { return d.next.Remove(d.path(path)) })
}

func (d *disk) SyncDir(dir string) error {
	return d.perform("sync names", time.Millisecond, func() error { return d.next.SyncDir(d.path(dir)) })
}

type file struct {
	d *disk
	journal.File
}

func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.d.perform("read", 0, func() (err error) {
		n, err = f.File.ReadAt(p, off)
		return err
	})
	return n, err
}

func (f *file) WriteAt(bufs [][]byte, off int64) error {
	return f.d.perform("write", 200*time.Microsecond, func() error {
		if _, full := f.d.w.plan.rate(diskFull); full {
			if size, err := f.File.Size(); err != nil || off+total(bufs) > size {
				f.d.w.plan.count(fault(diskFull))
				return fmt.Errorf("sim: write: %w", syscall.ENOSPC)
			}
		}
		return f.File.WriteAt(bufs, off)
	})
}

func total(bufs [][]byte) (n int64) {
	for _, b := range bufs {
		n += int64(len(b))
	}
	return n
}

func (f *file) Sync() error {
	if f.d.w.lie == lieSynced {
		return f.d.perform("sync", f.d.w.plan.sync, func() error { return nil })
	}
	return f.d.perform("sync", f.d.w.plan.sync, f.File.Sync)
}

func (f *file) Settle() error { return f.d.perform("settle", time.Millisecond, f.File.Settle) }

func (f *file) Size() (size int64, err error) {
	err = f.d.perform("size", 0, func() (err error) {
		size, err = f.File.Size()
		return err
	})
	return size, err
}

// breaking makes syncs of a disk fail while the plan says so.
func (w *world) breaking(d *journaltest.Disk) {
	d.Fail(nil, func(string) error {
		if hit, how := w.plan.draw(diskBroken, "sync"); hit || how > 0.5 {
			w.plan.count("fsync failed")
			if !hit {
				w.plan.count(fault(diskBroken))
			}
			return fmt.Errorf("sim: sync: %w", syscall.EIO)
		}
		return nil
	})
}

var _ journal.Disk = (*disk)(nil)
