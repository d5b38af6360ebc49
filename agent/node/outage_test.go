package node

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/objectstore"
)

// While the bucket or the metadata are away, reads of committed records go on, produce waits and is then refused with an
// error that clients retry, and what was refused never appears. Afterwards work goes on by itself.
func TestOutage(t *testing.T) {
	for _, away := range []string{"object store", "metadata"} {
		t.Run(away, func(t *testing.T) {
			w := newWorld(t, nil)
			l := w.start("produce.buffer.bytes=1048576", "flush.bytes=65536", "produce.wait.ms=50")
			l.create("a", 1)
			l.create("quick", 1, "varve.durability", "local")
			c := l.dial()
			var sent [][]byte
			add := func(acks int16, b []byte) {
				t.Helper()
				sent = append(sent, b)
				if at := c.append(acks, "a", 0, b); at != int64(len(sent)-1) {
					t.Fatalf("got offset %d, want %d", at, len(sent)-1)
				}
			}
			add(-1, records(options{}, "before"))
			heal := func() { w.meta.away.Store(false) }
			if away == "metadata" {
				w.meta.away.Store(true)
			} else {
				heal = w.breakStore(objectstore.KindPut)
			}
			wantSame(t, c.read("a", 0, 0), sent...)

			// After append there is no definite error: the record appears.
			impatient := produceRequest(-1, put{"a", 0, records(options{}, "in doubt")})
			impatient.TimeoutMillis = 20
			sent = append(sent, impatient.Topics[0].Partitions[0].Records)
			got := ask[*kmsg.ProduceResponse](c, produceVersion, impatient).Topics[0].Partitions[0]
			wantCode(t, "a produce that is not waited for", got.ErrorCode, kerr.RequestTimedOut)

			// acks=1 is answered by the journal until the buffer is full; then nothing is appended.
			refused := 0
			for i := range 20 {
				b := filler(100_000, uint64(i))
				p := c.produce(1, "a", 0, b)
				if p.ErrorCode == 0 {
					sent = append(sent, b)
					continue
				}
				refused++
				wantCode(t, "a produce without room", p.ErrorCode, kerr.NotEnoughReplicas)
			}
			if refused < 5 {
				t.Errorf("%d of 20 produces were refused, want at least 5: 2 MB do not fit into 1 MiB", refused)
			}
			wantSame(t, c.read("a", 0, 0), sent[0]) // nothing uncommitted is shown
			waiting := l.dial()
			waiting.send(produceVersion, produceRequest(1, put{"a", 0, filler(100_000, 99)}))
			wantCode(t, "again", waiting.receive().(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode, kerr.NotEnoughReplicas)
			heal()
			l.idle()
			add(-1, records(options{}, "after"))
			wantSame(t, c.read("a", 0, 0), sent...)
			l.stop()
			w.verify()
		})
	}
}

// With a store away and the journal full, those who wait for the journal alone are refused too, within produce.wait.ms; what
// was answered as refused never appears, and afterwards work goes on by itself.
func TestOutageWithAFullJournal(t *testing.T) {
	for _, away := range []string{"object store", "metadata"} {
		t.Run(away, func(t *testing.T) {
			w := newWorld(t, nil)
			const wait, margin = 100 * time.Millisecond, 5 * time.Second // the margin is the machine's
			l := w.start("journal.bytes=4194304", "flush.bytes=65536", fmt.Sprintf("produce.wait.ms=%d", wait.Milliseconds()))
			l.create("a", 1)
			l.create("quick", 1, "varve.durability", "local")
			c := l.dial()
			b := filler(100, 1)
			c.append(-1, "a", 0, b)
			c.append(-1, "quick", 0, b)
			shown := map[string][][]byte{"a": {b}, "quick": {b}}
			heal := func() { w.meta.away.Store(false) }
			if away == "metadata" {
				w.meta.away.Store(true)
			} else {
				heal = w.breakStore(objectstore.KindPut)
			}
			send := func(topic string, acks int16, seed uint64) int16 {
				t.Helper()
				b := filler(200_000, seed)
				req := produceRequest(acks, put{topic, 0, b})
				req.TimeoutMillis = 1500
				began := time.Now()
				code := ask[*kmsg.ProduceResponse](c, produceVersion, req).Topics[0].Partitions[0].ErrorCode
				limit := wait
				switch kerr.ErrorForCode(code) {
				case nil:
					shown[topic] = append(shown[topic], b)
				case kerr.RequestTimedOut: // before the store counted as away
					shown[topic] = append(shown[topic], b)
					limit = 1500 * time.Millisecond
				case kerr.NotEnoughReplicas:
				default:
					t.Errorf("%s with acks=%d: got %v, want an error that clients retry", topic, acks, kerr.ErrorForCode(code))
				}
				if took := time.Since(began); took > limit+margin {
					t.Errorf("%s with acks=%d: answered after %s, want %s", topic, acks, took, limit)
				}
				return code
			}
			refused := 0
			for i := uint64(2); refused < 12; i++ {
				if i > 100 {
					t.Fatalf("%d produces were refused, want 12: a journal of 4 MiB takes less than 20 MB", refused)
				}
				topic, acks := "a", int16(1)
				if i%2 == 0 {
					topic, acks = "quick", int16(-1)
				}
				if send(topic, acks, i) == kerr.NotEnoughReplicas.Code {
					refused++
				} else if refused > 0 {
					t.Errorf("%s with acks=%d was not refused, but %d before were", topic, acks, refused)
				}
			}
			wantCode(t, "acks=all", send("a", -1, 200), kerr.NotEnoughReplicas)
			wantSame(t, c.read("a", 0, 0), shown["a"][0]) // what is committed is read, and nothing else
			heal()
			l.idle()
			for i, topic := range []string{"a", "quick"} {
				if code := send(topic, 1-2*int16(i), uint64(300+i)); code != 0 {
					t.Errorf("%s after the outage: %v", topic, kerr.ErrorForCode(code))
				}
				l.idle()
				wantSame(t, c.read(topic, 0, 0), shown[topic]...)
			}
			l.stop()
			w.verify()
		})
	}
}

// History is read while nothing can be written, and a read that fails is an error that clients retry.
func TestReadsDuringAnOutage(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 2, "segment.ms", "1")
	c := l.dial()
	b := records(options{}, "x")
	c.append(-1, "a", 0, b)
	c.append(-1, "a", 1, b)
	l.seal()
	l.evictAll()
	heal := w.breakStore(objectstore.KindPut, objectstore.KindHead, objectstore.KindDelete)
	wantSame(t, c.read("a", 0, 0), b) // its place in the index is known from now on
	w.meta.away.Store(true)
	wantSame(t, c.read("a", 0, 0), b)
	if got := c.fetch("a", 1, 0, 1); kerr.ErrorForCode(got.ErrorCode) != nil && !kerr.IsRetriable(kerr.ErrorForCode(got.ErrorCode)) {
		t.Errorf("history that cannot be found: got %v, want an error that clients retry", kerr.ErrorForCode(got.ErrorCode))
	}
	w.meta.away.Store(false)
	wantSame(t, c.read("a", 1, 0), b)
	heal()
	heal = w.breakStore(objectstore.KindGet)
	l.evictAll()
	got := c.fetch("a", 0, 0, 1)
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil && !kerr.IsRetriable(err) || len(got.RecordBatches) > 0 {
		t.Errorf("history that cannot be read: got %v and %d bytes, want an error that clients retry", err, len(got.RecordBatches))
	}
	heal()
	wantSame(t, c.read("a", 0, 0), b)
}

