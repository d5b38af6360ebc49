package session

import (
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"strings"
	"testing"

	"varve.dev/metadata"
	"varve.dev/tiering/flush"
)

// This is an exhaustive search: every order of events of a small world, breadth first, so that what it finds is shortest.
// One partition, two processes, each with a journal of its own; under two agent ids, or both under one. Commits, their
// replies and those of acquisitions are lost, late or twice without bound; a crash keeps any prefix of what the journal had
// not synced; sessions are fenced at any moment, so no clock is trusted. What the processes decide is decided by the code
// that the agent runs: claimant.accept, claimant.decide, flush.Numbers, flush.Replied, flush.Settled. The store does what
// its statements do.
//
// Checked in every state:
//
//	I1   what was acknowledged is in the index, or in a journal that would get the partition back
//	I2   an offset that was shown has one value, for ever
//	I3   committed ranges tile [0, end)
//	G1a  what was answered as failed is never readable
//
// VARVE_MODEL=long searches wider worlds (minutes).

const (
	maxOffsets = 10
	maxRows    = 6
	maxFrames  = 7
	maxWire    = 2
	maxEpochs  = 6
	gapLength  = 2 // what TailCap is to the real world
	nobody     = 3 // tail: givenUp
)

type (
	// modelRow is an object, and the one range that it has of the partition. n is 0 for a commit that only releases.
	modelRow struct {
		agent, epoch, number, base, n, le uint8
		gap, release                      bool
		v                                 [3]uint8
	}
	modelFrame  struct{ base, n, v, le uint8 } // v is 0 for a gap
	modelEpoch  struct{ epoch, start uint8 }
	modelWindow struct {
		number, base, n, st uint8
		gap, release        bool
	}
	modelMessage struct {
		process uint8
		row     modelRow
	}
	modelProcess struct {
		phase, epoch, le                     uint8
		lead, gapped, closing                bool
		known, sent, end, onDisk             uint8 // offsets: known committed, in closed windows, next, in the journal
		v, le1                               [maxOffsets]uint8
		gapAt                                uint8
		hasGap                               bool
		q                                    [2]modelWindow
		qn                                   uint8
		numbers                              flush.Numbers
		pending, gives                       bool
		readEnd, readTail, readEpoch, readBy uint8
		disk                                 [maxFrames]modelFrame
		frames                               uint8
	}
	modelStore struct {
		epoch, seq               [2]uint8
		live                     [2]bool
		leader, session, le, tag uint8 // leader: 0 nobody, else agent+1; tag: 0 none, 1 and 2 the journals, 3 givenUp
		epochs                   [maxEpochs]modelEpoch
		ne                       uint8
		rows                     [maxRows]modelRow
		nr                       uint8
	}
	modelState struct {
		db                                modelStore
		p                                 [2]modelProcess
		wire                              [maxWire]modelMessage
		nw                                uint8
		shown                             [maxOffsets]uint8
		acked, provisional                [maxOffsets]uint8 // values; provisional: acks=1 on `object`
		lost                              [maxOffsets]bool  // given up by an unclean election: a leader that was fenced may still acknowledge there
		failed                            [6]bool
		values, crash, fence, rel, giving uint8
		starts                            uint8
	}
	// world says what may happen, and in which way it is broken.
	world struct {
		name                           string
		local, sameName, unclean       bool
		values, crash, fence, rel, giv uint8
		starts                         uint8 // beside the first

		look, keepEpoch, staleEnd, noGap, noCap, byName, hasty, oldTag, anyEpoch bool
	}
	move struct {
		s   modelState
		act string
		bad string
	}
)

const (
	down     uint8 = iota
	started        // has a session, has not read
	starting       // has read rows and journal
	running
)

const (
	atHand uint8 = iota + 1 // stored, not sent
	onWire
	doubtful
)

func (d *modelStore) end() (end uint8) {
	for _, r := range d.rows[:d.nr] {
		end = max(end, r.base+r.n)
	}
	return end
}

