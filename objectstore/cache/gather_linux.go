package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"varve.dev/objectstore"
)

const (
	// maxIovecs is the kernel's bound (IOV_MAX) on the slices of one write.
	maxIovecs = 1024
	// writeAtOnce is about how much one write takes: a larger one would keep a processor from others for as long.
	writeAtOnce = 1 << 20
)

// writeSlices writes slices to an empty file, many by one call and without a copy of ours.
//
// Where the kernel can (Linux 6.14), the pages that it takes for them go as soon as they are on disk: whoever follows the
// tail has read these bytes already, and fresh pages for each of them are most of what a copy costs (1.2 CPU-s/GiB against
// 0.3 on a virtual machine). Who reads the file later finds it in the page cache from then on, as always.
func writeSlices(ctx context.Context, f *os.File, slices [][]byte, pace objectstore.Pace) error {
	fd, at, flags := int(f.Fd()), int64(0), unix.RWF_DONTCACHE
	for len(slices) > 0 {
		if len(slices[0]) == 0 {
			slices = slices[1:]
			continue
		}
		next, size := gather(slices)
		pace.Take(ctx, size)
		n, err := unix.Pwritev2(fd, next, at, flags)
		switch {
		case err == unix.EINTR:
			continue
		case flags != 0 && (errors.Is(err, errors.ErrUnsupported) || err == unix.EINVAL):
			flags = 0 // an older kernel, or a filesystem that has no such pages
			continue
		case err == nil && n == 0:
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", f.Name(), err)
		}
		at += int64(n)
		for len(slices) > 0 && n >= len(slices[0]) {
			n -= len(slices[0])
			slices = slices[1:]
		}
		if n > 0 {
			slices[0] = slices[0][n:]
		}
	}
	return nil
}

// gather is the first slices, writeAtOnce bytes of them or little more.
func gather(slices [][]byte) (first [][]byte, bytes int) {
	n := 0
	for n < len(slices) && n < maxIovecs && bytes < writeAtOnce {
		bytes += len(slices[n])
		n++
	}
	return slices[:n], bytes
}
