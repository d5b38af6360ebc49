package objectstore

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math/rand/v2"
	"time"
)

// RetryConfig bounds what Retry does. The zero value takes every default.
type RetryConfig struct {
	// Attempts is the number of requests for one call, the first included; default 6, about three seconds of waiting.
	// Negative: until the caller's context ends.
	Attempts int
	// Backoff is the longest pause before the second attempt; it doubles up to MaxBackoff. A pause is drawn evenly between
	// 0 and its longest, so that many agents do not come back together. Defaults 100 ms and 10 s.
	Backoff, MaxBackoff time.Duration
	// Timeout bounds one attempt, and grows by one second for every BytesPerSecond that it moves. Defaults 10 s, as long
	// as no healthy store takes to answer, and 1 MiB/s: 256 MiB get 266 s.
	Timeout        time.Duration
	BytesPerSecond int64
	// Random draws from [0, 1); default math/rand/v2. It is called by many goroutines.
	Random func() float64
}

func (c RetryConfig) withDefaults() RetryConfig {
	if c.Attempts == 0 {
		c.Attempts = 6
	}
	if c.Backoff <= 0 {
		c.Backoff = 100 * time.Millisecond
	}
	if c.MaxBackoff <= 0 {
		c.MaxBackoff = 10 * time.Second
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.BytesPerSecond <= 0 {
		c.BytesPerSecond = 1 << 20
	}
	if c.Random == nil {
		c.Random = rand.Float64
	}
	return c
}

// Retry is a Store that gives each attempt a deadline and repeats what may succeed later. Drivers send one request per
// call, so this is the only place where a request is sent twice.
type Retry struct {
	next Store
	cfg  RetryConfig
}

func NewRetry(next Store, cfg RetryConfig) *Retry { return &Retry{next, cfg.withDefaults()} }

// Put repeats with the same key and the same bytes. An attempt that failed may have been stored with its reply lost, and
// a taken key may be our own doing: so a HEAD comes before the bytes are sent again, and behind a refusal. The object is
// ours if it has our size and checksum.
func (r *Retry) Put(ctx context.Context, key string, body Body) error {
	var last error
	return r.repeat(ctx, body.Size(), func(ctx context.Context) error {
		first := last == nil
		inDoubt := !first && !errors.Is(last, ErrThrottled) && !errors.Is(last, ErrChecksum)
		if inDoubt {
			if err := r.settle(ctx, key, body); !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		last = r.next.Put(ctx, key, body)
		if first || !errors.Is(last, ErrExists) {
			return last
		}
		err := r.settle(ctx, key, body)
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: put %s: taken, but not found", ErrUnavailable, key)
		}
		return err
	})
}

func (r *Retry) ReadAt(ctx context.Context, key string, dst []byte, off int64) error {
	return r.repeat(ctx, int64(len(dst)), func(ctx context.Context) error { return r.next.ReadAt(ctx, key, dst, off) })
}

func (r *Retry) Stat(ctx context.Context, key string) (info Info, err error) {
	err = r.repeat(ctx, 0, func(ctx context.Context) (err error) {
		info, err = r.next.Stat(ctx, key)
		return err
	})
	return info, err
}

// Delete repeats one request's worth of keys at a time, so that a late failure does not repeat the first ones.
func (r *Retry) Delete(ctx context.Context, keys []string) error {
	for len(keys) > 0 {
		n := min(len(keys), MaxDeleteKeys)
		if err := r.repeat(ctx, 0, func(ctx context.Context) error { return r.next.Delete(ctx, keys[:n]) }); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// List repeats only until the first object is there: behind that the caller has seen a part, and lists again itself.
func (r *Retry) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		started, stopped := false, false
		err := r.repeatWithin(ctx, func(ctx context.Context, alive func()) error {
			for info, err := range r.next.List(ctx, prefix) {
				if err != nil && started {
					return final{err}
				}
				if err != nil {
					return err
				}
				started = true
				if stopped = !yield(info, nil); stopped {
					return nil
				}
				alive()
			}
			return nil
		})
		if err != nil && !stopped {
			yield(Info{}, err)
		}
	}
}

// settle says whether body is stored under key: nil, ErrNotFound, ErrExists for another object, or why it is not known.
func (r *Retry) settle(ctx context.Context, key string, body Body) error {
	info, err := r.next.Stat(ctx, key)
	if err != nil {
		return fmt.Errorf("put %s: find out whether it is stored: %w", key, err)
	}
	if info.Size != body.Size() {
		return fmt.Errorf("put %s: %w, with %d bytes, ours has %d", key, ErrExists, info.Size, body.Size())
	}
	sum := info.CRC32C
	if !info.HasCRC32C {
		if sum, err = hashObject(ctx, r.next, key, info.Size); err != nil {
			return fmt.Errorf("put %s: find out whether it is stored: %w", key, err)
		}
	}
	if sum != body.CRC32C() {
		return fmt.Errorf("put %s: %w, with CRC32C %08x, ours has %08x", key, ErrExists, sum, body.CRC32C())
	}
	return nil
}

// hashObject reads an object back, for stores that keep no checksum.
func hashObject(ctx context.Context, s Store, key string, size int64) (uint32, error) {
	buf := make([]byte, min(size, 1<<20)) // 1 MiB: at most 256 reads for the largest object
	var sum uint32
	for off := int64(0); off < size; {
		piece := buf[:min(int64(len(buf)), size-off)]
		if err := s.ReadAt(ctx, key, piece, off); err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, castagnoli, piece)
		off += int64(len(piece))
	}
	return sum, nil
}

