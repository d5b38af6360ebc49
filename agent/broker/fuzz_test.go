package broker

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// panics is a log that remembers whether a handler panicked.
type panics struct {
	mu  sync.Mutex
	saw string
}

func (p *panics) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.Contains(string(b), "handler panicked") {
		p.saw = string(b)
	}
	return len(b), nil
}

// FuzzHandlers sends arbitrary bodies to every handler of topics and configs, in every version that it offers: each is
// answered, or its connection is closed, and none panics.
func FuzzHandlers(f *testing.F) {
	c := newCluster(f)
	c.mustCreate(f, newTopic("t", 3, 1))
	for _, r := range c.ranges() {
		for version := r.MinVersion; version <= r.MaxVersion; version++ {
			req := kmsg.RequestForKey(r.ApiKey)
			req.SetVersion(version)
			f.Add(r.ApiKey, version, req.AppendTo(nil))
		}
	}
	create := createRequest(newTopic("t", 1, 1, "retention.ms", "1"), assigned("u", []int32{1}))
	create.Version = 7
	f.Add(int16(19), int16(7), create.AppendTo(nil))
	describe := describeRequest(kmsg.ConfigResourceTypeTopic, "t")
	describe.Version = 4
	f.Add(int16(32), int16(4), describe.AppendTo(nil))
	pages := kmsg.NewPtrDescribeTopicPartitionsRequest()
	pages.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "t", Partition: 2}
	f.Add(int16(75), int16(0), pages.AppendTo(nil))

	log := new(panics)
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	s := wire.New(c.Broker, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError})),
		prometheus.NewRegistry(), wire.Config{FrameCap: c.FrameCap, Weight: c.Weight})
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, p) }()
	f.Cleanup(func() {
		stop()
		<-served
	})
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		if !c.knows(key, version) || len(body) > 4<<10 {
			return
		}
		client, err := p.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		req := kmsg.RequestForKey(key)
		req.SetVersion(version)
		head := kmsg.NewRequestFormatter().AppendRequest(nil, emptyBody{req}, 1)
		frame := append(head[4:], body...)
		go client.Write(append([]byte{0, 0, byte(len(frame) >> 8), byte(len(frame))}, frame...))
		buf := make([]byte, 1<<10)
		client.Read(buf)
		log.mu.Lock()
		defer log.mu.Unlock()
		if log.saw != "" {
			t.Error(log.saw)
		}
	})
}

// emptyBody writes the header of a request alone.
type emptyBody struct{ kmsg.Request }

func (emptyBody) AppendTo(dst []byte) []byte { return dst }
