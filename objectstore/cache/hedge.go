package cache

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// One in a hundred of S3's answers takes several times as long as the others, and who reads in order waits for each such
// one. So a GET that takes much longer than those before it is sent a second time, and the first answer counts.
const (
	// Half as long again as the median of the last timedGets is late; before leastLate a second request gains nothing.
	// Fewer than leastTimed say nothing.
	timedGets  = 32
	leastTimed = 8
	leastLate  = 50 * time.Millisecond
	// hedgeShare is how many GETs earn one that may be sent twice: a store that is slow for all gets no more load than
	// that. Up to savedHedges are kept for later.
	hedgeShare  = 20
	savedHedges = 2
)

// timing is how long the last GETs took, and how many may be sent twice.
type timing struct {
	took   [timedGets]time.Duration
	n      int // GETs that were seen
	earned int // in shares of a GET
}

func newTiming() timing { return timing{earned: hedgeShare} }

func (t *timing) add(took time.Duration) {
	t.took[t.n%timedGets] = took
	t.n++
	t.earned = min(t.earned+1, savedHedges*hedgeShare)
}

// late is after what time a GET is late. ok is false while too little is known.
func (t *timing) late() (after time.Duration, ok bool) {
	if t.n < leastTimed {
		return 0, false
	}
	known := t.took
	last := known[:min(t.n, timedGets)]
	slices.Sort(last)
	return max(leastLate, last[len(last)/2]*3/2), true
}

func (t *timing) spend() bool {
	if t.earned < hedgeShare {
		return false
	}
	t.earned -= hedgeShare
	return true
}

// answer is what one GET of a span brought.
type answer struct {
	data []byte
	err  error
}

// download fetches and checks one span, with a second GET where the first is late.
func (c *Cache) download(o *Object, s span) ([]byte, error) {
	endTurn, err := c.turn(c.life)
	if err != nil {
		return nil, errClosed // nothing comes any more
	}
	ctx, cancel := context.WithCancel(c.life)
	defer cancel() // whoever is slower gives up
	answers := make(chan answer)
	c.send(ctx, o, s, endTurn, answers)
	late := time.NewTimer(leastLate)
	defer late.Stop()
	var failed error
	for began, sent := time.Now(), 1; sent > 0; {
		select {
		case a := <-answers:
			if a.err == nil {
				return a.data, nil
			}
			failed = cmp.Or(failed, a.err)
			sent--
		case <-late.C:
			if wait := c.untilLate(time.Since(began)); wait > 0 {
				late.Reset(wait)
			} else if endTurn, ok := c.hedge(s); ok {
				c.send(ctx, o, s, endTurn, answers)
				sent++
			}
		case <-ctx.Done():
			return nil, errClosed
		}
	}
	if c.life.Err() != nil {
		return nil, errClosed
	}
	return nil, failed
}

// send does one GET and offers its answer until ctx ends.
func (c *Cache) send(ctx context.Context, o *Object, s span, endTurn func(), answers chan<- answer) {
	c.downloads.Go(func() {
		defer endTurn()
		data, err := c.attempt(ctx, o, s)
		select {
		case answers <- answer{data, err}:
		case <-ctx.Done():
			if err == nil {
				c.giveBack(data)
			}
		}
	})
}

// untilLate is how long a GET that has taken so long may still take.
func (c *Cache) untilLate(taken time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if late, ok := c.timing.late(); ok {
		return late - taken
	}
	return leastLate // others will tell
}

// hedge takes a turn for a second GET if one is free and earned.
func (c *Cache) hedge(s span) (endTurn func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case c.requests <- struct{}{}:
	default:
		return nil, false
	}
	if !c.timing.spend() {
		<-c.requests
		return nil, false
	}
	c.stats.Hedges++
	c.coming += footprint(s.end - s.start)
	return func() { <-c.requests }, true
}

// attempt is one GET of a span, whose memory it takes now that it has its turn.
func (c *Cache) attempt(ctx context.Context, o *Object, s span) ([]byte, error) {
	buf := c.pool.get(s.end - s.start)
	c.mu.Lock()
	c.coming -= footprint(s.end - s.start)
	c.coldBytes += int64(cap(buf))
	c.evictIdle()
	c.mu.Unlock()
	began := time.Now()
	if err := c.getChecked(ctx, o, s, buf); err != nil {
		c.giveBack(buf)
		return nil, err
	}
	if s.end-s.start >= c.cfg.ChunkBytes/2 { // the time of small ones says little of large ones
		c.mu.Lock()
		c.timing.add(time.Since(began))
		c.mu.Unlock()
	}
	return buf, nil
}

func (c *Cache) giveBack(buf []byte) {
	c.mu.Lock()
	c.coldBytes -= int64(cap(buf))
	c.mu.Unlock()
	c.pool.put(buf)
}
