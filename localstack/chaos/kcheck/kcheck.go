// Package kcheck judges a history of what clients sent, were told and have read: nothing acknowledged is lost, nothing is
// there twice, no offset has two values, order is kept, and no bound goes back.
package kcheck

import (
	"cmp"
	"fmt"
	"slices"
)

// Log is one life of one partition: a topic that is deleted and made again has another name here.
type Log struct {
	Topic     string
	Partition int32
}

func (l Log) String() string { return fmt.Sprintf("%s/%d", l.Topic, l.Partition) }

// Outcome is what a client was told.
type Outcome uint8

const (
	Unknown Outcome = iota // no answer, or one that says that nothing is known
	OK
	Failed // definitely not done
)

// Send is one record on its way in. IDs are unique and not 0. Times are the recorder's ticks.
type Send struct {
	ID       uint64
	Producer int
	Log
	Acks int16
	// Provisional: acks=1 on an `object` topic, which may be lost when another agent takes the partition over.
	Provisional bool
	// Once: with idempotence, or sent once only, it may be there once at most.
	Once bool
	// Ordered: its producer's records come in the order in which they were sent.
	Ordered      bool
	Outcome      Outcome
	Offset       int64 // OK with acks other than 0
	Begun, Ended int64
}

// Read is one record on its way out, in the order in which its reader got it.
type Read struct {
	Reader int
	Log
	Offset int64
	Epoch  int32
	ID     uint64
	// Damage says what is wrong with the record's bytes; empty: they are as they were sent.
	Damage string
	At     int64
}

// Scan says that one reader has read a log from its start to the end that it had when the scan began.
type Scan struct {
	Reader int
	Log
	// End is the high watermark at the beginning, Start the log start when the scan was over.
	Start, End   int64
	Begun, Ended int64
}

// Bounds are one look at a log's start and high watermark.
type Bounds struct {
	Log
	Start, End   int64
	Begun, Ended int64
}

// Trim is one DeleteRecords.
type Trim struct {
	Log
	Before       int64
	Outcome      Outcome
	Begun, Ended int64
}

// Commit is one group's commit of an offset. Who commits never means to go back.
type Commit struct {
	Group string
	Log
	Offset       int64
	Outcome      Outcome
	Begun, Ended int64
}

// Fetched is a look at a group's offset; -1: there is none.
type Fetched struct {
	Group string
	Log
	Offset       int64
	Begun, Ended int64
}

// Gap is a range that an unclean election has left behind: it holds no record.
type Gap struct {
	Log
	From, To int64
}

// History is everything that was seen.
type History struct {
	Sends   []Send
	Reads   []Read
	Scans   []Scan
	Bounds  []Bounds
	Trims   []Trim
	Commits []Commit
	Fetched []Fetched
	Gaps    []Gap
	// Retained logs lose their heads by themselves.
	Retained map[string]bool
	// TakenOver: another agent than the one that acknowledged has led since.
	TakenOver bool
}

// Kind names what is wrong.
type Kind string

const (
	Lost         Kind = "lost"         // acknowledged, and not there
	Duplicate    Kind = "duplicate"    // one record at two offsets
	TwoValues    Kind = "two-values"   // one offset with two records
	Aborted      Kind = "aborted"      // answered as not written, and there
	Phantom      Kind = "phantom"      // never sent
	Content      Kind = "content"      // bytes differ
	Order        Kind = "order"        // a producer's records are not in the order of their sends
	Realtime     Kind = "realtime"     // acknowledged below what was acknowledged before it was sent
	Hole         Kind = "hole"         // an offset between log start and end that holds nothing
	Nonmonotonic Kind = "nonmonotonic" // a reader was led back
	Skip         Kind = "skip"         // a reader was led past records
	EpochBack    Kind = "epoch-back"   // leader epochs go back within a log
	StartBack    Kind = "start-back"   // the log start went back
	EndBack      Kind = "end-back"     // the high watermark went back
	Trimmed      Kind = "trimmed"      // the log start moved further than anybody asked for
	Untrimmed    Kind = "untrimmed"    // deleted records are there
	GroupBack    Kind = "group-back"   // a group's offset is older than one that was acknowledged
	GroupAhead   Kind = "group-ahead"  // a group's offset was never committed
)

