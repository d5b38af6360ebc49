package wire

import (
	"context"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// FuzzConnection sends arbitrary bytes: the server may only answer or close, and must not hold what was not sent.
func FuzzConnection(f *testing.F) {
	f.Add(frame(metadataKey, 0, 1, "client", "body"))
	f.Add(append(frame(metadataKey, 9, 1, "client", "\x00body"), frame(produceKey, 3, 2, "", "x")...))
	f.Add([]byte{0x06, 0x40, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add(frame(metadataKey, 9, 1, "", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	h := handlerFunc(func(_ context.Context, r *Request, reply func(Reply)) { reply(Reply{Parts: net.Buffers{r.Body}}) })
	s := New(h, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), Config{})
	f.Fuzz(func(t *testing.T, stream []byte) {
		limit := uint64(64*len(stream) + 1<<20)
		got := allocatedFor(t, s, stream)
		for again := 0; again < 3 && got > limit; again++ { // the fuzzer allocates, too
			got = min(got, allocatedFor(t, s, stream))
		}
		if got > limit {
			t.Errorf("%d bytes made the server allocate %d, want at most %d", len(stream), got, limit)
		}
	})
}

// allocatedFor serves a connection that sends a stream and then closes.
func allocatedFor(t *testing.T, s *Server, stream []byte) uint64 {
	here, there := net.Pipe()
	c := s.newConn(t.Context(), there, newMemory())
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(io.Discard, here)
	}()
	go func() {
		here.Write(stream)
		here.Close()
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c.run()
	runtime.ReadMemStats(&after)
	<-read
	return after.TotalAlloc - before.TotalAlloc
}

// FuzzHeader compares with the header that kmsg writes, and survives everything else.
func FuzzHeader(f *testing.F) {
	for _, version := range []int16{0, 9} {
		r := kmsg.NewPtrMetadataRequest()
		r.SetVersion(version)
		f.Add(kmsg.NewRequestFormatter(kmsg.FormatterClientID("client")).AppendRequest(nil, r, 7)[4:], version >= 9)
	}
	f.Fuzz(func(t *testing.T, b []byte, flexible bool) {
		h, err := parseHeader(b, flexible)
		if err != nil {
			return
		}
		if h.size < minFrame+2+len(h.client) || h.size > len(b) {
			t.Errorf("header of %d bytes in a frame of %d with a client id of %d", h.size, len(b), len(h.client))
		}
	})
}

func TestHeadersAreThoseOfKmsg(t *testing.T) {
	s := New(nil, nil, prometheus.NewRegistry(), Config{})
	for key := range int16(kmsg.MaxKey + 1) {
		r := kmsg.RequestForKey(key)
		if r == nil {
			continue
		}
		for v := int16(0); v <= r.MaxVersion(); v++ {
			if key == int16(kmsg.ControlledShutdown) && v == 0 {
				continue // the one request of header version 0; never answered by a broker of clients
			}
			r.SetVersion(v)
			framed := kmsg.NewRequestFormatter(kmsg.FormatterClientID("client")).AppendRequest(nil, r, 7)[4:]
			h, err := parseHeader(framed, s.isFlexible(key, v))
			if err != nil || h.key != key || h.version != v || h.correlation != 7 || string(h.client) != "client" {
				t.Fatalf("key %d version %d: got %+v, %v", key, v, h, err)
			}
			if body := r.AppendTo(nil); string(framed[h.size:]) != string(body) {
				t.Fatalf("key %d version %d: the body begins at %d, want %d", key, v, h.size, len(framed)-len(body))
			}
		}
	}
}
