package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"varve.dev/metadata"
	"varve.dev/tiering/journal"
)

// nemesis starts lives and ends them as the plan says. It runs in one goroutine.
type nemesis struct {
	w   *world
	rng *rand.Rand
	// standing is what goes on: an older life that still runs, or stands still.
	old      *life
	oldUntil time.Time
	resume   time.Time // of a pause; zero: none
	home     time.Time // when the own disk is back; zero: it is there
	homeHard bool
	left     []*machine // spare disks that may hold tails
	reunite  time.Time  // when each of them comes up once more, and is emptied; zero: that was
}

// run works through the plan until ctx ends; then the agent is told to stop.
func (n *nemesis) run(ctx context.Context) {
	w := n.w
	n.launch(w.own)
	n.reunite = w.plan.began.Add(healed + time.Millisecond)
	events := slices.Clone(w.plan.events)
	for {
		next := time.Now().Add(time.Hour)
		sooner := func(t time.Time) {
			if !t.IsZero() && t.Before(next) {
				next = t
			}
		}
		if len(events) > 0 {
			sooner(w.plan.began.Add(events[0].at))
		}
		sooner(n.resume)
		sooner(n.home)
		sooner(n.reunite)
		if n.old != nil {
			sooner(n.oldUntil)
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			n.calm()
			n.stop()
			return
		case <-w.current.gate.died: // midway
			n.replace(w.current.on, w.current.tripped)
		case <-w.current.ended:
			n.fell()
		case <-w.log.torn: // what was cut lies there until new frames are released: now it could come back
			if again := w.plan.now() + part(n.rng, time.Second); again < healed-2*time.Second {
				events = slices.Insert(events, 0, event{kind: []kind{kill, power}[n.rng.IntN(2)], at: again})
				slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
			}
		case <-timer.C:
			n.due()
			for len(events) > 0 && w.plan.now() >= events[0].at {
				n.strike(events[0])
				events = events[1:]
			}
		}
		timer.Stop()
	}
}

// calm ends what goes on.
func (n *nemesis) calm() {
	n.resume, n.home, n.oldUntil = time.Time{}, time.Time{}, time.Time{}
	n.w.current.gate.resume()
	if n.old != nil {
		n.w.reap(n.old, false, n.rng)
		n.old = nil
	}
}

// due does what has come due.
func (n *nemesis) due() {
	now := time.Now()
	if !n.resume.IsZero() && !now.Before(n.resume) {
		n.resume = time.Time{}
		n.w.current.gate.resume()
		n.w.log.note("life %d goes on", n.w.current.n)
	}
	if n.old != nil && !now.Before(n.oldUntil) {
		n.w.reap(n.old, n.homeHard, n.rng)
		n.old = nil
	}
	if !n.home.IsZero() && !now.Before(n.home) {
		n.home = time.Time{}
		if n.old != nil {
			n.w.reap(n.old, n.homeHard, n.rng)
			n.old = nil
		}
		n.w.reap(n.w.current, n.homeHard, n.rng)
		n.launch(n.w.own)
	}
	if !n.reunite.IsZero() && !now.Before(n.reunite) {
		n.reunite = time.Time{}
		n.empty()
	}
}

// empty brings every spare disk up once more: a tail of a local topic may lie there, and its partition waits for it.
func (n *nemesis) empty() {
	if len(n.left) == 0 {
		return
	}
	w := n.w
	n.home = time.Time{}
	w.takeOver()
	for _, m := range append(n.left, w.own) {
		w.current.gate.resume()
		w.current.trips.arm("")
		w.current.drain()
		if !within(w.current.ended, 40*time.Second) {
			w.fail("the agent did not stop within 40 s")
		}
		w.reap(w.current, false, n.rng)
		n.launch(m)
		if !within(w.current.ready, patience) {
			w.fail("the agent was not ready within %s on the disk %s", patience, m.name)
		}
	}
}

// launch starts a life, once its predecessor's folder is its own.
func (n *nemesis) launch(on *machine) {
	n.w.start(on)
}

