package sim

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// The parts of a schedule.
const (
	length = 120 * time.Second
	calm   = 3 * time.Second  // at the beginning
	healed = 80 * time.Second // from here on nothing fails any more
	rest   = 92 * time.Second // from here on nobody works
)

// kind of fault.
type kind string

const (
	// Things that happen at a moment.
	kill    kind = "kill"    // the process ends; the page cache lives on
	power   kind = "power"   // the machine ends: what was not synced is lost or torn
	midway  kind = "midway"  // the process or machine ends right behind one request
	restart kind = "restart" // it is told to stop
	pause   kind = "pause"   // it stands still
	swap    kind = "swap"    // the agent comes up on another, empty disk, and later on its own again
	zombie  kind = "zombie"  // the same, while the first one still runs
	evict   kind = "evict"   // every local copy of an object goes
	rot     kind = "rot"     // local copies of objects are cut or changed while the agent is away
	// Things that go on for a while.
	metaDown   kind = "metadata down"
	metaSlow   kind = "metadata slow"
	metaLost   kind = "metadata reply lost" // before or after the effect
	metaLate   kind = "metadata late"       // the reply is lost and the effect comes later
	storeDown  kind = "store down"
	storeSlow  kind = "store slow"
	storeLost  kind = "store reply lost"
	storeLate  kind = "store late"
	throttle   kind = "store throttles"
	truncate   kind = "store cuts bodies"
	corrupt    kind = "store changes bodies"
	netCut     kind = "network cut"
	netSlow    kind = "network slow"
	diskSlow   kind = "disk slow"
	diskFull   kind = "disk full"
	diskBroken kind = "disk broken" // an fsync fails
)

var moments = []kind{kill, power, midway, restart, pause, swap, zombie, evict, rot}
var whiles = []kind{metaDown, metaSlow, metaLost, metaLate, storeDown, storeSlow, storeLost, storeLate, throttle, truncate, corrupt,
	netCut, netSlow, diskSlow, diskFull, diskBroken}

// span is a fault that goes on for a while.
type span struct {
	kind     kind
	from, to time.Duration
	rate     float64
}

// event is a fault of a moment.
type event struct {
	kind kind
	at   time.Duration
	away time.Duration // until the agent is back, or goes on
	back time.Duration // of swap and zombie: until the own disk is back
	step string        // of midway: the request behind which it ends
	hard bool          // of midway, swap and zombie: the machine, not only the process
}

// steps are requests behind which a life may end.
var steps = []string{"metadata Commit", "metadata Commit", "metadata Settle", "metadata Start", "metadata Acquire", "metadata Read", "metadata Replace",
	"metadata Intend", "metadata Trim", "metadata Write", "metadata DeleteTopic", "metadata CreateTopic", "metadata Forget", "store PUT wal", "store PUT wal",
	"store PUT seg", "store PUT pack", "store DELETE", "disk write", "disk write", "disk write", "disk sync", "disk sync", "disk open"}

// plan is what a seed draws: a subset of faults, their times and rates. It also counts what came of it.
type plan struct {
	seed   uint64
	spans  []span
	events []event
	mood   []string      // settings of the agent
	sync   time.Duration // an fsync takes at most that

	mu      sync.Mutex
	began   time.Time
	over    bool // everything is healed
	counts  map[string]int
	streams map[string]*rand.Rand
}

// rng is a stream of draws of its own.
func (p *plan) rng(name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(p.seed, h.Sum64()))
}

