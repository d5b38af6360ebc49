package kcheck

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
)

// Recorder collects a history while many clients make it. Its clock counts events.
type Recorder struct {
	mu      sync.Mutex
	now     int64
	reader  int
	h       History
	pending map[uint64]int // index of a send that has not ended
}

// NewRecorder has seen nothing.
func NewRecorder() *Recorder {
	return &Recorder{pending: map[uint64]int{}, h: History{Retained: map[string]bool{}}}
}

func (r *Recorder) tick() int64 {
	r.now++
	return r.now
}

// Now is the moment before something begins.
func (r *Recorder) Now() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tick()
}

// Reader numbers a new reader.
func (r *Recorder) Reader() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reader++
	return r.reader
}

// Send notes that a record is on its way.
func (r *Recorder) Send(s Send) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Begun = r.tick()
	s.Outcome, s.Offset, s.Ended = Unknown, -1, 0
	r.pending[s.ID] = len(r.h.Sends)
	r.h.Sends = append(r.h.Sends, s)
}

// Sent notes what became of it.
func (r *Recorder) Sent(id uint64, o Outcome, offset int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.pending[id]
	if !ok {
		panic(fmt.Sprintf("kcheck: record %x ended twice, or never began", id))
	}
	delete(r.pending, id)
	s := &r.h.Sends[i]
	s.Outcome, s.Offset, s.Ended = o, offset, r.tick()
}

// Read notes records in the order in which one reader got them.
func (r *Recorder) Read(reads ...Read) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.tick()
	for i := range reads {
		reads[i].At = at
	}
	r.h.Reads = append(r.h.Reads, reads...)
}

// Scan notes that a scan which began at s.Begun is over.
func (r *Recorder) Scan(s Scan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Ended = r.tick()
	r.h.Scans = append(r.h.Scans, s)
}

// Bounds notes a look that began at b.Begun.
func (r *Recorder) Bounds(b Bounds) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b.Ended = r.tick()
	r.h.Bounds = append(r.h.Bounds, b)
}

// Trim notes that records are to be deleted; the answer says how that ended.
func (r *Recorder) Trim(l Log, before int64) (ended func(Outcome)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.h.Trims)
	r.h.Trims = append(r.h.Trims, Trim{Log: l, Before: before, Begun: r.tick()})
	return func(o Outcome) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.h.Trims[i].Outcome, r.h.Trims[i].Ended = o, r.tick()
	}
}

// Commit notes that an offset is to be committed; the answer says how that ended.
func (r *Recorder) Commit(group string, l Log, offset int64) (ended func(Outcome)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.h.Commits)
	r.h.Commits = append(r.h.Commits, Commit{Group: group, Log: l, Offset: offset, Begun: r.tick()})
	return func(o Outcome) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.h.Commits[i].Outcome, r.h.Commits[i].Ended = o, r.tick()
	}
}

// Fetched notes a look that began at f.Begun.
func (r *Recorder) Fetched(f Fetched) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.Ended = r.tick()
	r.h.Fetched = append(r.h.Fetched, f)
}

// Gap notes a range without records.
func (r *Recorder) Gap(g Gap) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Gaps = append(r.h.Gaps, g)
}

// Retained notes that a topic loses its head by itself.
func (r *Recorder) Retained(topic string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Retained[topic] = true
}

// TakeOver notes that another agent leads now.
func (r *Recorder) TakeOver() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.TakenOver = true
}

// Check judges what was seen so far, while no client is at work.
func (r *Recorder) Check() []Anomaly {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Check(&r.h)
}

// Acknowledged is one more than the highest offset of a log that a producer was told.
func (r *Recorder) Acknowledged(l Log) (end int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.h.Sends {
		if s := &r.h.Sends[i]; s.Log == l && s.Outcome == OK && s.Acks != 0 {
			end = max(end, s.Offset+1)
		}
	}
	return end
}

// Counts are the acknowledged records, and those read.
func (r *Recorder) Counts() (acknowledged, read int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.h.Sends {
		if r.h.Sends[i].Outcome == OK {
			acknowledged++
		}
	}
	return acknowledged, len(r.h.Reads)
}

// Save writes the history to a file, to be judged again.
func (r *Recorder) Save(path string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(f).Encode(&r.h); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// Load reads what Save has written.
func Load(path string) (*History, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	h := new(History)
	return h, json.Unmarshal(raw, h)
}