func (d *modelStore) has(r modelRow) bool {
	return slices.ContainsFunc(d.rows[:d.nr], func(x modelRow) bool {
		return x.agent == r.agent && x.epoch == r.epoch && x.number == r.number
	})
}

// commit is the numbered statement.
func (d *modelStore) commit(r modelRow) error {
	switch {
	case d.epoch[r.agent] != r.epoch || !d.live[r.agent]:
		return metadata.ErrFenced
	case d.seq[r.agent] != r.number-1:
		return metadata.ErrConflict
	}
	d.seq[r.agent] = r.number
	if r.n > 0 {
		d.rows[d.nr] = r
		d.nr++
		slices.SortFunc(d.rows[:d.nr], func(a, b modelRow) int { return int(a.base) - int(b.base) })
	}
	if r.release && d.leader == r.agent+1 && d.session == r.epoch {
		d.leader, d.session, d.tag = 0, 0, 0
	}
	return nil
}

func tagID(tag uint8) metadata.UUID {
	switch tag {
	case 0:
		return metadata.UUID{}
	case nobody:
		return givenUp
	}
	return metadata.UUID{tag}
}

func tagOf(id metadata.UUID) uint8 {
	if id == givenUp {
		return nobody
	}
	return id[0]
}

// row is the partition's row as Read answers it.
func (d *modelStore) row() *metadata.Partition {
	p := &metadata.Partition{Leader: int32(d.leader) - 1, LeaderSession: int32(d.session), LeaderEpoch: int32(d.le), TailJournal: tagID(d.tag), TailCap: gapLength}
	if d.leader == 0 {
		p.Leader = metadata.NoAgent
	} else {
		p.LeaderFenced = d.epoch[d.leader-1] != d.session
	}
	for _, e := range d.epochs[:d.ne] {
		p.Epochs = append(p.Epochs, metadata.EpochStart{Epoch: int32(e.epoch), Start: int64(e.start)})
	}
	return p
}

func (w *world) agent(p uint8) uint8 {
	if w.sameName {
		return 0
	}
	return p
}

func (w *world) claimant(s *modelState, p uint8) claimant {
	c := claimant{metadata.SessionRef{Agent: int32(w.agent(p)), Epoch: int32(s.p[p].epoch)}, tagID(p + 1)}
	if w.byName {
		c.journal = tagID(1)
	}
	return c
}

// recovered is what claimant.accept takes of a disk behind an end.
func (w *world) recovered(s *modelState, p uint8, row *metadata.Partition, end uint8) (frames []modelFrame) {
	c := w.claimant(s, p)
	for _, f := range s.p[p].disk[:s.p[p].frames] {
		epoch := int32(f.le)
		if w.anyEpoch {
			epoch = epochAtAny(row, int64(f.base))
		}
		if c.accept(row, int64(end), int64(f.base), int64(f.base+f.n), epoch) == tail {
			frames = append(frames, f)
			end = f.base + f.n
		}
	}
	return frames
}

// epochAtAny makes every frame of the right epoch: the broken rule that looks at offsets alone.
func epochAtAny(row *metadata.Partition, base int64) int32 {
	epoch := int32(-1)
	for _, e := range row.Epochs {
		if e.Start <= base {
			epoch = e.Epoch
		}
	}
	return epoch
}

func (s *modelState) show(off, v uint8) string {
	if v == 0 {
		return ""
	}
	if s.shown[off] != 0 && s.shown[off] != v {
		return fmt.Sprintf("I2: offset %d was shown as v%d and now is v%d", off, s.shown[off], v)
	}
	s.shown[off] = v
	return ""
}

func (s *modelState) showRow(r modelRow) (bad string) {
	for i := range r.n {
		if r.gap || bad != "" {
			break
		}
		bad = s.show(r.base+i, r.v[i])
		if s.failed[r.v[i]] {
			bad = fmt.Sprintf("G1a: v%d was answered as failed and is readable at %d", r.v[i], r.base+i)
		}
	}
	return bad
}

