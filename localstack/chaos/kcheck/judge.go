package kcheck

import (
	"cmp"
	"maps"
	"slices"
)

// told says whether a producer holds us to an offset.
func (c *check) told(s *Send) bool {
	return s.Outcome == OK && s.Acks != 0 && !(s.Provisional && c.h.TakenOver)
}

// values: an offset has one value, for every reader and every producer that was told of it.
func (c *check) values() {
	for i := range c.h.Reads {
		r := &c.h.Reads[i]
		if first := c.held[place{r.Log, r.Offset}]; first.ID != r.ID {
			c.add(TwoValues, "%s at %d: reader %d got %s, reader %d %s", r.Log, r.Offset, first.Reader, c.name(first.ID), r.Reader, c.name(r.ID))
		}
	}
	told := map[place]uint64{}
	for i := range c.h.Sends {
		s := &c.h.Sends[i]
		if !c.told(s) {
			continue
		}
		at := place{s.Log, s.Offset}
		if r := c.held[at]; r != nil && r.ID != s.ID {
			c.add(TwoValues, "%s at %d: acknowledged for %s, read as %s", s.Log, s.Offset, c.name(s.ID), c.name(r.ID))
		}
		if other, ok := told[at]; ok {
			c.add(TwoValues, "%s at %d: acknowledged for %s and for %s", s.Log, s.Offset, c.name(other), c.name(s.ID))
		}
		told[at] = s.ID
	}
}

// once: a record is at one offset.
func (c *check) once() {
	for i := range c.h.Sends {
		s := &c.h.Sends[i]
		if at := c.where[s.ID]; s.Once && len(at) > 1 {
			c.add(Duplicate, "%s: %s is at %d and at %d", s.Log, c.name(s.ID), at[0].offset, at[1].offset)
		}
	}
}

// acked: every scan that began after an acknowledgement finds the record at its offset.
func (c *check) acked() {
	got := c.scanned()
	lost := map[uint64]bool{}
	for i := range c.h.Scans {
		scan := &c.h.Scans[i]
		for _, s := range c.of[scan.Log] {
			if !c.told(s) || s.Ended >= scan.Begun || s.Offset < scan.Start || lost[s.ID] || got[scan.Reader][s.Offset] == s.ID {
				continue
			}
			lost[s.ID] = true
			c.add(Lost, "%s: %s was acknowledged at %d; a scan of [%d, %d) at %d found record %x there", s.Log, c.name(s.ID), s.Offset,
				scan.Start, scan.End, scan.Begun, got[scan.Reader][s.Offset])
		}
	}
}

// scanned is what each scan's reader found, by offset.
func (c *check) scanned() map[int]map[int64]uint64 {
	got := map[int]map[int64]uint64{}
	for i := range c.h.Scans {
		got[c.h.Scans[i].Reader] = map[int64]uint64{}
	}
	for i := range c.h.Reads {
		if m := got[c.h.Reads[i].Reader]; m != nil {
			m[c.h.Reads[i].Offset] = c.h.Reads[i].ID
		}
	}
	return got
}

// order: what one producer sent in order lies in order.
func (c *check) order() {
	type stream struct {
		Log
		producer int
	}
	last := map[stream]*Send{}
	for _, at := range c.places() {
		s := c.sends[c.held[at].ID]
		if s == nil || !s.Ordered || s.Log != at.Log {
			continue
		}
		key := stream{at.Log, s.Producer}
		if before := last[key]; before != nil && before.Begun > s.Begun {
			c.add(Order, "%s: %s lies at %d, behind %s", at.Log, c.name(s.ID), at.offset, c.name(before.ID))
		}
		last[key] = s
	}
}

// places are all offsets that were read, in order.
func (c *check) places() []place {
	return slices.SortedFunc(maps.Keys(c.held), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.offset, b.offset))
	})
}

