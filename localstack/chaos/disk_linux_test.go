package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk is large enough for the load of an outage, and small enough to be filled at once.
const smallDisk = 192 << 20

// mountSmallDisk mounts a file system of its own until the test ends.
func mountSmallDisk(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk)); err != nil {
		reason := fmt.Sprintf("a full disk needs a small one: mounting a tmpfs at %s is not permitted here (%v); run the test as root, with CAP_SYS_ADMIN", dir, err)
		if os.Getenv("VARVE_TEST_ALL") != "" {
			t.Fatal(reason)
		}
		t.Skip("SKIP " + reason)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// ballast is a file that takes all that is left of a disk, and what others give back.
type ballast struct {
	file *os.File
	size int64
	stop context.CancelFunc
	done chan error
}

// newBallast returns when the disk is full.
func newBallast(path string) (*ballast, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	b := &ballast{file: f, done: make(chan error, 1)}
	if err := b.fill(); err != nil {
		return nil, err
	}
	var ctx context.Context
	ctx, b.stop = context.WithCancel(context.Background())
	go func() { // ends with stop; remove waits for it
		for ctx.Err() == nil {
			if err := b.fill(); err != nil {
				b.done <- err
				return
			}
			pause(ctx, 10*time.Millisecond)
		}
		b.done <- nil
	}()
	return b, nil
}

// fill takes what is free, to the last page.
func (b *ballast) fill() error {
	for {
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(b.file.Fd()), &st); err != nil {
			return err
		}
		free := int64(st.Bavail) * int64(st.Bsize)
		if free == 0 {
			return nil
		}
		err := unix.Fallocate(int(b.file.Fd()), 0, b.size, free)
		switch {
		case err == nil:
			b.size += free
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EINTR): // somebody was faster: look again
		default:
			return fmt.Errorf("fill the disk: %w", err)
		}
	}
}

// remove gives everything back.
func (b *ballast) remove() error {
	b.stop()
	return errors.Join(<-b.done, b.file.Close(), os.Remove(b.file.Name()))
}

// TestDiskFull fills the disk of an embedded agent under load, once with everything on it, once with nothing but data.dir.
func TestDiskFull(t *testing.T) {
	program := build(t)
	for _, c := range []struct {
		name    string
		all     bool
		refused []string
		leave   string // cache.disk.free.bytes
	}{
		{"everything on the disk", true, []string{"probed acks=-1", "probed acks=1", "probed-local acks=-1", "probed-local acks=1"}, "0"},
		{"stores elsewhere", false, nil, "67108864"},
	} {
		if !c.all && os.Getenv("VARVE_TEST_ALL") == "" {
			continue // it is the quieter one
		}
		t.Run(c.name, func(t *testing.T) {
			disk := mountSmallDisk(t)
			w := embedded(t, program).with(outageSettings()...).with("cache.disk.free.bytes=" + c.leave)
			if c.all {
				w = w.with("metadata.url=sqlite:"+filepath.Join(disk, "metadata.db"),
					"store.url="+(&url.URL{Scheme: "file", Path: filepath.Join(disk, "objects")}).String())
			}
			w = w.with("data.dir=" + filepath.Join(disk, "local"))
			var b *ballast
			underLoad(t, w, []outage{{name: "the disk is full", refused: c.refused, local: true, away: func() (err error) {
				b, err = newBallast(filepath.Join(disk, "ballast"))
				return err
			}, back: func() error { return b.remove() }}})
		})
	}
}