func (w *world) check(s *modelState) string {
	d := &s.db
	var end uint8
	for _, r := range d.rows[:d.nr] {
		if r.base != end {
			return fmt.Sprintf("I3: a range starts at %d, the one before ends at %d", r.base, end)
		}
		end = r.base + r.n
	}
	var row *metadata.Partition
	for off := range uint8(maxOffsets) {
		v := max(s.acked[off], s.provisional[off])
		if v == 0 {
			continue
		}
		if off < end {
			if !slices.ContainsFunc(d.rows[:d.nr], func(r modelRow) bool { return !r.gap && off >= r.base && off < r.base+r.n && r.v[off-r.base] == v }) {
				return fmt.Sprintf("I1: acknowledged v%d is not at offset %d", v, off)
			}
			continue
		}
		if row == nil {
			row = d.row()
		}
		kept := false
		for p := range uint8(2) {
			kept = kept || slices.ContainsFunc(w.recovered(s, p, row, end), func(f modelFrame) bool { return f.base == off && f.v == v })
		}
		if !kept {
			return fmt.Sprintf("I1: acknowledged v%d at offset %d is lost", v, off)
		}
	}
	return ""
}

// die forgets what was in memory. The journal stays.
func (g *modelProcess) die() { *g = modelProcess{epoch: g.epoch, disk: g.disk, frames: g.frames} }

func (g *modelProcess) record(a uint8) modelRow {
	q := g.q[0]
	r := modelRow{agent: a, epoch: g.epoch, number: q.number, base: q.base, n: q.n, le: g.le, gap: q.gap, release: q.release}
	for i := range q.n {
		if !q.gap {
			r.v[i] = g.v[q.base+i]
		}
	}
	return r
}

// finish: the first window is known to be committed.
func (s *modelState) finish(p uint8, local bool) (bad string) {
	g := &s.p[p]
	q := g.q[0]
	g.numbers.Advance(int64(q.number))
	g.q[0], g.q[1] = g.q[1], modelWindow{}
	g.qn--
	if q.release {
		keep := *g
		g.die()
		g.phase, g.numbers = running, keep.numbers
		return ""
	}
	for i := range q.n {
		if q.gap {
			continue
		}
		if b := s.show(q.base+i, g.v[q.base+i]); b != "" {
			bad = b
		}
		s.acked[q.base+i] = g.v[q.base+i]
	}
	g.known = q.base + q.n
	return bad
}

// open makes the partition behind end, with a recovered tail or a gap.
func (w *world) open(s *modelState, p uint8, row *metadata.Partition, a metadata.Acquisition, end uint8, frames []modelFrame) {
	g := &s.p[p]
	g.phase, g.pending, g.gives = running, false, false
	g.le = uint8(a.Epochs[len(a.Epochs)-1].Epoch)
	g.known, g.sent, g.end, g.onDisk = end, end, end, end
	g.v, g.le1 = [maxOffsets]uint8{}, [maxOffsets]uint8{}
	g.lead, g.gapped, g.hasGap, g.closing = true, false, false, false
	if a.Unclean {
		if !w.noGap {
			g.gapAt, g.hasGap = end, true
			g.end += gapLength
		}
		g.lead, g.gapped = w.hasty, !w.hasty
		return
	}
	for _, f := range frames {
		if f.v == 0 {
			g.gapAt, g.hasGap = f.base, true
		} else {
			g.v[f.base], g.le1[f.base] = f.v, f.le
		}
		g.end = f.base + f.n
	}
}

// settle is what the process does with what it has learnt of its commit.
func (w *world) settle(s *modelState, p uint8, next flush.Next) string {
	g := &s.p[p]
	switch next {
	case flush.Done:
		return s.finish(p, w.local)
	case flush.Over:
		g.die()
	case flush.Ask:
		g.q[0].st = doubtful
	case flush.Again:
		g.q[0].st = atHand
	}
	return ""
}