// realtime: a record that was sent after another was acknowledged lies behind it.
func (c *check) realtime() {
	for _, sends := range c.of {
		var told []*Send
		for _, s := range sends {
			if c.told(s) {
				told = append(told, s)
			}
		}
		byEnd := slices.SortedFunc(slices.Values(told), func(a, b *Send) int { return cmp.Compare(a.Ended, b.Ended) })
		slices.SortFunc(told, func(a, b *Send) int { return cmp.Compare(a.Begun, b.Begun) })
		var top *Send
		for _, s := range told {
			for ; len(byEnd) > 0 && byEnd[0].Ended < s.Begun; byEnd = byEnd[1:] {
				if top == nil || byEnd[0].Offset > top.Offset {
					top = byEnd[0]
				}
			}
			if top != nil && s.Offset <= top.Offset {
				c.add(Realtime, "%s: %s was acknowledged at %d, before that %s at %d", s.Log, c.name(s.ID), s.Offset, c.name(top.ID), top.Offset)
			}
		}
	}
}

// readers: each is led forward, past nothing.
func (c *check) readers() {
	type stream struct {
		reader int
		Log
	}
	last := map[stream]int64{}
	for i := range c.h.Reads {
		r := &c.h.Reads[i]
		key := stream{r.Reader, r.Log}
		if before, ok := last[key]; ok {
			if r.Offset <= before {
				c.add(Nonmonotonic, "%s: reader %d got %d after %d", r.Log, r.Reader, r.Offset, before)
			}
			if at, skipped := c.missing(r.Log, before+1, r.Offset); skipped && !c.h.Retained[r.Topic] {
				c.add(Skip, "%s: reader %d got %d after %d, past %d", r.Log, r.Reader, r.Offset, before, at)
			}
		}
		last[key] = r.Offset
	}
}

// missing is the first offset of [from, to) that is neither deleted nor in a gap.
func (c *check) missing(l Log, from, to int64) (at int64, ok bool) {
	at = max(from, c.gone[l])
	for i := 0; i < len(c.h.Gaps); i++ {
		if g := &c.h.Gaps[i]; g.Log == l && g.From <= at && at < g.To {
			at, i = g.To, -1
		}
	}
	return at, at < to
}

// scans: every offset between log start and end holds a record.
func (c *check) scans() {
	got := c.scanned()
	for i := range c.h.Scans {
		scan := &c.h.Scans[i]
		found := slices.Sorted(maps.Keys(got[scan.Reader]))
		next := scan.Start
		for _, offset := range append(found, scan.End) {
			if offset < next || offset > scan.End {
				continue
			}
			if at, hole := c.hole(scan, next, offset); hole {
				c.add(Hole, "%s: a scan of [%d, %d) at %d found nothing at %d, the next record is at %d", scan.Log, scan.Start, scan.End, scan.Begun, at, offset)
			}
			next = offset + 1
		}
	}
}

// hole is missing, but for a scan, which knows its own log start.
func (c *check) hole(scan *Scan, from, to int64) (at int64, ok bool) {
	at = from
	for i := 0; i < len(c.h.Gaps); i++ {
		if g := &c.h.Gaps[i]; g.Log == scan.Log && g.From <= at && at < g.To {
			at, i = g.To, -1
		}
	}
	return at, at < to
}

// epochs: leader epochs grow with offsets, and an offset keeps its own.
func (c *check) epochs() {
	for i := range c.h.Reads {
		r := &c.h.Reads[i]
		if first := c.held[place{r.Log, r.Offset}]; first.Epoch != r.Epoch {
			c.add(EpochBack, "%s at %d: reader %d got leader epoch %d, reader %d got %d", r.Log, r.Offset, first.Reader, first.Epoch, r.Reader, r.Epoch)
		}
	}
	var before *Read
	for _, at := range c.places() {
		r := c.held[at]
		if before != nil && before.Log == r.Log && r.Epoch < before.Epoch {
			c.add(EpochBack, "%s: leader epoch %d at %d, %d at %d", r.Log, before.Epoch, before.Offset, r.Epoch, r.Offset)
		}
		before = r
	}
}

// fact is a least value of a log's bounds, known from a moment on.
type fact struct {
	at         int64
	start, end int64
	why        string
}