// replace ends the current life and starts another.
func (n *nemesis) replace(on *machine, e event) {
	w := n.w
	w.reap(w.current, e.hard, n.rng)
	if e.kind == rot {
		w.rotten(on, n.rng)
	}
	n.resume = time.Time{}
	sleep(context.Background(), e.away)
	n.launch(on)
}

// fell: the life has ended by itself.
func (n *nemesis) fell() {
	w := n.w
	l := w.current
	w.log.note("life %d ended by itself, ready %v: %v", l.n, l.isReady(), l.err)
	switch err := l.err; {
	case errors.Is(err, metadata.ErrFenced):
		w.plan.count("life fenced")
	case errors.Is(err, journal.ErrBroken):
		w.plan.count("life ended by its journal")
	case err == nil:
		w.plan.count("life ended without a word")
	case !l.isReady():
		w.plan.count("start failed")
	default:
		w.plan.count("life ended: " + err.Error())
	}
	on := l.on
	w.reap(l, false, n.rng)
	n.resume = time.Time{}
	sleep(context.Background(), 300*time.Millisecond)
	n.launch(on)
}

// strike does what the plan says.
func (n *nemesis) strike(e event) {
	w := n.w
	w.log.note("%s", e.kind)
	if e.kind != swap && e.kind != zombie {
		w.plan.count(fault(e.kind))
	}
	switch e.kind {
	case kill:
		e.hard = false
		n.replace(w.current.on, e)
	case power:
		e.hard = true
		n.replace(w.current.on, e)
	case rot:
		n.replace(w.current.on, e)
	case midway:
		w.current.tripped = e
		w.current.trips.arm(e.step)
	case restart:
		w.current.gate.resume()
		n.resume = time.Time{}
		w.current.drain()
		if !within(w.current.ended, 40*time.Second) {
			w.fail("the agent did not stop within 40 s")
		}
		n.replace(w.current.on, event{})
	case pause:
		w.current.gate.pause()
		n.resume = time.Now().Add(e.away)
	case evict:
		w.evict()
	case swap, zombie:
		n.leave(e)
	}
}

// leave brings the agent up on a new machine; its own comes back later.
func (n *nemesis) leave(e event) {
	w := n.w
	if !n.home.IsZero() || w.plan.now()+e.back > healed-2*time.Second {
		return
	}
	w.plan.count(fault(e.kind))
	n.homeHard = e.hard
	n.home = time.Now().Add(e.away + e.back)
	w.takeOver()
	n.resume = time.Time{}
	if e.kind == swap {
		w.reap(w.current, e.hard, n.rng)
		sleep(context.Background(), e.away)
	} else {
		if e.step == "" && e.away > time.Second {
			w.current.gate.pause() // it sleeps through its own end
			n.w.log.note("life %d stands still", w.current.n)
			old := w.current
			time.AfterFunc(min(e.away, 6*time.Second), old.gate.resume)
		}
		n.old, n.oldUntil = w.current, time.Now().Add(min(e.back, 8*time.Second))
	}
	spare := w.machine(fmt.Sprintf("spare%d", w.life()))
	n.left = append(n.left, spare)
	n.launch(spare)
}

// stop drains the last life.
func (n *nemesis) stop() {
	w := n.w
	w.current.drain()
	if !within(w.current.ended, 40*time.Second) {
		w.fail("the agent did not stop within 40 s")
	} else if w.current.err != nil {
		w.fail("the agent stopped with %v", w.current.err)
	}
	w.reap(w.current, false, n.rng)
}

func within(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// evict drops every local copy of an object, as an operator may.
func (w *world) evict() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return w.network.dial(ctx, network, addr)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:8092/debug/evict", nil)
	if err != nil {
		w.t.Error(err)
		return
	}
	if resp, err := client.Do(req); err == nil {
		if resp.StatusCode == http.StatusOK {
			w.plan.count("evicted")
			w.current.objects.evicted.Store(true)
		}
		resp.Body.Close()
	}
}
