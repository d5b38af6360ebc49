//go:build linux || darwin || freebsd

package cache

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// statfs is what this user may still write where dir is.
func statfs(dir string) (int64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	if err == nil && st.Blocks == 0 { // of some filesystems that lie elsewhere
		err = errors.ErrUnsupported
	}
	if err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
