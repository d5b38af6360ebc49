package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"varve.dev/objectstore"
)

const (
	// maxIovecs is the kernel's bound (IOV_MAX) on the slices of one write.
	maxIovecs = 1024
	// pacedWrite is about how much a write takes that has time: a larger one would keep a processor from others for as long.
	// Others are as large as can be: the kernel reads faster from pages that it took for many bytes at a time.
	pacedWrite = 1 << 20
)

// writeSlices writes slices to an empty file, many by one call and without a copy of ours.
//
// The pages that the kernel takes for what was read go as soon as they are on disk, where it can do that (Linux 6.14): fresh
// pages are most of what a copy costs, 1.2 CPU-s/GiB against 0.3 on a virtual machine. Who reads the file all the same finds
// it in the page cache from then on.
func writeSlices(ctx context.Context, f *os.File, slices [][]byte, pace objectstore.Pace, read bool) error {
	fd, at, flags := int(f.Fd()), int64(0), 0
	if read {
		flags = unix.RWF_DONTCACHE
	}
	most := math.MaxInt
	if pace.Rate > 0 {
		most = pacedWrite
	}
	for len(slices) > 0 {
		if len(slices[0]) == 0 {
			slices = slices[1:]
			continue
		}
		next, size := gather(slices, most)
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

// gather is the first slices that one write takes: most bytes, or little more.
func gather(slices [][]byte, most int) (first [][]byte, bytes int) {
	n := 0
	for n < len(slices) && n < maxIovecs && bytes < most {
		bytes += len(slices[n])
		n++
	}
	return slices[:n], bytes
}