func (w *world) moves(s modelState) (out []move) {
	emit := func(t modelState, bad, f string, a ...any) {
		if bad == "" {
			bad = w.check(&t)
		}
		out = append(out, move{t, fmt.Sprintf(f, a...), bad})
	}
	for i := range s.nw {
		w.deliver(s, i, emit)
	}
	for p := range uint8(2) {
		switch s.p[p].phase {
		case down:
			w.start(s, p, emit)
			continue
		case started:
			w.read(s, p, emit)
		case starting:
			w.acquire(s, p, emit)
		case running:
			w.run(s, p, emit)
		}
		w.crashes(s, p, emit)
	}
	for a := range uint8(2) {
		if s.fence < w.fence && s.db.live[a] {
			t := s
			t.fence++
			t.db.epoch[a]++
			t.db.live[a] = false
			emit(t, "", "agent %d is fenced (epoch %d)", a, t.db.epoch[a])
		}
	}
	return out
}

type emitter func(t modelState, bad, f string, a ...any)

// deliver executes a commit that was on its way; the reply comes, or it is lost.
func (w *world) deliver(s modelState, i uint8, emit emitter) {
	m := s.wire[i]
	for _, replied := range []bool{false, true} {
		t := s
		copy(t.wire[i:], t.wire[i+1:t.nw])
		t.nw--
		t.wire[t.nw] = modelMessage{}
		if t.db.nr == maxRows {
			continue
		}
		err := t.db.commit(m.row)
		bad := ""
		if err == nil {
			bad = t.showRow(m.row)
		}
		g := &t.p[m.process]
		waits := g.phase == running && g.epoch == m.row.epoch && g.qn > 0 && g.q[0].st == onWire && g.q[0].number == m.row.number
		if replied && !waits {
			continue
		}
		if replied {
			if b := w.settle(&t, m.process, flush.Replied(err)); bad == "" {
				bad = b
			}
		}
		emit(t, bad, "the store executes commit %d of P%d epoch %d [%d, %d) gap %v release %v: %v, reply %v", m.row.number, m.process, m.row.epoch,
			m.row.base, m.row.base+m.row.n, m.row.gap, m.row.release, err, replied)
	}
}

func (w *world) start(s modelState, p uint8, emit emitter) {
	t := s
	a := w.agent(p)
	if t.starts == w.starts {
		return
	}
	t.starts++
	g := &t.p[p]
	if w.keepEpoch && g.epoch == t.db.epoch[a] && t.db.live[a] {
		for g.numbers = (flush.Numbers{}); g.numbers.Known() < int64(t.db.seq[a]); {
			g.numbers.Advance(g.numbers.Take())
		}
	} else {
		t.db.epoch[a]++
		t.db.seq[a], t.db.live[a] = 0, true
	}
	g.epoch, g.phase = t.db.epoch[a], started
	emit(t, "", "P%d starts as agent %d epoch %d", p, a, g.epoch)
}

// read takes a snapshot; at the start it reads the journal too.
func (w *world) read(s modelState, p uint8, emit emitter) {
	row := s.db.row()
	end := s.db.end()
	if w.staleEnd {
		row.LeaderFenced = true
	}
	for _, give := range []bool{false, true} {
		if give && s.giving == w.giv {
			continue
		}
		t := s
		g := &t.p[p]
		what := w.seen(&t, p, row, end, give)
		a, v := w.claimant(&t, p).decide(what)
		if give {
			if _, before := w.claimant(&t, p).decide(w.seen(&t, p, row, end, false)); before != await {
				continue // there is nothing to give up
			}
			t.giving++
		}
		switch v {
		case leave, await:
			if g.phase == running {
				continue
			}
			g.phase = running
			emit(t, "", "P%d reads: it may not lead (%d)", p, v)
		case resume:
			frames := w.recovered(&t, p, row, end)
			if g.phase == running {
				frames = nil
			}
			w.open(&t, p, row, a, end, frames)
			emit(t, "", "P%d finds that it leads already, from %d", p, end)
		case take:
			g.pending, g.gives, g.readEnd, g.readEpoch = true, give, end, t.db.le
			g.readTail = uint8(what.tail)
			g.readBy = t.p[p].phase
			if g.phase == started {
				g.phase = starting
			}
			emit(t, "", "P%d reads: end %d, tail %d, gives up %v", p, end, g.readTail, give)
		}
	}
}

