package kcheck

import (
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

var (
	p0 = Log{"orders", 0}
	p1 = Log{"orders", 1}
)

// good is a history without a fault: three producers, a live reader for each log and a scan at the end.
func good(seed uint64) *Recorder {
	rng := rand.New(rand.NewPCG(seed, 1))
	r := NewRecorder()
	ends := map[Log]int64{}
	live := map[Log]int{p0: r.Reader(), p1: r.Reader()}
	for i := range 60 {
		log := []Log{p0, p1}[rng.IntN(2)]
		producer := rng.IntN(3)
		id := uint64(i + 1)
		s := Send{ID: id, Producer: producer, Log: log, Acks: -1, Once: true, Ordered: true}
		switch rng.IntN(8) {
		case 0:
			s.Acks, s.Provisional = 1, true
		case 1:
			r.Send(s)
			r.Sent(id, Failed, -1)
			continue
		}
		r.Send(s)
		offset := ends[log]
		ends[log]++
		if rng.IntN(8) == 0 {
			r.Sent(id, Unknown, -1)
		} else {
			r.Sent(id, OK, offset)
		}
		r.Read(Read{Reader: live[log], Log: log, Offset: offset, Epoch: int32(i / 20), ID: id})
		if rng.IntN(4) == 0 {
			begun := r.Now()
			r.Bounds(Bounds{Log: log, Start: 0, End: ends[log], Begun: begun})
		}
		if rng.IntN(4) == 0 {
			r.Commit("g", log, ends[log])([]Outcome{OK, Unknown}[rng.IntN(2)])
			begun := r.Now()
			r.Fetched(Fetched{Group: "g", Log: log, Offset: ends[log], Begun: begun})
		}
	}
	r.Trim(p0, 2)(OK)
	for _, log := range []Log{p0, p1} {
		scan := Scan{Reader: r.Reader(), Log: log, End: ends[log], Begun: r.Now()}
		if log == p0 {
			scan.Start = 2
		}
		for _, first := range slices.Clone(r.h.Reads) {
			if first.Log == log && first.Offset >= scan.Start {
				first.Reader = scan.Reader
				r.Read(first)
			}
		}
		r.Scan(scan)
		r.Bounds(Bounds{Log: log, Start: scan.Start, End: ends[log], Begun: r.Now()})
	}
	return r
}

func TestAGoodHistoryIsGood(t *testing.T) {
	for seed := range uint64(50) {
		if found := good(seed).Check(); len(found) > 0 {
			t.Fatalf("seed %d: %v", seed, found)
		}
	}
}

// TestPlantedFaultsAreFound changes one thing in good histories.
func TestPlantedFaultsAreFound(t *testing.T) {
	lastRead := func(h *History) *Read { return &h.Reads[len(h.Reads)-1] } // of the scan of p1
	faults := []struct {
		name  string
		plant func(h *History)
		want  Kind
	}{
		{"a record is lost in the middle", func(h *History) { h.Reads = slices.Delete(h.Reads, len(h.Reads)-3, len(h.Reads)-2) }, Hole},
		{"an acknowledged record is lost at the end", func(h *History) {
			h.Sends = append(h.Sends, Send{ID: 999, Log: p1, Acks: -1, Outcome: OK, Offset: 5000, Begun: 1, Ended: 2})
		}, Lost},
		{"an acknowledged record is lost in the middle", func(h *History) {
			s := acknowledged(h, p1)
			h.Reads = slices.DeleteFunc(h.Reads, func(r Read) bool { return r.ID == s.ID })
		}, Lost},
		{"acks=1 is lost without a takeover", func(h *History) {
			h.Sends = append(h.Sends, Send{ID: 999, Log: p1, Acks: 1, Provisional: true, Outcome: OK, Offset: 5000, Begun: 1, Ended: 2})
		}, Lost},
		{"a record is there twice", func(h *History) {
			again := *lastRead(h)
			again.Offset++
			h.Reads = append(h.Reads, again)
		}, Duplicate},
		{"two readers see two values", func(h *History) {
			lastRead(h).ID, h.Reads[len(h.Reads)-2].ID = h.Reads[len(h.Reads)-2].ID, lastRead(h).ID
		}, TwoValues},
		{"an offset is acknowledged twice", func(h *History) {
			s := *acknowledged(h, p1)
			s.ID = 999
			h.Sends = append(h.Sends, s)
		}, TwoValues},
		{"records are swapped for everybody", func(h *History) {
			a, b := neighbours(h)
			for i := range h.Reads {
				switch r := &h.Reads[i]; r.ID {
				case a.ID:
					r.ID = b.ID
				case b.ID:
					r.ID = a.ID
				}
			}
			a.Outcome, b.Outcome = Unknown, Unknown
		}, Order},
		{"a refused record is there", func(h *History) { send(h, lastRead(h).ID).Outcome = Failed }, Aborted},
		{"a record was never sent", func(h *History) { lastRead(h).ID = 12345 }, Phantom},
		{"a record lies in another log", func(h *History) { send(h, lastRead(h).ID).Log = p0 }, Phantom},
		{"bytes differ", func(h *History) { lastRead(h).Damage = "value differs at byte 7" }, Content},
		{"a reader is led back", func(h *History) {
			first := h.Reads[0]
			first.At = 1 << 40
			h.Reads = append(h.Reads, first)
		}, Nonmonotonic},
		{"a reader is led past a record", func(h *History) {
			i := slices.IndexFunc(h.Reads, func(r Read) bool { return r.Log == p1 && r.Offset == 3 })
			h.Reads = slices.Delete(h.Reads, i, i+1)
		}, Skip},
		{"an acknowledgement goes back", func(h *History) {
			h.Sends = append(h.Sends, Send{ID: 999, Log: p1, Acks: -1, Outcome: OK, Offset: 0, Begun: 1 << 40, Ended: 1 << 41})
		}, Realtime},
		{"leader epochs go back", func(h *History) {
			for i := range h.Reads {
				if h.Reads[i].Offset == lastRead(h).Offset && h.Reads[i].Log == p1 {
					h.Reads[i].Epoch = 0
				}
			}
		}, EpochBack},
		{"a leader epoch changes", func(h *History) { lastRead(h).Epoch++ }, EpochBack},
		{"the log start goes back", func(h *History) {
			h.Bounds = append(h.Bounds, Bounds{Log: p0, Start: 1, End: 1000, Begun: 1 << 40, Ended: 1 << 41})
		}, StartBack},
		{"the high watermark goes back", func(h *History) {
			h.Bounds = append(h.Bounds, Bounds{Log: p1, Start: 0, End: 3, Begun: 1 << 40, Ended: 1 << 41})
		}, EndBack},
		{"the log start runs away", func(h *History) {
			h.Bounds = append(h.Bounds, Bounds{Log: p1, Start: 1, End: 1000, Begun: 1 << 40, Ended: 1 << 41})
		}, Trimmed},
		{"deleted records are there", func(h *History) { h.Trims = append(h.Trims, Trim{Log: p1, Before: 4, Outcome: OK, Begun: 1, Ended: 2}) }, Untrimmed},
		{"a group's offset goes back", func(h *History) {
			h.Commits = append(h.Commits, Commit{"g", p1, 7000, OK, 1, 2})
		}, GroupBack},
		{"a group's offset is lost", func(h *History) {
			h.Commits = append(h.Commits, Commit{"h", p1, 7, OK, 1, 2})
			h.Fetched = append(h.Fetched, Fetched{"h", p1, -1, 3, 4})
		}, GroupBack},
		{"a group's offset comes from nowhere", func(h *History) {
			h.Fetched = append(h.Fetched, Fetched{"g", p1, 7000, 1 << 40, 1 << 41})
		}, GroupAhead},
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			for seed := range uint64(20) {
				h := &good(seed).h
				f.plant(h)
				found := Check(h)
				if !slices.ContainsFunc(found, func(a Anomaly) bool { return a.Kind == f.want }) {
					t.Fatalf("seed %d: found %v, want %q among them", seed, found, f.want)
				}
			}
		})
	}
}

