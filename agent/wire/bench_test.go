package wire

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// BenchmarkRequests reads requests over loopback, eight in flight, each answered at once: the floor of what a request
// costs beside its meaning.
func BenchmarkRequests(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l, err := Listener{Name: Plaintext, Host: "127.0.0.1"}.Open(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			body := make([]byte, 40)
			h := handlerFunc(func(_ context.Context, _ *Request, reply func(Reply)) { reply(Reply{Parts: net.Buffers{body}}) })
			ctx, stop := context.WithCancel(context.Background())
			served := make(chan error, 1)
			s := New(h, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), Config{})
			go func() { served <- s.Serve(ctx, l) }()
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			request := frame(produceKey, 3, 1, "bench", strings.Repeat("x", size))
			inFlight := make(chan struct{}, 8)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for range b.N {
					inFlight <- struct{}{}
					c.Write(request)
				}
			}()
			answer := make([]byte, 8+len(body))
			for range b.N {
				if _, err := io.ReadFull(c, answer); err != nil {
					b.Fatal(err)
				}
				<-inFlight
			}
			b.StopTimer()
			c.Close()
			stop()
			<-served
		})
	}
}