func (w *world) seen(s *modelState, p uint8, row *metadata.Partition, end uint8, give bool) seen {
	what := seen{row: row, end: int64(end), tail: int64(end), local: w.local, unclean: give || w.unclean}
	if s.p[p].phase != running {
		for _, f := range w.recovered(s, p, row, end) {
			what.tail = int64(f.base + f.n)
		}
	}
	return what
}

// acquire is the statement on the partition's row, guarded by the leader epoch that was read.
func (w *world) acquire(s modelState, p uint8, emit emitter) {
	d := &s.db
	a := w.agent(p)
	g := s.p[p]
	if d.epoch[a] != g.epoch || !d.live[a] {
		t := s
		t.p[p].die()
		emit(t, "", "P%d cannot acquire: it is fenced", p)
		return
	}
	row := d.row()
	gone := d.leader == 0 || d.epoch[d.leader-1] != d.session
	if d.le != g.readEpoch || !gone {
		t := s
		t.p[p].phase, t.p[p].pending, t.p[p].gives = running, false, false
		emit(t, "", "P%d does not get the partition", p)
		return
	}
	row.LeaderFenced = true
	what := seen{row: row, end: int64(g.readEnd), tail: int64(g.readTail), local: w.local, unclean: g.gives || w.unclean}
	c := w.claimant(&s, p)
	acq, v := c.decide(what)
	if v != take || !acq.Unclean && !c.mayHold(row) || d.ne == maxEpochs || int(g.readTail)+gapLength > maxOffsets {
		return
	}
	if acq.Unclean && w.hasty {
		acq.Journal = c.journal
	}
	if acq.Unclean && w.oldTag {
		acq.Journal = row.TailJournal
	}
	frames := w.recovered(&s, p, row, g.readEnd)
	if g.readBy == running {
		frames = nil
	}
	for _, replied := range []bool{true, false} {
		t := s
		t.db.leader, t.db.session, t.db.tag = a+1, g.epoch, tagOf(acq.Journal)
		t.db.le++
		t.db.ne, t.db.epochs = 0, [maxEpochs]modelEpoch{}
		for _, e := range acq.Epochs {
			t.db.epochs[t.db.ne] = modelEpoch{uint8(e.Epoch), uint8(e.Start)}
			t.db.ne++
		}
		if acq.Unclean { // what the election gives up
			for off := g.readEnd; off < min(g.readEnd+gapLength, maxOffsets); off++ {
				t.acked[off], t.lost[off] = 0, true
			}
		}
		for off := range t.provisional { // acks=1: until another journal's agent has taken the partition
			if t.provisional[off] != 0 && off >= int(g.readTail) {
				t.provisional[off] = 0
			}
		}
		if replied {
			w.open(&t, p, row, acq, g.readEnd, frames)
		} else {
			if t.p[p].phase == starting { // a start that fails ends the process
				t.p[p].die()
			}
			t.p[p].pending, t.p[p].gives = false, false
		}
		emit(t, "", "P%d acquires at %d, tail %d, leader epoch %d, unclean %v, journal %d, reply %v", p, g.readEnd, g.readTail, t.db.le, acq.Unclean, t.db.tag, replied)
	}
}

