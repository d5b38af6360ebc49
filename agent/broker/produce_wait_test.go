package broker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/tiering/flush"
)

// scarce is room that comes free after a while; 0: never.
type scarce struct {
	after time.Duration
	away  bool
	needs []flush.Need
}

func (s *scarce) Away() bool { return s.away }

func (s *scarce) TryReserve(int64) bool { return false }
func (s *scarce) Unreserve(int64)       {}

func (s *scarce) Reserve(ctx context.Context, _ int64, need flush.Need) error {
	s.needs = append(s.needs, need)
	after := s.after
	if after == 0 {
		after = 24 * time.Hour
	}
	free := time.NewTimer(after)
	defer free.Stop()
	select {
	case <-free.C:
		return nil
	case <-ctx.Done():
		return flush.ErrBusy
	}
}

// waitingProduce is the handler over scarce room; ask answers the code of the only partition, and how long it took.
func waitingProduce(t *testing.T, l *logs, room *scarce, wait time.Duration) (ask func(ctx context.Context, c *wire.Conn, acks int16, timeout time.Duration) (int16, time.Duration)) {
	api := Produce(l.catalog, l, room, confirmed(nil), wait)
	return func(ctx context.Context, c *wire.Conn, acks int16, timeout time.Duration) (int16, time.Duration) {
		t.Helper()
		req := l.produceRequest(acks, map[int32][]byte{0: oneBatch(0, 0, "x")})
		req.TimeoutMillis = int32(timeout.Milliseconds())
		req.SetVersion(9)
		began, answer := time.Now(), make(chan wire.Reply, 1)
		api.Handle(ctx, &wire.Request{Key: 0, Version: 9, Body: req.AppendTo(nil), Conn: c}, func(r wire.Reply) { answer <- r })
		r := <-answer
		took := time.Since(began)
		if acks == 0 {
			if !r.NoReply || !r.Close {
				t.Errorf("acks=0 was answered with %+v, want the end of its connection", r)
			}
			return 0, took
		}
		resp := kmsg.NewPtrProduceResponse()
		resp.SetVersion(9)
		if err := resp.ReadFrom(r.Parts[0]); err != nil {
			t.Fatal(err)
		}
		return resp.Topics[0].Partitions[0].ErrorCode, took
	}
}

// Without room a request waits as long as it and the agent allow, and is then surely not appended.
func TestAProduceRequestIsAnsweredInTime(t *testing.T) {
	l := newLogs(t)
	synctest.Test(t, func(t *testing.T) {
		const wait = 10 * time.Second
		for _, c := range []struct {
			name    string
			acks    int16
			after   time.Duration // until there is room
			away    bool
			timeout time.Duration
			code    *kerr.Error
			want    time.Duration
		}{
			{"a patient client", -1, 0, true, 30 * time.Second, kerr.NotEnoughReplicas, wait},
			{"the same with acks=1", 1, 0, true, 30 * time.Second, kerr.NotEnoughReplicas, wait},
			{"the same with acks=0", 0, 0, true, 30 * time.Second, nil, wait},
			{"a client that waits less than the agent", 1, 0, true, 2 * time.Second, kerr.NotEnoughReplicas, 2 * time.Second},
			{"acks=0 waits for nothing, so its timeout is none", 0, 0, true, time.Millisecond, nil, wait},
			{"room, but no answer: the timeout counts from the request's arrival", -1, 4 * time.Second, false, 30 * time.Second, kerr.RequestTimedOut, 30 * time.Second},
			{"the same with the stores away", -1, 4 * time.Second, true, 30 * time.Second, kerr.RequestTimedOut, 4*time.Second + wait},
			{"the same with less patience", -1, 4 * time.Second, true, 7 * time.Second, kerr.RequestTimedOut, 7 * time.Second},
		} {
			room := &scarce{after: c.after, away: c.away}
			got, took := waitingProduce(t, l, room, wait)(t.Context(), new(wire.Conn), c.acks, c.timeout)
			if c.code != nil {
				wantCode(t, c.name, got, c.code)
			}
			if took != c.want {
				t.Errorf("%s: answered after %s, want %s", c.name, took, c.want)
			}
			appended := 0
			if c.after > 0 {
				appended = 1
			}
			if n := len(l.held); n != appended {
				t.Errorf("%s: %d batches appended, want %d", c.name, n, appended)
			}
			l.held = nil
		}
	})
}

// What a client has sent behind a request that is refused has waited with it; what it sends later waits itself.
func TestRequestsInFlightBehindARefusedOneDoNotWaitAgain(t *testing.T) {
	l := newLogs(t)
	synctest.Test(t, func(t *testing.T) {
		const wait, timeout = 10 * time.Second, 30 * time.Second
		ask := waitingProduce(t, l, new(scarce), wait)
		ctx, closed := context.WithCancel(t.Context())
		one, other := new(wire.Conn), new(wire.Conn)
		for i, c := range []struct {
			conn *wire.Conn
			want time.Duration
		}{{one, wait}, {one, 0}, {one, 0}, {other, wait}, {one, wait}, {one, 0}} {
			code, took := ask(ctx, c.conn, -1, timeout)
			wantCode(t, "no room", code, kerr.NotEnoughReplicas)
			if took != c.want {
				t.Errorf("request %d was answered after %s, want %s", i, took, c.want)
			}
		}
		time.Sleep(behind)
		if _, took := ask(ctx, one, -1, timeout); took != wait {
			t.Errorf("a request that came later was answered after %s, want %s", took, wait)
		}
		closed()
		synctest.Wait()
		if _, took := ask(t.Context(), one, -1, timeout); took != wait {
			t.Errorf("a connection that ended is remembered: answered after %s, want %s", took, wait)
		}
	})
}

// The need decides whether the journal's room is enough: only of a request that nothing but `local` partitions is in.
func TestTheNeedOfARequest(t *testing.T) {
	l := newLogs(t)
	made, err := l.store.CreateTopic(t.Context(), metadata.Topic{ID: metadata.UUID{8}, Name: "quick", Partitions: 1,
		Config: map[string]string{"varve.durability": "local"}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.catalog.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := &produce{topics: l.catalog}
	for _, c := range []struct {
		acks   int16
		topics []string
		want   flush.Need
	}{
		{0, []string{"a", "quick"}, flush.Nobody}, {1, []string{"a", "quick"}, flush.Synced}, {-1, []string{"a"}, flush.Stored},
		{-1, []string{"quick"}, flush.Local}, {-1, []string{"quick", "a"}, flush.Stored}, {-1, []string{"quick", "none"}, flush.Local},
	} {
		for _, version := range []int16{9, 13} {
			req := kmsg.NewPtrProduceRequest()
			req.Acks = c.acks
			for _, name := range c.topics {
				topic := kmsg.NewProduceRequestTopic()
				topic.Topic, topic.TopicID = name, map[string][16]byte{"a": {7}, "quick": made.ID}[name]
				req.Topics = append(req.Topics, topic)
			}
			if got := h.need(version, req); got != c.want {
				t.Errorf("v%d acks=%d topics %v: need %d, want %d", version, c.acks, c.topics, got, c.want)
			}
		}
	}
}