func send(h *History, id uint64) *Send {
	return &h.Sends[slices.IndexFunc(h.Sends, func(s Send) bool { return s.ID == id })]
}

func acknowledged(h *History, l Log) *Send {
	return &h.Sends[slices.IndexFunc(h.Sends, func(s Send) bool { return s.Log == l && s.Outcome == OK && s.Acks == -1 })]
}

// neighbours are two records of one producer in one log.
func neighbours(h *History) (a, b *Send) {
	for i := range h.Reads {
		a = send(h, h.Reads[i].ID)
		for k := range h.Sends {
			b = &h.Sends[k]
			if b.Log == a.Log && b.Producer == a.Producer && b.ID > a.ID && b.Outcome != Failed && a.Log == p1 {
				return a, b
			}
		}
	}
	panic("no two records of one producer")
}

// TestMutationsAreFound drops, swaps and repeats single reads of the final scans of good histories.
func TestMutationsAreFound(t *testing.T) {
	for seed := range uint64(200) {
		h := &good(seed).h
		rng := rand.New(rand.NewPCG(seed, 2))
		scans := slices.IndexFunc(h.Reads, func(r Read) bool { return r.Reader == h.Scans[0].Reader })
		i := scans + rng.IntN(len(h.Reads)-scans-1)
		what := []string{"drop", "swap", "repeat", "move"}[rng.IntN(4)]
		switch what {
		case "drop":
			h.Reads = slices.Delete(h.Reads, i, i+1)
		case "swap":
			h.Reads[i].ID, h.Reads[i+1].ID = h.Reads[i+1].ID, h.Reads[i].ID
		case "repeat":
			h.Reads = slices.Insert(h.Reads, i, h.Reads[i])
		case "move":
			h.Reads[i].Offset += 1 + rng.Int64N(5)
		}
		if len(Check(h)) == 0 {
			t.Errorf("seed %d: %s of read %d of %d was not found", seed, what, i, len(h.Reads))
		}
	}
}

