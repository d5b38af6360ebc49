//go:build !linux

package cache

import (
	"bufio"
	"os"
)

// writeBuffer gathers slices, some KiB each, into fewer writes.
const writeBuffer = 256 << 10

// writeSlices writes slices one behind the other.
func writeSlices(f *os.File, slices [][]byte) error {
	b := bufio.NewWriterSize(f, writeBuffer)
	for _, s := range slices {
		if _, err := b.Write(s); err != nil {
			return err
		}
	}
	return b.Flush()
}
