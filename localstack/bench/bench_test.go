package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/objectstore"
	"varve.dev/objectstore/minio"
	"varve.dev/objectstore/s3"
	"varve.dev/objectstore/s3api"
	"varve.dev/tiering/batch"
	"varve.dev/tiering/batch/codec"
)

func TestBatchesAreWhatAClientWouldSend(t *testing.T) {
	for _, c := range []codec.Codec{codec.None, codec.LZ4, codec.Zstd} {
		for _, size := range []int{1 << 10, 16 << 10, 1 << 20} {
			raw, err := buildBatch(rand.New(rand.NewPCG(1, 1)), c, size)
			if err != nil {
				t.Fatal(err)
			}
			b, rest, err := batch.Parse(raw)
			if err = errors.Join(err, b.Verify(), b.CheckProduced()); err != nil || len(rest) > 0 {
				t.Fatalf("codec %v, %d bytes: %v, %d bytes left", c, size, err, len(rest))
			}
			records := 0
			if err := b.Records(64<<20, func(batch.Record) bool { records++; return true }); err != nil {
				t.Fatal(err)
			}
			if records != int(b.Count()) {
				t.Errorf("codec %v, %d bytes: %d records, header says %d", c, size, records, b.Count())
			}
			if tolerance := size / 10; c == codec.None && (len(b) > size || len(b) < size-tolerance) {
				t.Errorf("batch of %d bytes, want %d", len(b), size)
			}
			if ratio := float64(records) * recordBytes / float64(len(b)); c != codec.None && size == 16<<10 && (ratio < 2 || ratio > 12) {
				t.Errorf("codec %v: compressed %.1f : 1", c, ratio)
			}
		}
	}
}