// run is the life of a process that serves.
func (w *world) run(s modelState, p uint8, emit emitter) {
	g := s.p[p]
	a := w.agent(p)
	switch {
	case g.pending:
		w.acquire(s, p, emit)
		return
	case !g.lead && !g.gapped && g.qn == 0:
		if s.db.epoch[a] == g.epoch && s.db.live[a] {
			w.read(s, p, emit)
		}
	}
	if g.lead && !g.closing && s.values < w.values && g.end < maxOffsets && (w.noCap || g.end-g.known < gapLength) {
		t := s
		h := &t.p[p]
		t.values++
		h.v[h.end], h.le1[h.end] = t.values, h.le
		h.end++
		emit(t, "", "P%d appends v%d at %d", p, t.values, h.end-1)
	}
	if g.lead && g.end > max(g.onDisk, g.known) {
		w.sync(s, p, emit)
	}
	if (g.lead || g.gapped) && g.end > g.sent && g.qn < 2 {
		t := s
		h := &t.p[p]
		n := min(h.end-h.sent, 3)
		gap := h.hasGap && h.sent == h.gapAt
		if gap {
			n = gapLength
		} else if h.hasGap && h.sent < h.gapAt {
			n = min(n, h.gapAt-h.sent)
		}
		h.q[h.qn] = modelWindow{number: uint8(h.numbers.Take()), base: h.sent, n: n, st: atHand, gap: gap}
		h.qn++
		h.sent += n
		emit(t, "", "P%d closes and stores [%d, %d)", p, g.sent, h.sent)
	}
	if g.lead && !g.closing && s.rel < w.rel && g.sent == g.end && g.qn == 0 && g.numbers.Idle() {
		t := s
		h := &t.p[p]
		t.rel++
		h.closing = true
		h.q[0], h.qn = modelWindow{number: uint8(h.numbers.Take()), st: atHand, release: true}, 1
		emit(t, "", "P%d releases", p)
	}
	if g.qn > 0 {
		w.committing(s, p, emit)
	}
	if g.gapped && g.known >= g.gapAt+gapLength || g.gapped && w.noGap {
		if s.db.epoch[a] != g.epoch || !s.db.live[a] {
			return
		}
		for _, replied := range []bool{true, false} {
			t := s
			t.db.tag = 0
			if w.local {
				t.db.tag = tagOf(w.claimant(&t, p).journal)
			}
			if replied {
				t.p[p].lead, t.p[p].gapped = true, false
			}
			emit(t, "", "P%d's gap is committed: it names its journal, reply %v", p, replied)
		}
	}
}

// sync writes what the journal lacks of all that is not committed, and syncs it.
func (w *world) sync(s modelState, p uint8, emit emitter) {
	t := s
	h := &t.p[p]
	if !h.write(h.end) {
		return
	}
	bad := ""
	for off := h.known; off < h.end; off++ {
		switch v := h.v[off]; {
		case v == 0:
		case w.local:
			if b := t.show(off, v); b != "" {
				bad = b
			}
			if !t.lost[off] {
				t.acked[off] = v
			}
		case t.db.leader == w.agent(p)+1 && t.db.session == h.epoch: // else it is lost already, as acks=1 may be
			t.provisional[off] = v
		}
	}
	emit(t, bad, "P%d syncs its journal up to %d", p, h.end)
}

// write puts frames up to end on the disk; what is known committed gives room.
func (g *modelProcess) write(end uint8) bool {
	for off := max(g.onDisk, g.known); off < end; {
		if g.frames == maxFrames {
			if g.disk[0].base+g.disk[0].n > g.known {
				return false
			}
			copy(g.disk[:], g.disk[1:])
			g.frames--
		}
		f := modelFrame{off, 1, g.v[off], g.le1[off]}
		if g.hasGap && off == g.gapAt {
			f = modelFrame{off, gapLength, 0, g.le}
		}
		g.disk[g.frames] = f
		g.frames++
		off += f.n
		g.onDisk = off
	}
	return true
}