func TestWhatIsAllowedIsNotFound(t *testing.T) {
	allowed := []struct {
		name  string
		plant func(h *History)
	}{
		{"acks=1 is lost after a takeover", func(h *History) {
			h.TakenOver = true
			h.Sends = append(h.Sends, Send{ID: 999, Log: p1, Acks: 1, Provisional: true, Outcome: OK, Offset: 5000, Begun: 1, Ended: 2})
		}},
		{"acks=0 is lost", func(h *History) {
			h.Sends = append(h.Sends, Send{ID: 999, Log: p1, Outcome: OK, Offset: 0, Begun: 1, Ended: 2})
		}},
		{"an unknown outcome did not happen", func(h *History) { h.Sends = append(h.Sends, Send{ID: 999, Log: p1, Acks: -1, Begun: 1}) }},
		{"a retry without idempotence is there twice", func(h *History) {
			last := h.Reads[len(h.Reads)-1]
			send(h, last.ID).Once = false
			last.Offset, last.At = last.Offset+1, 1<<42
			h.Reads = append(h.Reads, last)
		}},
		{"retention moves the log start", func(h *History) {
			h.Retained = map[string]bool{p1.Topic: true}
			h.Bounds = append(h.Bounds, Bounds{Log: p1, Start: 9, End: 1000, Begun: 1 << 40, Ended: 1 << 41})
		}},
		{"a reader passes a gap", func(h *History) {
			last := h.Reads[len(h.Reads)-1]
			h.Gaps = append(h.Gaps, Gap{p1, last.Offset + 1, last.Offset + 100})
			h.Sends = append(h.Sends, Send{ID: 999, Log: p1, Producer: 9, Acks: -1, Outcome: OK, Offset: last.Offset + 100, Begun: 1 << 40, Ended: 1 << 41})
			last.Offset, last.ID, last.At = last.Offset+100, 999, 1<<42
			h.Reads = append(h.Reads, last)
		}},
		{"an unanswered commit of a group counts", func(h *History) {
			h.Commits = append(h.Commits, Commit{"g", p1, 7000, Unknown, 1 << 40, 1 << 41})
			h.Fetched = append(h.Fetched, Fetched{"g", p1, 7000, 1 << 42, 1 << 43})
		}},
	}
	for _, a := range allowed {
		t.Run(a.name, func(t *testing.T) {
			for seed := range uint64(20) {
				h := &good(seed).h
				a.plant(h)
				if found := Check(h); len(found) > 0 {
					t.Fatalf("seed %d: %v", seed, found)
				}
			}
		})
	}
}

func TestASavedHistoryIsJudgedTheSame(t *testing.T) {
	r := good(1)
	r.Trim(p1, 4)(OK) // too early for the reads before it, so that there is something to find
	r.h.Trims[len(r.h.Trims)-1].Ended = 1
	path := filepath.Join(t.TempDir(), "history.json")
	if err := r.Save(path); err != nil {
		t.Fatal(err)
	}
	h, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := r.Check()
	if got := Check(h); len(want) == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}