func TestAPatchedFrameIsARequestOfItsVersion(t *testing.T) {
	l := load{batchBytes: 4 << 10, batches: 3, partitions: 7, conns: 2, depth: 5, acks: -1, total: 1 << 20}
	frames, err := l.frames("some-topic", 3)
	if err != nil {
		t.Fatal(err)
	}
	if len(frames) < l.depth {
		t.Errorf("%d frames, want at least %d", len(frames), l.depth)
	}
	f := frames[1]
	f.patch(0x01020304, func(i int) int32 { return int32(10 + i) })
	if n := int(binary.BigEndian.Uint32(f.bytes)); n != len(f.bytes)-4 {
		t.Errorf("length %d, want %d", n, len(f.bytes)-4)
	}
	if got := binary.BigEndian.Uint32(f.bytes[correlationAt:]); got != 0x01020304 {
		t.Errorf("correlation %#x", got)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Version = produceVersion
	header := 4 + 2 + 2 + 4 + 2 + len(clientID) + 1
	if err := req.ReadFrom(f.bytes[header:]); err != nil {
		t.Fatal(err)
	}
	if req.Topics[0].Topic != "some-topic" || len(req.Topics[0].Partitions) != 3 || req.Acks != -1 {
		t.Fatalf("request %+v", req)
	}
	for i, p := range req.Topics[0].Partitions {
		if p.Partition != int32(10+i) {
			t.Errorf("partition %d, want %d", p.Partition, 10+i)
		}
		if b, _, err := batch.Parse(p.Records); err != nil || b.Verify() != nil {
			t.Errorf("batch %d: %v", i, err)
		}
	}
}

func TestAFetchFrameIsARequestOfItsVersion(t *testing.T) {
	f, offsets := fetchFrame("t", 4, newAppetite(3))
	binary.BigEndian.PutUint64(f.bytes[offsets[2]:], 77)
	req := kmsg.NewPtrFetchRequest()
	req.Version = fetchVersion
	if err := req.ReadFrom(f.bytes[4+2+2+4+2+len(clientID)+1:]); err != nil {
		t.Fatal(err)
	}
	ps := req.Topics[0].Partitions
	if len(ps) != 3 || ps[2].Partition != 6 || ps[2].FetchOffset != 77 || ps[0].FetchOffset != 0 || req.MaxBytes != 50<<20 {
		t.Fatalf("request %+v", req)
	}
}

func TestErrorsInAnswersAreFound(t *testing.T) {
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = produceVersion
	topic := kmsg.NewProduceResponseTopic()
	topic.Topic = "t"
	for i, code := range []int16{0, 6} {
		p := kmsg.NewProduceResponseTopicPartition()
		p.Partition, p.ErrorCode = int32(i), code
		topic.Partitions = append(topic.Partitions, p)
	}
	resp.Topics = append(resp.Topics, topic)
	var refused brokerError
	if err := checkProduced(resp.AppendTo([]byte{0})); !errors.As(err, &refused) || refused.partition != 1 || refused.code != 6 {
		t.Errorf("error %v, want code 6 of partition 1", err)
	}
	resp.Topics[0].Partitions[1].ErrorCode = 0
	whole := resp.AppendTo([]byte{0})
	if err := checkProduced(whole); err != nil {
		t.Error(err)
	}
	if err := checkProduced(whole[:len(whole)-2]); err == nil {
		t.Error("a cut answer passes")
	}
}

func TestFetchedBatchesAreCounted(t *testing.T) {
	one, err := buildBatch(rand.New(rand.NewPCG(1, 1)), codec.None, 4<<10)
	if err != nil {
		t.Fatal(err)
	}
	var records []byte
	for i := range int64(3) {
		batch.Batch(one).Assign(100+4*i, 0)
		records = append(records, one...)
	}
	resp := kmsg.NewPtrFetchResponse()
	resp.Version = fetchVersion
	topic := kmsg.NewFetchResponseTopic()
	topic.Topic = "t"
	p := kmsg.NewFetchResponseTopicPartition()
	p.Partition, p.RecordBatches = 5, append(records, one[:100]...) // Kafka cuts the last one
	topic.Partitions = append(topic.Partitions, p)
	resp.Topics = append(resp.Topics, topic)
	seen := 0
	err = eachFetched(resp.AppendTo([]byte{0}), func(partition int32, got []byte) {
		seen++
		next, whole := afterLast(got, nil)
		if partition != 5 || next != 112 || whole != len(records) {
			t.Errorf("partition %d, next %d, %d bytes; want 5, 112, %d", partition, next, whole, len(records))
		}
	})
	if err != nil || seen != 1 {
		t.Errorf("%d partitions, %v", seen, err)
	}
}

func TestHistogramKnowsItsQuantiles(t *testing.T) {
	h := new(histogram)
	rng := rand.New(rand.NewPCG(1, 1))
	var all []time.Duration
	for range 20_000 {
		d := time.Duration(rng.ExpFloat64() * float64(3*time.Millisecond))
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))+0.5), len(all))-1]
		if got := h.quantile(q); got < want || float64(got) > 1.009*float64(want)+1 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	for _, d := range []time.Duration{0, 1, 255, 256, 257, 511, 512, 1 << 40, 1<<62 + 12345} {
		if i := bucket(d); upper(i) < d || i > 0 && upper(i-1) >= d {
			t.Errorf("%d lies in bucket %d, which ends at %d behind %d", d, i, upper(i), upper(max(i-1, 0)))
		}
	}
	sum := new(histogram)
	sum.merge(h)
	sum.merge(h)
	if sum.n != 2*h.n || sum.quantile(0.5) != h.quantile(0.5) || new(histogram).quantile(0.5) != 0 {
		t.Error("merged histograms disagree")
	}
}

func openStub(t *testing.T, keep int64, driver string) (*stub, objectstore.Store) {
	s, err := startStub(keep)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	t.Setenv("AWS_ACCESS_KEY_ID", "BENCH")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "made-up")
	cfg := s3api.Config{URL: objectstore.URL{Scheme: objectstore.Scheme(driver), Bucket: stubBucket, Prefix: "p", Endpoint: s.url, Region: "us-east-1", PathStyle: true}}
	if driver == "minio" {
		store, err := minio.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s, store
	}
	store, err := s3.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, store
}

