package wire

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// requestAllocs bounds what a Produce request allocates between the socket and its handler, and back: the exchange, and the
// function that answers it.
const requestAllocs = 2

func TestAProduceRequestAllocatesTwiceOnItsConnection(t *testing.T) {
	l, err := Listener{Name: Plaintext, Host: "127.0.0.1"}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("answer")
	parts := net.Buffers{body}
	h := handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) { reply(Reply{Parts: parts}) })
	s := New(h, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), Config{})
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request, answer := frame(produceKey, 3, 1, "bench", "records"), make([]byte, 8+len(body))
	got := testing.AllocsPerRun(500, func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
	})
	if got > requestAllocs {
		t.Errorf("%v allocations, want at most %d", got, requestAllocs)
	}
}
