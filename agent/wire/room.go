package wire

import (
	"container/list"
	"context"
	"sync"
)

// room is the bytes that frames of Produce may take together. A frame takes them as it arrives, twice as many each time: who
// claims much and sends little holds up nobody. Frames that have arrived in part must not wait for each other's rest, so one
// of them at a time may come to its end beyond the bound.
type room struct {
	mu      sync.Mutex
	free    int64
	last    bool      // one is beyond the bound
	waiting list.List // *waiter, in the order of their coming
}

type waiter struct {
	n       int64
	partial bool
	last    bool // granted beyond the bound
	granted chan struct{}
}

// take waits until n bytes are free for a frame; partial: it holds some already. last: it was granted without them, for all
// the rest of the frame.
func (r *room) take(ctx context.Context, n int64, partial bool) (last bool, err error) {
	r.mu.Lock()
	if r.waiting.Len() == 0 && n <= r.free {
		r.free -= n
		r.mu.Unlock()
		return false, nil
	}
	w := &waiter{n: n, partial: partial, granted: make(chan struct{})}
	at := r.waiting.PushBack(w)
	r.grant()
	r.mu.Unlock()
	select {
	case <-w.granted:
		return w.last, nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-w.granted: // at the same moment
		r.back(n, w.last)
	default:
		r.waiting.Remove(at)
		r.grant()
	}
	return false, context.Cause(ctx)
}

// give takes n bytes back, of a frame that was granted its rest beyond the bound if last says so.
func (r *room) give(n int64, last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free += n
	if last {
		r.last = false
	}
	r.grant()
}

// back undoes a grant.
func (r *room) back(n int64, last bool) {
	if last {
		r.last = false
	} else {
		r.free += n
	}
	r.grant()
}

// grant serves those who wait in their order, and the first of those that hold some beyond it.
func (r *room) grant() {
	for at := r.waiting.Front(); at != nil && at.Value.(*waiter).n <= r.free; at = r.waiting.Front() {
		r.free -= at.Value.(*waiter).n
		r.serve(at)
	}
	for at := r.waiting.Front(); at != nil && !r.last; at = at.Next() {
		if w := at.Value.(*waiter); w.partial {
			w.last, r.last = true, true
			r.serve(at)
			return
		}
	}
}

func (r *room) serve(at *list.Element) {
	close(at.Value.(*waiter).granted)
	r.waiting.Remove(at)
}