// Were the stub worse than a good store, the agent would do more work for it than it does for those.
func TestTheStubKeepsEveryPromiseOfAGoodStore(t *testing.T) {
	for _, driver := range []string{"s3", "minio"} {
		t.Run(driver, func(t *testing.T) {
			s, store := openStub(t, 1<<20, driver)
			found, err := objectstore.Probe(t.Context(), store, "probe/")
			if err != nil {
				t.Fatal(err)
			}
			if want := (objectstore.Findings{ConditionalPut: true, ChecksumOnPut: true, ChecksumOnStat: true, Deletes: true}); found != want {
				t.Errorf("found %+v, want %+v", found, want)
			}
			data := bytes.Repeat([]byte("varve"), 1000)
			if err := store.Put(t.Context(), "a/b", objectstore.NewBytes(data)); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 100)
			if err := store.ReadAt(t.Context(), "a/b", got, 1234); err != nil || !bytes.Equal(got, data[1234:1334]) {
				t.Errorf("read %q, %v", got, err)
			}
			s.likeS3(1)
			if err := store.ReadAt(t.Context(), "a/b", got, 0); err != nil || !bytes.Equal(got, data[:100]) {
				t.Errorf("slow read %q, %v", got, err)
			}
			if s.puts.Load() < 3 || s.gets.Load() < 2 || s.lists.Load() != 0 {
				t.Errorf("counted %d PUTs, %d GETs, %d LISTs", s.puts.Load(), s.gets.Load(), s.lists.Load())
			}
		})
	}
}

func TestRawGetsReadEverything(t *testing.T) {
	s, store := openStub(t, 1<<20, "minio")
	for i := range 3 {
		if err := store.Put(t.Context(), fmt.Sprintf("seg/%d", i), objectstore.NewBytes(make([]byte, 100_000))); err != nil {
			t.Fatal(err)
		}
	}
	before := s.getBytes.Load()
	rate, err := s.rawGets(t.Context(), "p/seg/", 30_000, 2)
	if err != nil || rate <= 0 || s.getBytes.Load()-before != 300_000 {
		t.Errorf("%v bytes/s, %d bytes, %v", rate, s.getBytes.Load()-before, err)
	}
}

// control runs the floor in this process.
func control(t *testing.T, again bool) (*stub, string) {
	s, err := startStub(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	stdin, stop := io.Pipe()
	ready, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- floorMain(floorConfig{url: s.url + "/" + stubBucket, interval: time.Millisecond, bytes: 256 << 10, again: again, keep: !again}, stdin, out)
	}()
	t.Cleanup(func() {
		stop.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.close()
	})
	line := make([]byte, 256)
	n, err := ready.Read(line)
	at, ok := parseReady(string(line[:n]))
	if err != nil || !ok {
		t.Fatalf("ready line %q, %v", line[:n], err)
	}
	return s, at[0]
}

func TestTheControlStoresEveryByteBeforeItAnswers(t *testing.T) {
	s, address := control(t, false)
	l := load{batchBytes: 8 << 10, batches: 2, partitions: 5, conns: 3, depth: 7, acks: -1, total: 4 << 20}
	out, err := produce(t.Context(), address, "t", l)
	if err != nil {
		t.Fatal(err)
	}
	if out.requests != 256 {
		t.Errorf("%d requests, want 256", out.requests)
	}
	var stored, batches int64
	for key, size := range s.sizes("wal/") {
		stored += size
		o, _ := s.find(key)
		for rest := o.data; len(rest) > 0; batches++ {
			b, next, err := batch.Parse(rest)
			if err != nil || b.Verify() != nil {
				t.Fatalf("%s: %v", key, err)
			}
			rest = next
		}
	}
	if batches != 512 {
		t.Errorf("%d batches are stored, want 512", batches)
	}
	read, err := bareFetches(t.Context(), address, 2, 3)
	if err != nil || read.answers != 6 || read.bytes != 6*stored {
		t.Errorf("fetched %+v, want all of %d bytes each time: %v", read, stored, err)
	}
}

func TestTheControlStoresTwiceWhatItSeals(t *testing.T) {
	s, address := control(t, true)
	l := load{batchBytes: 8 << 10, batches: 1, partitions: 1, conns: 1, depth: 3, acks: -1, total: 1 << 20}
	if _, err := produce(t.Context(), address, "t", l); err != nil {
		t.Fatal(err)
	}
	sum := func(prefix string) (n int64) {
		for _, size := range s.sizes(prefix) {
			n += size
		}
		return n
	}
	for limit := time.Now().Add(20 * time.Second); sum("seg/") != sum("wal/"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("sealed %d bytes of %d", sum("seg/"), sum("wal/"))
		}
	}
}