// bounds: log start and high watermark never go back, and lie behind what was deleted, acknowledged and read.
func (c *check) bounds() {
	facts, looks := c.facts(), map[Log][]*Bounds{}
	for i := range c.h.Bounds {
		b := &c.h.Bounds[i]
		looks[b.Log] = append(looks[b.Log], b)
	}
	for log, bs := range looks {
		fs := facts[log]
		slices.SortFunc(fs, func(a, b fact) int { return cmp.Compare(a.at, b.at) })
		slices.SortFunc(bs, func(a, b *Bounds) int { return cmp.Compare(a.Begun, b.Begun) })
		var start, end fact
		for _, b := range bs {
			for ; len(fs) > 0 && fs[0].at < b.Begun; fs = fs[1:] {
				if fs[0].start > start.start {
					start = fs[0]
				}
				if fs[0].end > end.end {
					end = fs[0]
				}
			}
			if b.Start < start.start {
				c.add(StartBack, "%s: log start %d at %d, but %s", log, b.Start, b.Begun, start.why)
			}
			if b.End < end.end {
				c.add(EndBack, "%s: high watermark %d at %d, but %s", log, b.End, b.Begun, end.why)
			}
		}
	}
}

func (c *check) facts() map[Log][]fact {
	facts := map[Log][]fact{}
	for i := range c.h.Bounds {
		b := &c.h.Bounds[i]
		facts[b.Log] = append(facts[b.Log], fact{b.Ended, b.Start, b.End, "an earlier look said more"})
	}
	for i := range c.h.Sends {
		if s := &c.h.Sends[i]; c.told(s) && !s.Provisional {
			facts[s.Log] = append(facts[s.Log], fact{at: s.Ended, end: s.Offset + 1, why: "a record beyond it was acknowledged"})
		}
	}
	for i := range c.h.Reads {
		r := &c.h.Reads[i]
		facts[r.Log] = append(facts[r.Log], fact{at: r.At, end: r.Offset + 1, why: "a record beyond it was read"})
	}
	for i := range c.h.Trims {
		if t := &c.h.Trims[i]; t.Outcome == OK {
			facts[t.Log] = append(facts[t.Log], fact{at: t.Ended, start: t.Before, why: "records beyond it were deleted"})
		}
	}
	return facts
}

// trims: what was deleted is gone, and nothing else is.
func (c *check) trims() {
	for i := range c.h.Bounds {
		b := &c.h.Bounds[i]
		if most := c.asked(b); b.Start > most && !c.h.Retained[b.Topic] {
			c.add(Trimmed, "%s: log start %d at %d, nobody asked for more than %d", b.Log, b.Start, b.Ended, most)
		}
	}
	begun := map[int]*Scan{}
	for i := range c.h.Scans {
		begun[c.h.Scans[i].Reader] = &c.h.Scans[i]
	}
	for i := range c.h.Reads {
		r := &c.h.Reads[i]
		scan := begun[r.Reader]
		if scan == nil || scan.Log != r.Log {
			continue
		}
		for k := range c.h.Trims {
			if t := &c.h.Trims[k]; t.Log == r.Log && t.Outcome == OK && t.Ended < scan.Begun && r.Offset < t.Before {
				c.add(Untrimmed, "%s: a scan at %d found offset %d, everything before %d was deleted at %d", r.Log, scan.Begun, r.Offset, t.Before, t.Ended)
				break
			}
		}
	}
}

// asked is the furthest that a log start may be.
func (c *check) asked(b *Bounds) (most int64) {
	for i := range c.h.Trims {
		if t := &c.h.Trims[i]; t.Log == b.Log && t.Outcome != Failed && t.Begun < b.Ended {
			most = max(most, t.Before)
		}
	}
	return most
}

// groups: a group's offset is at least the last that was acknowledged, and one that somebody committed.
func (c *check) groups() {
	type key struct {
		group string
		Log
	}
	commits := map[key][]*Commit{}
	for i := range c.h.Commits {
		m := &c.h.Commits[i]
		commits[key{m.Group, m.Log}] = append(commits[key{m.Group, m.Log}], m)
	}
	for i := range c.h.Fetched {
		f := &c.h.Fetched[i]
		least, known := int64(-1), f.Offset == -1
		for _, m := range commits[key{f.Group, f.Log}] {
			if m.Outcome == OK && m.Ended < f.Begun {
				least = max(least, m.Offset)
			}
			known = known || m.Outcome != Failed && m.Begun < f.Ended && m.Offset == f.Offset
		}
		if f.Offset < least {
			c.add(GroupBack, "group %s, %s: offset %d at %d, %d was acknowledged before", f.Group, f.Log, f.Offset, f.Begun, least)
		}
		if !known {
			c.add(GroupAhead, "group %s, %s: offset %d at %d was never committed", f.Group, f.Log, f.Offset, f.Begun)
		}
	}
}
