package wire

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

// slot is the place of one request's answer in its connection's order.
type slot struct {
	key         int16
	tags        bool // the response header ends with a tag section
	correlation int32
	arrived     time.Time
	reply       Reply
	size        int64 // bytes of reply.Parts
	done        bool
}

// outbox keeps the answers of a connection in the order of its requests.
type outbox struct {
	maxSlots     int
	maxUnwritten int64
	wake         chan struct{} // for the writer: the oldest slot is done, or no more will come
	room         chan struct{} // for the reader: something was written

	mu        sync.Mutex // guards what follows; nothing blocks under it
	slots     []*slot    // oldest first
	unwritten int64      // bytes of answers that are done and not yet written
	ended     bool       // the reader will add no more
	dead      bool       // nothing will be written any more
}

func newOutbox(maxSlots int, maxUnwritten int64) *outbox {
	return &outbox{
		maxSlots:     maxSlots,
		maxUnwritten: maxUnwritten,
		wake:         make(chan struct{}, 1),
		room:         make(chan struct{}, 1),
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// waitForRoom returns when another request may be started.
func (o *outbox) waitForRoom(ctx context.Context) error {
	for {
		o.mu.Lock()
		ok := len(o.slots) < o.maxSlots && o.unwritten < o.maxUnwritten
		o.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-o.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// add appends a slot.
func (o *outbox) add(s *slot) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.slots = append(o.slots, s)
}

// waiting says whether any request is unanswered or any answer unwritten.
func (o *outbox) waiting() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.slots) > 0 || o.unwritten > 0
}

// put fills a slot; false if it was filled before.
func (o *outbox) put(s *slot, r Reply) bool {
	o.mu.Lock()
	if s.done {
		o.mu.Unlock()
		release(r)
		return false
	}
	s.done = true
	if o.dead {
		o.mu.Unlock()
		release(r)
		return true
	}
	for _, p := range r.Parts {
		s.size += int64(len(p))
	}
	s.reply = r
	o.unwritten += s.size
	first := o.slots[0] == s
	o.mu.Unlock()
	if first {
		signal(o.wake)
	}
	return true
}

// take waits for the oldest slot and appends it and all that are done behind it to dst. Nothing appended: there will be
// no more.
func (o *outbox) take(dst []*slot) []*slot {
	for {
		o.mu.Lock()
		done := 0
		for done < len(o.slots) && o.slots[done].done && !o.dead {
			done++
		}
		dst = append(dst, o.slots[:done]...)
		o.slots = slices.Delete(o.slots, 0, done) // at most maxSlots are moved, and nothing is allocated
		over := o.dead || o.ended && len(o.slots) == 0
		o.mu.Unlock()
		if len(dst) > 0 || over {
			return dst
		}
		<-o.wake
	}
}

// written is told when slots that take answered are done with.
func (o *outbox) written(slots []*slot) {
	o.mu.Lock()
	for _, s := range slots {
		o.unwritten -= s.size
	}
	o.mu.Unlock()
	signal(o.room)
	for _, s := range slots {
		release(s.reply)
		s.reply = Reply{}
	}
}

// end says that no more slots will be added.
func (o *outbox) end() {
	o.mu.Lock()
	o.ended = true
	o.mu.Unlock()
	signal(o.wake)
}

// die gives up what is not written; answers that come later are released at once.
func (o *outbox) die() {
	o.mu.Lock()
	o.dead = true
	var ready []*slot
	for _, s := range o.slots {
		if s.done {
			ready = append(ready, s)
		}
	}
	o.slots = nil
	o.mu.Unlock()
	o.written(ready)
	signal(o.wake)
}

func release(r Reply) {
	if r.Release != nil {
		r.Release()
	}
}

// gather lays answers out for one writev. heads is where response headers are built; it is reused and must not move while
// buffers point into it, hence its capacity is made sure of first.
func gather(buffers net.Buffers, heads []byte, slots []*slot) (net.Buffers, []byte, int64) {
	const headBytes = 9
	if need := headBytes * len(slots); cap(heads) < need {
		heads = make([]byte, 0, need)
	}
	heads = heads[:0]
	var total int64
	for _, s := range slots {
		if s.reply.NoReply {
			continue
		}
		from := len(heads)
		heads = appendResponseHeader(heads, s.correlation, s.tags, int(s.size))
		buffers = append(buffers, heads[from:len(heads):len(heads)])
		buffers = append(buffers, s.reply.Parts...)
		total += int64(len(heads)-from) + s.size
	}
	return buffers, heads, total
}
