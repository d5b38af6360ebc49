package objectstore

import (
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"time"
)

// Call is one request as Faults sees it, before it goes to the store.
type Call struct {
	Kind Kind
	// Key is the object's; the first of a delete; the prefix of a list.
	Key string
	// Size is the number of bytes to be stored or read.
	Size int64
}

// Fault is what shall go wrong with one request. The zero value is a request that goes well.
type Fault struct {
	// Delay passes before anything else, or until the caller's context ends: longer than any deadline, it is a hang.
	Delay time.Duration
	// Before is returned instead of sending the request.
	Before error
	// Lost is returned after the request has had its effect: a lost reply.
	Lost error
	// Truncate fills only the first half of a read and fails, as a connection does that breaks.
	Truncate bool
	// Corrupt flips one bit in the middle of a read that succeeds.
	Corrupt bool
}

// Faults is a Store in which requests fail as decide says. decide is called by many goroutines, once for each request.
type Faults struct {
	next   Store
	decide func(Call) Fault
}

func NewFaults(next Store, decide func(Call) Fault) *Faults { return &Faults{next, decide} }

// FaultRates are probabilities between 0 and 1, drawn one after the other for each request.
type FaultRates struct {
	Delay, Unavailable, Throttled, Lost, Truncate, Corrupt float64
	// MaxDelay bounds a drawn delay.
	MaxDelay time.Duration
}

// RandomFaults decides by rates. The same seed and the same order of requests give the same faults.
func RandomFaults(seed uint64, rates FaultRates) func(Call) Fault {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	return func(call Call) Fault {
		mu.Lock()
		defer mu.Unlock()
		var f Fault
		if random.Float64() < rates.Delay {
			f.Delay = time.Duration(random.Float64() * float64(rates.MaxDelay))
		}
		if random.Float64() < rates.Unavailable {
			f.Before = fmt.Errorf("%w: injected before %s %s", ErrUnavailable, call.Kind, call.Key)
		}
		if random.Float64() < rates.Throttled {
			f.Before = fmt.Errorf("%w: injected before %s %s", ErrThrottled, call.Kind, call.Key)
		}
		if random.Float64() < rates.Lost {
			f.Lost = fmt.Errorf("%w: injected after %s %s", ErrUnavailable, call.Kind, call.Key)
		}
		f.Truncate = random.Float64() < rates.Truncate
		f.Corrupt = random.Float64() < rates.Corrupt
		return f
	}
}

func (s *Faults) Put(ctx context.Context, key string, body Body) error {
	return s.around(ctx, Call{KindPut, key, body.Size()}, func(Fault) error { return s.next.Put(ctx, key, body) })
}

func (s *Faults) ReadAt(ctx context.Context, key string, dst []byte, off int64) error {
	return s.around(ctx, Call{KindGet, key, int64(len(dst))}, func(f Fault) error {
		want := dst
		if f.Truncate {
			want = dst[:len(dst)/2]
		}
		if err := s.next.ReadAt(ctx, key, want, off); err != nil {
			return err
		}
		if f.Truncate {
			return fmt.Errorf("%w: get %s: injected after %d of %d bytes: %w", ErrUnavailable, key, len(want), len(dst), io.ErrUnexpectedEOF)
		}
		if f.Corrupt && len(dst) > 0 {
			dst[len(dst)/2] ^= 1
		}
		return nil
	})
}

func (s *Faults) Stat(ctx context.Context, key string) (info Info, err error) {
	err = s.around(ctx, Call{KindHead, key, 0}, func(Fault) (err error) {
		info, err = s.next.Stat(ctx, key)
		return err
	})
	return info, err
}

func (s *Faults) Delete(ctx context.Context, keys []string) error {
	call := Call{Kind: KindDelete}
	if len(keys) > 0 {
		call.Key = keys[0]
	}
	return s.around(ctx, call, func(Fault) error { return s.next.Delete(ctx, keys) })
}

func (s *Faults) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		stopped := false
		err := s.around(ctx, Call{KindList, prefix, 0}, func(Fault) error {
			for info, err := range s.next.List(ctx, prefix) {
				if err != nil {
					return err
				}
				if stopped = !yield(info, nil); stopped {
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(Info{}, err)
		}
	}
}

func (s *Faults) around(ctx context.Context, call Call, perform func(Fault) error) error {
	f := s.decide(call)
	if f.Delay > 0 && !sleep(ctx, f.Delay) {
		return fmt.Errorf("%s %s: %w", call.Kind, call.Key, ctx.Err())
	}
	if f.Before != nil {
		return f.Before
	}
	if err := perform(f); err != nil {
		return err
	}
	return f.Lost
}
