package objectstore

import (
	"context"
	"errors"
)

// Kind is what a request is billed as.
type Kind string

const (
	KindPut    Kind = "put"
	KindGet    Kind = "get"
	KindHead   Kind = "head"
	KindDelete Kind = "delete"
	KindList   Kind = "list"
)

// Outcome names how a request ended, for metrics, logs and golden files.
func Outcome(err error) string {
	var setup *SetupError
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrExists):
		return "exists"
	case errors.Is(err, ErrNotFound):
		return "not_found"
	case errors.Is(err, ErrRange):
		return "range"
	case errors.Is(err, ErrThrottled):
		return "throttled"
	case errors.Is(err, ErrChecksum):
		return "checksum"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	case errors.As(err, &setup):
		return "setup"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "canceled"
	}
	return "error"
}
