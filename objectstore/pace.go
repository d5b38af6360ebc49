package objectstore

import (
	"context"
	"io"
	"time"
)

// Pace lets bytes go at a rate, for whoever has time: what is done as fast as a machine can takes it from those who wait
// for an answer. What was not used of the past is not made up for. The zero value lets everything go at once.
type Pace struct {
	Rate int64 // bytes per second
	next time.Time
}

// burst is how many bytes may go ahead of their time: waits for less cost more than they smooth.
const burst = 1 << 20

// Take waits until the next bytes may go, and counts n of them. When ctx ends it waits no more.
func (p *Pace) Take(ctx context.Context, n int) {
	if p.Rate <= 0 {
		return
	}
	now := time.Now()
	if wait := p.next.Sub(now); wait > p.lasts(burst) {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	} else if wait < 0 {
		p.next = now
	}
	p.next = p.next.Add(p.lasts(n))
}

func (p *Pace) lasts(n int) time.Duration {
	return time.Duration(int64(n) * int64(time.Second) / p.Rate)
}

// Paced is body, sent no faster than rate, in bytes per second; 0: as fast as it can.
func Paced(body Body, rate int64) Body { return paced{body, rate} }

type paced struct {
	Body
	rate int64
}

func (p paced) Open() io.ReadSeeker {
	return &pacedReader{p.Body.Open(), Pace{Rate: p.rate}}
}

type pacedReader struct {
	io.ReadSeeker
	pace Pace
}

func (r *pacedReader) Read(b []byte) (int, error) {
	b = b[:min(len(b), burst)] // so no read waits long: Put ends soon after its context
	r.pace.Take(context.Background(), len(b))
	return r.ReadSeeker.Read(b)
}

// Close closes a reader that has to be closed.
func (r *pacedReader) Close() error {
	if c, ok := r.ReadSeeker.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
