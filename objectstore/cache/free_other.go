//go:build !linux && !darwin && !freebsd

package cache

import "errors"

func statfs(string) (int64, error) { return 0, errors.ErrUnsupported }
