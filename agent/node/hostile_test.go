package node

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// held is the memory that this process really holds for what is alive: heap and stacks, after a collection.
func held() int64 {
	runtime.GC()
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() + s[1].Value.Uint64())
}

// Strangers cost what they send, not what they claim, and nobody else waits for them.
func TestMemoryUnderStrangers(t *testing.T) {
	if testing.Short() {
		t.Skip("memory is what it is without the race detector")
	}
	const idle, half = 5000, 500
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if want := uint64(2*(idle+half) + ownFiles); limit.Cur < want {
		skip := t.Skipf
		if os.Getenv("VARVE_TEST_ALL") != "" {
			skip = t.Fatalf
		}
		skip("this process may open %d files, and both ends of %d connections want %d: raise the limit (ulimit -n)", limit.Cur, idle+half, want)
	}
	l := newWorld(t, nil).start()
	l.create("a", 1)
	served := l.dial()
	serve := func(what string) {
		t.Helper()
		begin := time.Now()
		at := served.append(-1, "a", 0, records(options{}, "x"))
		wantBatches(t, served.fetch("a", 0, at, 1<<20), 1)
		if took := time.Since(begin); took > patience/2 {
			t.Errorf("beside %s a record took %s to be written and read", what, took)
		}
	}
	serve("nobody")
	before := held()
	bound := func(what string, most int64) {
		t.Helper()
		serve(what)
		if got := held() - before; got > most {
			t.Errorf("%s hold %d MiB, want at most %d", what, got>>20, most>>20)
		} else {
			t.Logf("%s hold %d KiB of %d", what, got>>10, most>>10)
		}
	}

	// An idle connection has two goroutines and a buffer of 8 KiB: 32 KiB with the client's end, which lies here, too.
	versions := kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 1)
	for range idle {
		c := l.dial()
		if _, err := c.Write(versions); err != nil {
			t.Fatal(err)
		}
		var head [4]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[:]))); err != nil {
			t.Fatal(err)
		}
	}
	most := int64(idle) * 32 << 10
	bound("idle connections", most)

	// A frame that claims the most that may be claimed gets no more than it sends: 8 KiB are there already.
	for range half {
		claim := []byte{0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff}
		binary.BigEndian.PutUint32(claim, wire.MaxFrame)
		if _, err := l.dial().Write(claim); err != nil {
			t.Fatal(err)
		}
	}
	most += int64(half) * 32 << 10
	bound("half-open frames", most)

	// Requests of a few bytes that claim 2^31-1 elements are refused: all there is is their connections.
	var peak int64
	var wg sync.WaitGroup
	for _, claim := range hugeClaims() {
		c := l.dial()
		wg.Go(func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Second)) // a fetch may have been told to wait for longer
			if _, err := c.Write(claim); err == nil {
				_, _ = io.CopyN(io.Discard, c, 4)
			}
		})
		peak = max(peak, alive())
	}
	wg.Wait()
	peak = max(peak, alive())
	if most := before + most + 64<<20; peak > most { // what is not collected yet
		t.Errorf("requests that claim 2^31-1 elements came to %d MiB, want at most %d", peak>>20, most>>20)
	}
	bound("claims of 2^31-1 elements", most)
}

// alive is what the heap holds now, garbage included.
func alive() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// hugeClaims are requests of every API that begins with an array, in its first and last versions, whose array says that it
// has 2^31-1 elements.
func hugeClaims() (all [][]byte) {
	keys := []kmsg.Key{kmsg.Produce, kmsg.Fetch, kmsg.ListOffsets, kmsg.Metadata, kmsg.OffsetCommit, kmsg.OffsetFetch, kmsg.JoinGroup, kmsg.LeaveGroup,
		kmsg.SyncGroup, kmsg.DescribeGroups, kmsg.CreateTopics, kmsg.DeleteTopics, kmsg.DeleteRecords, kmsg.OffsetForLeaderEpoch, kmsg.DescribeConfigs,
		kmsg.AlterConfigs, kmsg.DescribeLogDirs, kmsg.CreatePartitions, kmsg.DeleteGroups, kmsg.IncrementalAlterConfigs, kmsg.DescribeProducers,
		kmsg.DescribeTopicPartitions}
	for _, key := range keys {
		req := key.Request()
		for _, version := range []int16{req.MaxVersion() / 2, req.MaxVersion()} {
			req.SetVersion(version)
			body := req.AppendTo(nil)
			head := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
			head = head[:len(head)-len(body)]
			most := []byte{0x7f, 0xff, 0xff, 0xff}
			if req.IsFlexible() {
				most = []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
			}
			for at := range body {
				frame := bytes.Join([][]byte{head, body[:at], most, body[at:]}, nil)
				binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
				all = append(all, frame)
			}
		}
	}
	return all
}