// Bytes that are damaged on the way are noticed, and asked for again: at a start, and by a fetch.
func TestBytesDamagedOnTheWay(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1, "segment.ms", "1")
	b := records(options{}, "x")
	l.dial().append(-1, "a", 0, b)
	l.seal()
	l.stop()
	var mu sync.Mutex
	damaged := map[objectstore.Call]bool{}
	f := func(c objectstore.Call) objectstore.Fault {
		mu.Lock()
		defer mu.Unlock()
		if c.Kind != objectstore.KindGet || damaged[c] {
			return objectstore.Fault{}
		}
		damaged[c] = true
		return objectstore.Fault{Corrupt: true}
	}
	w.broken.Store(&f)
	l = w.start()
	l.evictAll()
	wantSame(t, l.dial().read("a", 0, 0), b)
	if len(damaged) < 2 {
		t.Errorf("%d reads were damaged, want the directory and the records", len(damaged))
	}
}

// A commit whose reply is lost has happened once.
func TestLostRepliesOfCommits(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1)
	c := l.dial()
	var sent [][]byte
	for i := range 6 {
		if i%2 == 0 {
			w.meta.lose.Store(int32(i%3 + 1))
		}
		b := records(options{}, fmt.Sprint(i))
		sent = append(sent, b)
		if at := c.append(-1, "a", 0, b); at != int64(i) {
			t.Errorf("got offset %d, want %d", at, i)
		}
	}
	w.meta.lose.Store(0)
	wantSame(t, c.read("a", 0, 0), sent...)
	l.stop()
	w.verify()
}

