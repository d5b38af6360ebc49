package metatest

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"varve.dev/metadata"
)

// checkModel holds the index to a model of it in memory, through random histories of commits, seals, trims, acquisitions
// and restarts. Each history has agents and a topic of its own, so that one store serves them all.
func checkModel(t *testing.T, s metadata.Store) {
	fewer(t)
	w := newWorld(t, s)
	history := int32(0)
	rapid.Check(t, func(rt *rapid.T) {
		history++
		m := newModel(w, rt, history)
		rt.Repeat(map[string]func(*rapid.T){
			"restart": m.restart, "acquire": m.acquire, "commit": m.commit, "release": m.release, "seal": m.seal,
			"trim": m.trim, "stale": m.stale, "inventory": m.checkGarbage, "": m.check,
		})
	})
	w.audit()
}

// fewer histories than rapid's hundred, unless the command line says how many: each step is a transaction or two.
func fewer(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("30"); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	modelAgents     = 2
	modelPartitions = 3
)

// piece is a range of a partition in an unsealed object.
type piece struct {
	p         int
	base, end int64
	ts        int64
}

type modelObject struct {
	key         string
	first, last int64
	pieces      []piece
}

type modelPartition struct {
	leader      metadata.Session // zero: released
	leaderEpoch int32
	refs        []metadata.SessionRef
	end         int64 // committed
	sealedEnd   int64
	logStart    int64
	segments    []metadata.Segment
}

type model struct {
	w       *world
	t       *rapid.T
	topic   metadata.Topic
	keys    int
	agents  [modelAgents]metadata.Session
	seqs    [modelAgents]int64
	past    []metadata.Session
	parts   [modelPartitions]modelPartition
	objects map[metadata.SessionRef][]modelObject
	live    map[string]int // of sealed objects
	buried  map[string]bool
}

func newModel(w *world, t *rapid.T, history int32) *model {
	m := &model{w: w, t: t, objects: map[metadata.SessionRef][]modelObject{}, live: map[string]int{}, buried: map[string]bool{}}
	m.topic = w.topic(fmt.Sprintf("model-%d", history), modelPartitions)
	for i := range m.parts {
		m.parts[i].leaderEpoch = metadata.NeverLed
	}
	for i := range m.agents {
		m.agents[i], _ = w.start(history*10 + int32(i))
	}
	return m
}

func (m *model) key(kind string) string {
	m.keys++
	return fmt.Sprintf("%s/%d/%d", kind, m.topic.Num, m.keys)
}

func (m *model) id(p int) metadata.PartitionID {
	return metadata.PartitionID{Topic: m.topic.Num, Partition: int32(p)}
}

func ref(s metadata.Session) metadata.SessionRef {
	return metadata.SessionRef{Agent: s.Agent, Epoch: s.Epoch}
}

func drawAgent(t *rapid.T) int { return rapid.IntRange(0, modelAgents-1).Draw(t, "agent") }

func (m *model) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) led(a int) (out []int) {
	for p := range m.parts {
		if m.parts[p].leader == m.agents[a] {
			out = append(out, p)
		}
	}
	return out
}

func (m *model) restart(t *rapid.T) {
	a := drawAgent(t)
	m.past = append(m.past, m.agents[a])
	m.agents[a], _ = m.w.start(m.agents[a].Agent)
	m.seqs[a] = 0
}

func (m *model) stale(t *rapid.T) {
	if len(m.past) == 0 {
		t.Skip("nobody was fenced")
	}
	s := rapid.SampledFrom(m.past).Draw(t, "fenced")
	if err := m.w.Commit(m.w.ctx, s, flush(rapid.Int64Range(0, 3).Draw(t, "from"), m.key("stale"))); !errors.Is(err, metadata.ErrFenced) {
		t.Fatalf("got %v, want ErrFenced", err)
	}
}

func (m *model) acquire(t *rapid.T) {
	a := drawAgent(t)
	me := m.agents[a]
	var asks []metadata.Acquisition
	var want []metadata.PartitionID
	for p := range m.parts {
		row := &m.parts[p]
		refs := slices.Clone(row.refs)
		if !slices.Contains(refs, ref(me)) {
			refs = append(refs, ref(me))
		}
		asks = append(asks, metadata.Acquisition{Partition: m.id(p), SeenEpoch: row.leaderEpoch, Start: row.end,
			Epochs: []metadata.EpochStart{{Epoch: row.leaderEpoch + 1, Start: row.end}}, Unsealed: refs})
		if row.leader == (metadata.Session{}) || !slices.Contains(m.agents[:], row.leader) {
			want = append(want, m.id(p))
			row.leader, row.refs = me, refs
			row.leaderEpoch++
		}
	}
	got, err := m.w.Acquire(m.w.ctx, me, asks)
	m.must(err)
	if !slices.Equal(got, want) {
		t.Fatalf("acquired %v, want %v", got, want)
	}
}