func (w *world) committing(s modelState, p uint8, emit emitter) {
	g := s.p[p]
	a := w.agent(p)
	switch g.q[0].st {
	case atHand:
		if s.nw == maxWire {
			return
		}
		t := s
		h := &t.p[p]
		m := modelMessage{p, h.record(a)}
		if !slices.Contains(t.wire[:t.nw], m) {
			t.wire[t.nw] = m
			t.nw++
		}
		h.q[0].st = onWire
		emit(t, "", "P%d sends commit %d", p, h.q[0].number)
	case onWire:
		t := s
		bad := w.settle(&t, p, flush.Replied(metadata.ErrUnknown))
		emit(t, bad, "P%d: the reply to commit %d is lost", p, g.q[0].number)
	case doubtful:
		t := s
		h := &t.p[p]
		if w.look {
			if t.db.has(h.record(a)) {
				bad := t.finish(p, w.local)
				emit(t, bad, "P%d looks the object up: it is there", p)
				return
			}
			for off := h.q[0].base; off < h.end; off++ {
				t.failed[h.v[off]] = t.failed[h.v[off]] || !w.local
			}
			h.die()
			emit(t, "", "P%d looks the object up: it is not there, its records are answered as failed", p)
			return
		}
		c := metadata.Commit{From: int64(g.q[0].number) - 1}
		last, err := int64(t.db.seq[a]), error(nil)
		switch {
		case t.db.epoch[a] != g.epoch || !t.db.live[a]:
			last, err = 0, metadata.ErrFenced
		case last < c.From || last > c.To():
			last, err = 0, metadata.ErrConflict
		}
		next, _ := flush.Settled(c, last, err)
		bad := w.settle(&t, p, next)
		emit(t, bad, "P%d settles commit %d: %d", p, g.q[0].number, next)
	}
}

// crashes: the journal keeps what was synced and any prefix of what was written since.
func (w *world) crashes(s modelState, p uint8, emit emitter) {
	if s.crash == w.crash {
		return
	}
	g := s.p[p]
	for end := max(g.onDisk, g.known); end <= g.end; end++ {
		t := s
		h := &t.p[p]
		if g.hasGap && end > g.gapAt && end < g.gapAt+gapLength || !h.write(end) {
			continue
		}
		t.crash++
		h.die()
		emit(t, "", "P%d crashes, its journal ends at %d", p, end)
		if !g.lead && !g.gapped {
			break
		}
	}
}

// first is a partition that P0 leads, and P1 that has never run.
func (w *world) first() (s modelState) {
	s.db.epoch[0], s.db.live[0], s.db.leader, s.db.session, s.db.le = 1, true, 1, 1, 1
	s.db.epochs[0], s.db.ne = modelEpoch{1, 0}, 1
	if w.local {
		s.db.tag = 1
	}
	s.p[0] = modelProcess{phase: running, epoch: 1, le: 1, lead: true}
	return s
}

type modelHash [2]uint64