// final marks an error that must not be retried, whatever it is.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

func (r *Retry) repeat(ctx context.Context, size int64, call func(context.Context) error) error {
	limit := r.cfg.Timeout + time.Duration(float64(size)/float64(r.cfg.BytesPerSecond)*float64(time.Second))
	return r.attempts(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
		defer cancel()
		return late(ctx, limit, call(ctx))
	})
}

// repeatWithin bounds the silence between two calls of alive instead of the whole attempt.
func (r *Retry) repeatWithin(ctx context.Context, call func(ctx context.Context, alive func()) error) error {
	limit := r.cfg.Timeout
	return r.attempts(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		timer := time.AfterFunc(limit, func() { cancel(errSlow) })
		defer cancel(nil)
		defer timer.Stop()
		return late(ctx, limit, call(ctx, func() { timer.Reset(limit) }))
	})
}

var errSlow = errors.New("attempt timed out")

// late turns the end of an attempt's own deadline into ErrUnavailable; the caller's context has not ended.
func late(ctx context.Context, limit time.Duration, err error) error {
	var f final
	if err == nil || errors.As(err, &f) || !errors.Is(context.Cause(ctx), errSlow) {
		return err
	}
	return fmt.Errorf("%w: no answer within %s: %v", ErrUnavailable, limit, err)
}

func (r *Retry) attempts(ctx context.Context, call func(context.Context) error) error {
	for n := 1; ; n++ {
		err := call(ctx)
		if err == nil || ctx.Err() != nil || n == r.cfg.Attempts || !retriable(err, n) {
			return err
		}
		if !sleep(ctx, r.pause(n)) {
			return fmt.Errorf("%w, and %w before attempt %d", err, ctx.Err(), n+1)
		}
	}
}

// retriable: a wrong checksum is retried once, for it was the network's fault or it will be wrong for ever.
func retriable(err error, attempt int) bool {
	var f final
	if errors.As(err, &f) {
		return false
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrThrottled) || attempt == 1 && errors.Is(err, ErrChecksum)
}

func (r *Retry) pause(attempt int) time.Duration {
	longest := r.cfg.MaxBackoff
	if shift := attempt - 1; shift < 32 && r.cfg.Backoff<<shift < longest {
		longest = r.cfg.Backoff << shift
	}
	return time.Duration(r.cfg.Random() * float64(longest))
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