// newPlan draws one: some seeds have no fault at all, most a few kinds.
func newPlan(seed uint64) *plan {
	p := &plan{seed: seed, counts: map[string]int{}, streams: map[string]*rand.Rand{}}
	rng := p.rng("plan")
	p.mood = mood(rng)
	p.sync = []time.Duration{2, 20, 200}[rng.IntN(3)] * time.Millisecond
	share := []float64{0, 0.1, 0.2, 0.2, 0.35, 0.35, 0.5}[rng.IntN(7)]
	within := func() time.Duration { return calm + part(rng, healed-calm-2*time.Second) }
	for _, k := range whiles {
		n := 0
		if rng.Float64() < share {
			n = 1 + rng.IntN(4)
		}
		for range n {
			s := span{kind: k, from: within(), rate: []float64{0.01, 0.05, 0.2}[rng.IntN(3)]}
			s.to = s.from + time.Second + part(rng, 20*time.Second)
			if k == diskBroken {
				s.to = s.from + part(rng, time.Second)
			}
			if k == netCut {
				s.rate /= 4
			}
			p.spans = append(p.spans, s)
		}
	}
	// Some seeds have statements come late all the time: what overtakes what then depends on the rest.
	if p.rng("late").IntN(8) == 0 {
		p.spans = append(p.spans, span{kind: metaLate, from: calm, to: healed, rate: 0.2})
	}
	brief := p.rng("brief")
	for _, k := range moments {
		n := 0
		if rng.Float64() < max(share, 0.1)*1.5 {
			n = 1 + rng.IntN(5)
		}
		if k == swap || k == zombie {
			n = min(n, 1+rng.IntN(2))
		}
		for range n {
			e := event{kind: k, at: within(), away: part(rng, 2*time.Second), back: 2*time.Second + part(rng, 12*time.Second), hard: rng.IntN(2) == 0}
			if rng.IntN(3) == 0 {
				e.away = 0
			}
			if k == midway {
				e.step = steps[rng.IntN(len(steps))]
			}
			if k == pause {
				e.away = part(rng, 10*time.Second)
			}
			if (k == swap || k == zombie) && brief.IntN(2) == 0 {
				e.back = part(brief, time.Second) // another disk leads for a few records, or for none
			}
			p.events = append(p.events, e)
		}
	}
	slices.SortFunc(p.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	return p
}

// mood is how the agent is set: small and large bounds, so that every path is taken.
func mood(rng *rand.Rand) []string {
	pick := func(key string, values ...string) string { return key + "=" + values[rng.IntN(len(values))] }
	return []string{
		pick("flush.interval.ms", "20", "100", "250", "250"), pick("flush.bytes", "65536", "1048576"), pick("flush.inflight", "1", "2", "8"),
		pick("journal.bytes", "4194304", "33554432"), pick("produce.buffer.bytes", "1048576", "268435456"), pick("produce.wait.ms", "1000", "10000"),
		pick("cache.memory.bytes", "1048576", "536870912"), pick("cache.disk.bytes", "0", "1073741824"),
		pick("seal.objects", "4", "16", "2048"), pick("seal.extent.min.bytes", "1", "20000"), pick("seal.age.ms", "2000", "6000", "20000"),
		pick("fetch.readahead.bytes", "0", "33554432"),
		"cache.disk.free.bytes=0", // a seed does not depend on the disk below it
	}
}

// begin starts the plan's clock.
func (p *plan) begin() { p.began = time.Now() }

func (p *plan) now() time.Duration { return time.Since(p.began) }

// heal ends every fault.
func (p *plan) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
}

func (p *plan) isOver() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// rate of a fault that goes on now.
func (p *plan) rate(k kind) (rate float64, on bool) {
	now := p.now()
	if p.isOver() {
		return 0, false
	}
	for _, s := range p.spans {
		if s.kind == k && s.from <= now && now < s.to {
			rate, on = max(rate, s.rate), true
		}
	}
	return rate, on
}

// struck says whether something is away as a whole now; who asks has met it.
func (p *plan) struck(k kind) bool {
	_, on := p.rate(k)
	if on {
		p.count(fault(k))
	}
	return on
}

// fault is what a fault that has struck is counted as.
func fault(k kind) string { return "fault: " + string(k) }

// draw says whether a fault that goes on now strikes, and how hard: from 0 to 1. Each stream draws in its own order.
func (p *plan) draw(k kind, stream string) (hit bool, how float64) {
	rate, on := p.rate(k)
	if !on {
		return false, 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := string(k) + "/" + stream
	rng := p.streams[name]
	if rng == nil {
		rng = p.rng(name)
		p.streams[name] = rng
	}
	x, how := rng.Float64(), rng.Float64()
	if hit = x < rate; hit {
		p.counts[fault(k)]++
	}
	return hit, how
}

// some is a part of a duration, drawn from a stream; nothing once all is healed.
func (p *plan) some(stream string, most time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return 0
	}
	rng := p.streams[stream]
	if rng == nil {
		rng = p.rng(stream)
		p.streams[stream] = rng
	}
	return part(rng, most)
}

func (p *plan) count(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[what]++
}

func (p *plan) counted() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "agent: %s; fsync up to %s\n", strings.Join(p.mood, " "), p.sync)
	for _, s := range p.spans {
		fmt.Fprintf(&b, "%7.3f to %7.3f %s, rate %g\n", s.from.Seconds(), s.to.Seconds(), s.kind, s.rate)
	}
	for _, e := range p.events {
		fmt.Fprintf(&b, "%7.3f %s, away %s back %s hard %v %s\n", e.at.Seconds(), e.kind, e.away, e.back, e.hard, e.step)
	}
	return b.String()
}

// verdict ends a process that hunts for one.
func (p *plan) verdict(err error) {
	if os.Getenv(huntName) != "" {
		fmt.Fprintf(os.Stderr, "seed %d fails: %v\n", p.seed, err)
		os.Exit(1)
	}
}

// part of a duration.
func part(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
