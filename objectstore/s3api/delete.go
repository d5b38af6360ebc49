package s3api

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"varve.dev/objectstore"
)

// EachDelete checks all keys, then calls batch with at most MaxDeleteKeys of their full names at a time.
func EachDelete(ctx context.Context, names Names, keys []string, batch func(ctx context.Context, full []string) error) error {
	full := make([]string, len(keys))
	for i, key := range keys {
		var err error
		if full[i], err = names.Full(key); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(full, objectstore.MaxDeleteKeys) {
		if err := batch(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// maxDeleteErrors bounds the text of a failed delete: a thousand keys fail for the same reason.
const maxDeleteErrors = 3

// DeleteErrors gathers what a delete's answer says of single keys.
type DeleteErrors struct {
	errs []error
	more int
}

// Add takes one key's failure. A key that holds nothing is none.
func (d *DeleteErrors) Add(ctx context.Context, f Failure) {
	switch {
	case f.Code == "NoSuchKey" || f.Code == "NotFound":
	case len(d.errs) == maxDeleteErrors:
		d.more++
	default:
		d.errs = append(d.errs, f.Error(ctx))
	}
}

// Err is nil if nothing was added.
func (d *DeleteErrors) Err() error {
	if d.more > 0 {
		return errors.Join(append(d.errs, fmt.Errorf("and %d more keys", d.more))...)
	}
	return errors.Join(d.errs...)
}