// echo answers Produce requests as fast as it reads them, but for the one that it holds back.
func echo(t *testing.T, hold int, held time.Duration) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		c := &conn{nc: nc, buf: make([]byte, 1<<20)}
		for i := 0; ; i++ {
			_, body, err := c.next()
			if err != nil {
				return
			}
			if i == hold {
				time.Sleep(held)
			}
			out := kbin.AppendInt32(nil, 0)
			out = append(out, body[:4]...)
			out = append(out, 0, 1, 0, 0, 0, 0, 0)
			if _, err := nc.Write(finish(out)); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

func TestAnOpenLoopChargesAStallToAllWhoWaitedForIt(t *testing.T) {
	address := echo(t, 20, 150*time.Millisecond)
	l := load{batchBytes: 256, batches: 1, partitions: 1, conns: 1, depth: 64, acks: -1}
	var first time.Time
	out, err := openLoop(t.Context(), address, "t", l, 500, 300*time.Millisecond, func(at time.Time) { first = at })
	if err != nil {
		t.Fatal(err)
	}
	// 75 of 150 requests were meant to go during the stall: a closed loop would have seen one slow answer.
	if out.late.n != 150 || out.late.quantile(0.75) < 30*time.Millisecond || first.IsZero() {
		t.Errorf("%d answers, three quarters within %v, the slowest %v", out.late.n, out.late.quantile(0.75), out.late.quantile(1))
	}
}

func TestAProducerFailsOnceTheBrokerRefuses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := produce(ctx, address, "t", load{batchBytes: 1024, batches: 1, partitions: 1, conns: 1, depth: 1, total: 1024}); err == nil {
		t.Error("no error without a broker")
	}
}

func TestUsageOfAProcessIsRead(t *testing.T) {
	u, err := usageOf(1)
	if err != nil {
		t.Skipf("another process cannot be looked at here: %v", err)
	}
	if u.rss <= 0 || u.peak < u.rss {
		t.Errorf("usage %+v", u)
	}
}

func TestCountsAreSummedByNameAndKind(t *testing.T) {
	c := parseCounts("# HELP x y\nx{use=\"hot\",kind=\"put\"} 3\nx{use=\"cold\",kind=\"put\"} 4\nx{kind=\"get\"} 1\ny 2.5\nbroken\n")
	for name, want := range map[string]float64{"x": 8, "x put": 7, "x get": 1, "y": 2.5} {
		if c[name] != want {
			t.Errorf("%s is %v, want %v", name, c[name], want)
		}
	}
}

func TestTheReportShowsMedianAndSpread(t *testing.T) {
	r := &report{}
	s := scenario{table: "produce", name: "16 KiB"}
	for _, v := range []float64{3, 1, 2} {
		x := r.row(s, varve)
		x.runs = append(x.runs, figures{{"MiB/s", v}, {"PUT", 5}})
	}
	r.row(s, bare).runs = []figures{{{"MiB/s", 4}, {"CPU-s/GiB", 0.5}}}
	r.row(scenario{table: "produce", name: "1 KiB"}, varve).failed = errors.New("went\naway")
	got := r.markdown()
	for _, want := range []string{
		"### produce", "| case | broker | MiB/s | CPU-s/GiB | PUT |",
		"| 16 KiB | varve | 2 (1–3) | – | 5 |", "| 16 KiB | floor | 4 | 0.50 | – |", "failed: went away", "varve against floor, 16 KiB: MiB/s 0.50 ×",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, got)
		}
	}
}

func TestOnlyTheGeneratedPartIsReplaced(t *testing.T) {
	first := splice("# Results\n\nwritten by hand\n", "table 1")
	second := splice(first+"\nalso by hand\n", "table 2")
	if strings.Contains(second, "table 1") || !strings.Contains(second, "table 2") || !strings.Contains(second, "written by hand") || !strings.Contains(second, "also by hand") {
		t.Errorf("document:\n%s", second)
	}
}

func TestEveryCaseHasANameOfItsOwn(t *testing.T) {
	b := &bench{scale: 1}
	seen := map[string]bool{}
	for _, s := range b.scenarios() {
		if id := s.table + ": " + s.name; seen[id] {
			t.Errorf("two cases are called %q", id)
		} else {
			seen[id] = true
		}
	}
	if crc32.Checksum([]byte("123456789"), castagnoli) != 0xe3069283 {
		t.Error("the polynomial is not Castagnoli's")
	}
}