// search looks at every state, up to limit, and answers the path to the first that breaks a rule.
func (w *world) search(limit int) (states int, whole bool, path []string) {
	seeds := [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	hash := func(s *modelState) modelHash {
		return modelHash{maphash.Comparable(seeds[0], *s), maphash.Comparable(seeds[1], *s)}
	}
	type origin struct{ parent, act int32 }
	first := w.first()
	known := map[modelHash]struct{}{hash(&first): {}}
	origins := []origin{{-1, 0}}
	level, base := []modelState{first}, 0
	for len(level) > 0 {
		var next []modelState
		for k := range level {
			for i, m := range w.moves(level[k]) {
				if m.bad != "" {
					return len(origins), false, w.replay(first, func() (acts []int) {
						acts = []int{i}
						for o := origins[base+k]; o.parent >= 0; o = origins[o.parent] {
							acts = append(acts, int(o.act))
						}
						slices.Reverse(acts)
						return acts
					}())
				}
				h := hash(&m.s)
				if _, ok := known[h]; ok {
					continue
				}
				known[h] = struct{}{}
				origins = append(origins, origin{int32(base + k), int32(i)})
				next = append(next, m.s)
			}
		}
		base += len(level)
		level = next
		if len(origins) > limit {
			return len(origins), false, nil
		}
	}
	return len(origins), true, nil
}

func (w *world) replay(s modelState, acts []int) (path []string) {
	for _, i := range acts {
		m := w.moves(s)[i]
		line := m.act
		if m.bad != "" {
			line += "   <-- " + m.bad
		}
		path = append(path, line)
		s = m.s
	}
	return path
}

// objectWorld and localWorld are what the small searches have in common.
var (
	objectWorld = world{values: 2, starts: 2}
	localWorld  = world{local: true, values: 2, starts: 2}
)

func (w world) with(name string, change func(*world)) world {
	change(&w)
	w.name = name
	return w
}

func TestEveryOrderOfEvents(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine searches: nothing for the race detector, and seconds of it")
	}
	object, local := objectWorld, localWorld
	worlds := []world{
		object.with("object, two agents, a fence and a release", func(w *world) { w.fence, w.rel = 1, 1 }),
		object.with("object, two agents, a fence and a crash", func(w *world) { w.fence, w.crash = 1, 1 }),
		object.with("object, one name, a crash", func(w *world) { w.sameName, w.crash = true, 1 }),
		local.with("local, two agents, a fence and a crash", func(w *world) { w.fence, w.crash = 1, 1 }),
		local.with("local, one name, a crash", func(w *world) { w.sameName, w.crash = true, 1 }),
		local.with("local, given up, two agents", func(w *world) { w.giv, w.fence = 1, 1 }),
		local.with("local, given up, one name, a crash", func(w *world) { w.sameName, w.giv, w.crash = true, 1, 1 }),
	}
	limit := 3_000_000
	if os.Getenv("VARVE_MODEL") == "long" {
		limit = 6_000_000
		for _, w := range slices.Clone(worlds) {
			worlds = append(worlds, w.with(w.name+", wider", func(w *world) { w.values, w.crash, w.starts = 3, w.crash+1, 3; w.fence *= 2; w.giv *= 2 }))
		}
	}
	for _, w := range worlds {
		t.Run(w.name, func(t *testing.T) {
			states, whole, path := w.search(limit)
			if path != nil {
				t.Fatalf("after %d states:\n  %s", states, strings.Join(path, "\n  "))
			}
			t.Logf("%d states, all of them: %v", states, whole)
		})
	}
}

// TestBrokenRulesAreFound takes one rule away at a time: a search that finds nothing then would prove nothing.
func TestBrokenRulesAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine searches: nothing for the race detector, and seconds of it")
	}
	object, local := objectWorld, localWorld
	for _, c := range []struct {
		want string
		world
	}{
		{"G1a", object.with("a look-up settles a lost reply", func(w *world) { w.look, w.sameName, w.crash = true, true, 1 })},
		{"I", object.with("the epoch is kept at a restart", func(w *world) { w.keepEpoch, w.sameName, w.crash = true, true, 1 })},
		{"I", object.with("the end is read before the fence", func(w *world) { w.staleEnd, w.fence = true, 1 })},
		{"I2", local.with("no gap behind a tail that was given up", func(w *world) { w.noGap, w.giv, w.fence = true, 1, 1 })},
		{"I", local.with("no cap on the tail", func(w *world) { w.noCap, w.giv, w.fence, w.values = true, 1, 1, 4 })},
		{"I1", local.with("a tail belongs to a name", func(w *world) { w.byName, w.sameName = true, true })},
		{"I", local.with("the partition is opened before its gap is committed", func(w *world) { w.hasty, w.giv, w.fence, w.crash = true, 1, 1, 1 })},
		{"I2", local.with("the journal that was given up stays named", func(w *world) { w.oldTag, w.sameName, w.giv = true, true, 1 })},
		{"I", object.with("a frame counts whatever its epoch", func(w *world) { w.anyEpoch, w.sameName, w.crash = true, true, 1 })},
	} {
		t.Run(c.name, func(t *testing.T) {
			states, _, path := c.search(2_000_000)
			if path == nil {
				t.Fatalf("%d states, and nothing was found", states)
			}
			if last := path[len(path)-1]; !strings.Contains(last, "<-- "+c.want) {
				t.Errorf("found %q, want %s", last, c.want)
			}
			t.Logf("%d states:\n  %s", states, strings.Join(path, "\n  "))
		})
	}
}