func (m *model) commit(t *rapid.T) {
	a := drawAgent(t)
	led := m.led(a)
	if len(led) == 0 {
		t.Skip("leads nothing")
	}
	c := metadata.Commit{From: m.seqs[a]}
	for range rapid.IntRange(1, 3).Draw(t, "objects") {
		o := modelObject{key: m.key("wal"), first: m.seqs[a] + 1, last: m.seqs[a] + 1}
		for _, p := range led {
			if n := rapid.Int64Range(0, 4).Draw(t, "records"); n > 0 {
				row := &m.parts[p]
				o.pieces = append(o.pieces, piece{p, row.end, row.end + n, rapid.Int64Range(0, 20).Draw(t, "timestamp")})
				row.end += n
			}
		}
		c.Objects = append(c.Objects, wal(o.key))
		m.objects[ref(m.agents[a])] = append(m.objects[ref(m.agents[a])], o)
		m.seqs[a]++
	}
	m.must(m.w.Commit(m.w.ctx, m.agents[a], c))
}

func (m *model) release(t *rapid.T) {
	a := drawAgent(t)
	led := m.led(a)
	if len(led) == 0 {
		t.Skip("leads nothing")
	}
	p := rapid.SampledFrom(led).Draw(t, "partition")
	m.must(m.w.Commit(m.w.ctx, m.agents[a], metadata.Commit{From: m.seqs[a], Release: []metadata.PartitionID{m.id(p)}}))
	m.seqs[a]++
	m.parts[p].leader = metadata.Session{}
}

// seal replaces the oldest objects of one session, its own or a fenced one. A partition whose next unsealed record is in
// the run leaves as segments if the coin says so; everything else goes into a pack.
func (m *model) seal(t *rapid.T) {
	var writers []metadata.Session
	for _, s := range append(slices.Clone(m.past), m.agents[:]...) {
		if len(m.objects[ref(s)]) > 0 {
			writers = append(writers, s)
		}
	}
	if len(writers) == 0 {
		t.Skip("nothing is unsealed")
	}
	of := rapid.SampledFrom(writers).Draw(t, "writer")
	by := m.agents[drawAgent(t)]
	if slices.Contains(m.agents[:], of) {
		by = of
	}
	all := m.objects[ref(of)]
	n := rapid.IntRange(1, len(all)).Draw(t, "length of the run")
	sealing, kept := m.plan(t, of, all[:n])
	var left []modelObject
	if sealing.Pack != nil {
		left = append(left, modelObject{sealing.Pack.Object.Key, sealing.First, sealing.Last, kept})
	}
	m.objects[ref(of)] = append(left, all[n:]...)
	m.w.seal(by, sealing)
}

func (m *model) plan(t *rapid.T, of metadata.Session, run []modelObject) (metadata.Sealing, []piece) {
	out := metadata.Sealing{Of: of, First: run[0].first, Last: run[len(run)-1].last}
	o := sealed(m.key("seal"))
	leave := [modelPartitions]bool{}
	for p := range leave {
		leave[p] = rapid.Bool().Draw(t, "leaves as segments")
	}
	var kept []piece
	bounds := map[int]metadata.SealedPartition{}
	for _, obj := range run {
		out.Keys = append(out.Keys, obj.key)
		m.buried[obj.key] = true
		for _, pc := range obj.pieces {
			row := &m.parts[pc.p]
			if !leave[pc.p] || pc.base != row.sealedEnd {
				kept = append(kept, pc)
				continue
			}
			b, ok := bounds[pc.p]
			if !ok {
				b = metadata.SealedPartition{ID: m.id(pc.p), LeaderEpoch: row.leaderEpoch, Base: row.sealedEnd}
			}
			b.End, row.sealedEnd = pc.end, pc.end
			bounds[pc.p] = b
			g := segment(m.id(pc.p), pc.base, pc.end, pc.ts, &o)
			out.Segments = append(out.Segments, g)
			row.segments = append(row.segments, g)
			m.live[o.Key]++
		}
	}
	out.Partitions = slices.Collect(maps.Values(bounds))
	if len(out.Segments) > 0 {
		out.Objects = []metadata.Object{o}
	}
	if len(kept) > 0 {
		pack := wal(m.key("pack"))
		pack.First, pack.Last = out.First, out.Last
		out.Pack = &pack
	}
	return out, kept
}

