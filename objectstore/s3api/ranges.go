package s3api

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"varve.dev/objectstore"
)

// Fill reads the answer to a GET of dst's range at off into dst, or fails. contentRange and length are the headers; a
// store may answer with the whole object and no Content-Range if that is what was asked for.
func Fill(ctx context.Context, key string, dst []byte, off int64, contentRange string, length int64, body io.Reader) error {
	err := fill(dst, off, contentRange, length, body)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("get %s: %w", key, ctx.Err())
	}
	return fmt.Errorf("get %s: %w", key, err)
}

func fill(dst []byte, off int64, contentRange string, length int64, body io.Reader) error {
	want := int64(len(dst))
	if contentRange == "" && (off != 0 || length != want) {
		return fmt.Errorf("asked for bytes %d to %d, got %d bytes without a Content-Range: the store ignores ranges", off, off+want-1, length)
	}
	if contentRange != "" {
		first, last, total, ok := parseContentRange(contentRange)
		switch {
		case !ok || first != off:
			return fmt.Errorf("asked for bytes %d to %d, got Content-Range %q", off, off+want-1, contentRange)
		case last != off+want-1 && total >= 0 && off+want > total:
			return fmt.Errorf("%w: bytes %d to %d of %d", objectstore.ErrRange, off, off+want-1, total)
		case last != off+want-1:
			return fmt.Errorf("%w: asked for bytes %d to %d, got %q", objectstore.ErrUnavailable, off, off+want-1, contentRange)
		}
	}
	if n, err := io.ReadFull(body, dst); err != nil {
		return fmt.Errorf("%w: answer ended after %d of %d bytes: %w", objectstore.ErrUnavailable, n, want, err)
	}
	return nil
}

// parseContentRange reads "bytes 5-9/20"; total is -1 for "bytes 5-9/*".
func parseContentRange(s string) (first, last, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, slash := strings.Cut(s, "/")
	from, to, dash := strings.Cut(span, "-")
	if !ok || !slash || !dash {
		return 0, 0, 0, false
	}
	first, ok1 := decimal(from)
	last, ok2 := decimal(to)
	total, ok3 := decimal(size)
	if size == "*" {
		total, ok3 = -1, true
	}
	if !ok1 || !ok2 || !ok3 || last < first || total >= 0 && last >= total {
		return 0, 0, 0, false
	}
	return first, last, total, true
}

func decimal(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}

// Range is the header that asks for n bytes at off; n is above 0.
func Range(off int64, n int) string { return fmt.Sprintf("bytes=%d-%d", off, off+int64(n)-1) }

// ReadNothing is a read of no bytes, which HTTP cannot ask for, or one at a negative offset, which nobody can.
func ReadNothing(ctx context.Context, s objectstore.Store, key string, off int64) error {
	if off < 0 {
		return fmt.Errorf("get %s: %w: offset %d", key, objectstore.ErrRange, off)
	}
	info, err := s.Stat(ctx, key)
	if err == nil && off > info.Size {
		return fmt.Errorf("get %s: %w: offset %d of %d", key, objectstore.ErrRange, off, info.Size)
	}
	return err
}
