package cache

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxIovecs is the kernel's bound (IOV_MAX) on the slices of one write.
const maxIovecs = 1024

// writeSlices writes slices one behind the other, many by one call and without a copy of ours.
func writeSlices(f *os.File, slices [][]byte) error {
	fd := int(f.Fd())
	for len(slices) > 0 {
		if len(slices[0]) == 0 {
			slices = slices[1:]
			continue
		}
		n, err := unix.Writev(fd, slices[:min(len(slices), maxIovecs)])
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", f.Name(), err)
		}
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