func (m *model) trim(t *rapid.T) {
	a := drawAgent(t)
	p := rapid.IntRange(0, modelPartitions-1).Draw(t, "partition")
	row := &m.parts[p]
	start := rapid.Int64Range(0, row.end).Draw(t, "log start")
	m.must(m.w.Trim(m.w.ctx, m.agents[a], []metadata.Trim{{Partition: m.id(p), LeaderEpoch: row.leaderEpoch, LogStart: start}}, m.w.grace))
	row.logStart = max(row.logStart, start)
	row.segments = slices.DeleteFunc(row.segments, func(g metadata.Segment) bool {
		if g.End > row.logStart {
			return false
		}
		if m.live[g.Object.Key]--; m.live[g.Object.Key] == 0 {
			delete(m.live, g.Object.Key)
			m.buried[g.Object.Key] = true
		}
		return true
	})
}

// check compares the whole store with the model.
func (m *model) check(t *rapid.T) {
	m.t = t
	st, err := m.w.Read(m.w.ctx, ids(m.topic))
	m.must(err)
	var named []metadata.SessionRef
	for p, got := range st.Partitions {
		row := &m.parts[p]
		named = append(named, row.refs...)
		want := metadata.Partition{ID: m.id(p), Leader: metadata.NoAgent, LeaderEpoch: row.leaderEpoch, SealedEnd: row.sealedEnd,
			LogStart: row.logStart}
		if row.leader != (metadata.Session{}) {
			want.Leader, want.LeaderSession = row.leader.Agent, row.leader.Epoch
			want.LeaderFenced = !slices.Contains(m.agents[:], row.leader)
		}
		if got.Leader != want.Leader || got.LeaderSession != want.LeaderSession || got.LeaderEpoch != want.LeaderEpoch ||
			got.LeaderFenced != want.LeaderFenced || got.SealedEnd != want.SealedEnd || got.LogStart != want.LogStart ||
			!slices.Equal(got.Unsealed, row.refs) {
			t.Fatalf("partition %d: got %+v, want %+v with unsealed %v", p, got, want, row.refs)
		}
		m.checkSegments(t, p)
	}
	m.checkUnsealed(t, st, named)
}

func (m *model) checkSegments(t *rapid.T, p int) {
	row := &m.parts[p]
	offset := rapid.Int64Range(0, row.end+1).Draw(t, "offset")
	got, err := m.w.Find(m.w.ctx, m.id(p), offset, 100)
	m.must(err)
	at := slices.IndexFunc(row.segments, func(g metadata.Segment) bool { return g.End > offset })
	want := row.segments[len(row.segments):]
	if at >= 0 {
		want = row.segments[at:min(len(row.segments), at+100)]
	}
	if !slices.Equal(bases(got), bases(want)) {
		t.Fatalf("partition %d from %d: got segments at %v, want %v", p, offset, bases(got), bases(want))
	}
	millis := rapid.Int64Range(0, 21).Draw(t, "millis")
	found, err := m.w.FindTime(m.w.ctx, m.id(p), millis)
	at = slices.IndexFunc(row.segments, func(g metadata.Segment) bool { return g.MaxTimestamp >= millis })
	if at < 0 && !errors.Is(err, metadata.ErrNotFound) || at >= 0 && (err != nil || found.Base != row.segments[at].Base) {
		t.Fatalf("partition %d at time %d: got segment at %d, %v, want number %d of %v", p, millis, found.Base, err, at,
			bases(row.segments))
	}
}

func (m *model) checkUnsealed(t *rapid.T, st metadata.State, named []metadata.SessionRef) {
	slices.SortFunc(named, func(a, b metadata.SessionRef) int { return int(a.Agent-b.Agent)*1_000_000 + int(a.Epoch-b.Epoch) })
	var want []string
	for _, r := range slices.Compact(named) {
		for _, o := range m.objects[r] {
			want = append(want, o.key)
		}
	}
	if got := unsealedKeys(st); !slices.Equal(got, want) {
		t.Fatalf("unsealed: got %v, want %v", got, want)
	}
}

// checkGarbage reads everything that the store holds, of all histories: not after every step.
func (m *model) checkGarbage(t *rapid.T) {
	inv, err := m.w.Referenced(m.w.ctx)
	m.must(err)
	live := map[string]int{}
	for _, o := range inv.Objects {
		if o.Kind == metadata.Sealed && m.ours(o.Key) {
			live[o.Key] = o.Live
		}
	}
	if !maps.Equal(live, m.live) {
		t.Fatalf("sealed objects: got %v, want %v", live, m.live)
	}
	buried := map[string]bool{}
	for _, ts := range inv.Tombstones {
		if m.ours(ts.Key) {
			buried[ts.Key] = true
		}
	}
	if !maps.Equal(buried, m.buried) {
		t.Fatalf("tombstones: got %v, want %v", buried, m.buried)
	}
}

// ours tells whether a key is of this history.
func (m *model) ours(key string) bool { return strings.Contains(key, fmt.Sprintf("/%d/", m.topic.Num)) }
