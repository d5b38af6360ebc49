//go:build !linux

package cache

import (
	"bufio"
	"context"
	"os"

	"varve.dev/objectstore"
)

// writeBuffer gathers slices, some KiB each, into fewer writes.
const writeBuffer = 256 << 10

// writeSlices writes slices one behind the other.
func writeSlices(ctx context.Context, f *os.File, slices [][]byte, pace objectstore.Pace, _ bool) error {
	b := bufio.NewWriterSize(f, writeBuffer)
	for _, s := range slices {
		pace.Take(ctx, len(s))
		if _, err := b.Write(s); err != nil {
			return err
		}
	}
	return b.Flush()
}