// Anomaly is one thing that must not be.
type Anomaly struct {
	Kind Kind
	Text string
}

func (a Anomaly) String() string { return string(a.Kind) + ": " + a.Text }

// Check finds everything that is wrong, sorted by kind.
func Check(h *History) []Anomaly {
	c := newCheck(h)
	for _, judge := range []func(){c.content, c.values, c.once, c.acked, c.order, c.realtime, c.readers, c.scans, c.epochs, c.bounds, c.trims, c.groups} {
		judge()
	}
	slices.SortStableFunc(c.found, func(a, b Anomaly) int { return cmp.Compare(a.Kind, b.Kind) })
	return c.found
}

type place struct {
	Log
	offset int64
}

type check struct {
	h     *History
	sends map[uint64]*Send
	of    map[Log][]*Send
	held  map[place]*Read    // what was read where, the first time
	where map[uint64][]place // the other way round
	gone  map[Log]int64      // the highest log start that was seen or asked for
	found []Anomaly
}

// newCheck indexes the history.
func newCheck(h *History) *check {
	c := &check{h: h, sends: make(map[uint64]*Send, len(h.Sends)), of: map[Log][]*Send{}, held: map[place]*Read{}, where: map[uint64][]place{},
		gone: map[Log]int64{}}
	for i := range h.Sends {
		s := &h.Sends[i]
		c.sends[s.ID] = s
		c.of[s.Log] = append(c.of[s.Log], s)
	}
	for i := range h.Reads {
		r := &h.Reads[i]
		at := place{r.Log, r.Offset}
		if c.held[at] == nil {
			c.held[at] = r
		}
		if r.ID != 0 && !slices.Contains(c.where[r.ID], at) {
			c.where[r.ID] = append(c.where[r.ID], at)
		}
	}
	for i := range h.Bounds {
		c.started(h.Bounds[i].Log, h.Bounds[i].Start)
	}
	for i := range h.Scans {
		c.started(h.Scans[i].Log, h.Scans[i].Start)
	}
	for i := range h.Trims {
		if t := &h.Trims[i]; t.Outcome != Failed {
			c.started(t.Log, t.Before)
		}
	}
	return c
}

func (c *check) started(l Log, start int64) { c.gone[l] = max(c.gone[l], start) }

func (c *check) add(k Kind, format string, args ...any) {
	c.found = append(c.found, Anomaly{k, fmt.Sprintf(format, args...)})
}

// name says what is known of a record.
func (c *check) name(id uint64) string {
	s := c.sends[id]
	if s == nil {
		return fmt.Sprintf("record %x", id)
	}
	return fmt.Sprintf("record %x (producer %d, acks=%d, sent at %d, ended at %d)", id, s.Producer, s.Acks, s.Begun, s.Ended)
}

// content: what is read was sent, to that log, with those bytes, and not refused.
func (c *check) content() {
	refused := map[uint64]bool{}
	for i := range c.h.Reads {
		r := &c.h.Reads[i]
		s := c.sends[r.ID]
		switch {
		case r.Damage != "":
			c.add(Content, "%s at %d: %s", r.Log, r.Offset, r.Damage)
		case s == nil:
			c.add(Phantom, "%s at %d holds record %x, which nobody sent", r.Log, r.Offset, r.ID)
		case s.Log != r.Log:
			c.add(Phantom, "%s at %d holds %s, which was sent to %s", r.Log, r.Offset, c.name(r.ID), s.Log)
		case s.Outcome == Failed && !refused[r.ID]:
			refused[r.ID] = true
			c.add(Aborted, "%s at %d holds %s, which was refused", r.Log, r.Offset, c.name(r.ID))
		}
	}
}