// An agent that is fenced answers nothing more as written.
func TestAFencedAgentAcknowledgesNothing(t *testing.T) {
	w := newWorld(t, nil)
	first := w.start()
	first.create("a", 1)
	c := first.dial()
	c.append(-1, "a", 0, records(options{}, "x"))
	w.dir = t.TempDir()
	second := w.start()
	c.send(produceVersion, produceRequest(-1, put{"a", 0, records(options{}, "y")}))
	if resp, err := c.tryReceive(); err == nil {
		if p := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode == 0 {
			t.Errorf("a fenced agent acknowledges offset %d", p.BaseOffset)
		}
	}
	<-first.ended
	if at := second.dial().append(-1, "a", 0, records(options{}, "z")); at != 1 {
		t.Errorf("the second goes on at %d, want 1", at)
	}
	w.verify()
}

// A topic's durability may change at any time: each record is acknowledged under the contract that holds for it.
func TestDurabilityIsAltered(t *testing.T) {
	w := newWorld(t, nil)
	l := w.start()
	l.create("a", 1)
	c := l.dial()
	var sent [][]byte
	add := func() {
		t.Helper()
		b := records(options{}, fmt.Sprint(len(sent)))
		sent = append(sent, b)
		if at := c.append(-1, "a", 0, b); at != int64(len(sent)-1) {
			t.Fatalf("got offset %d, want %d", at, len(sent)-1)
		}
	}
	add()
	l.alter("a", "varve.durability", "local")
	heal := w.breakStore(objectstore.KindPut)
	add() // the journal is enough
	add()
	wantSame(t, c.read("a", 0, 0), sent...)
	l.alter("a", "varve.durability", "object") // takes effect when the tail is committed
	add()
	heal()
	l.idle()
	l.wait("the change takes effect", func() bool {
		if err := l.set.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		return !l.set.All()[0].Local()
	})
	heal = w.breakStore(objectstore.KindPut)
	impatient := produceRequest(-1, put{"a", 0, records(options{}, fmt.Sprint(len(sent)))})
	impatient.TimeoutMillis = 20
	sent = append(sent, impatient.Topics[0].Partitions[0].Records)
	got := ask[*kmsg.ProduceResponse](c, produceVersion, impatient).Topics[0].Partitions[0]
	wantCode(t, "the journal alone is not enough any more", got.ErrorCode, kerr.RequestTimedOut)
	heal()
	l.alter("a", "varve.durability", "local")
	l.wait("the change takes effect", func() bool {
		if err := l.set.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		return l.set.All()[0].Local()
	})
	heal = w.breakStore(objectstore.KindPut)
	add()
	l.crash()
	heal()
	l = w.start()
	wantSame(t, l.dial().read("a", 0, 0), sent...)
	l.stop()
	w.verify()
}
