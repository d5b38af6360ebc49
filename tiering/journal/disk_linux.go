package journal

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Free is what this user may still write.
func (osDisk) Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// maxIovecs is the kernel's bound (IOV_MAX) on the pieces of one write.
const maxIovecs = 1024

func (f *osFile) WriteAt(bufs [][]byte, off int64) error {
	fd := int(f.f.Fd())
	for len(bufs) > 0 {
		if len(bufs[0]) == 0 {
			bufs = bufs[1:]
			continue
		}
		n, err := unix.Pwritev(fd, bufs[:min(len(bufs), maxIovecs)], off)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("write %s at %d: %w", f.f.Name(), off, err)
		}
		off += int64(n)
		bufs = skip(bufs, n)
	}
	return nil
}

// skip drops the first n bytes of bufs without changing the caller's slices.
func skip(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n == 0 {
		return bufs
	}
	rest := append([][]byte(nil), bufs...)
	rest[0] = rest[0][n:]
	return rest
}

// Sync is never tried again: after an error the kernel marks the pages clean, and a second call would lie.
func (f *osFile) Sync() error {
	for {
		err := unix.Fdatasync(int(f.f.Fd()))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("fdatasync %s: %w", f.f.Name(), err)
		}
		return nil
	}
}

func (f *osFile) Settle() error {
	if err := f.Sync(); err != nil {
		return err
	}
	// Clean pages go; a filesystem without a page cache to drop (tmpfs) says so, and has no other copy to read.
	_ = unix.Fadvise(int(f.f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return nil
}
