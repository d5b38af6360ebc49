package broker

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// asked is a Session that answers what it is told to.
type asked func() error

func (f asked) Confirm(context.Context) error { return f() }

func confirmed(err error) Session { return asked(func() error { return err }) }

// roomy has room, and stores that may be away.
type roomy struct {
	*logs
	away bool
}

func (r roomy) Away() bool { return r.away }

func (l *logs) Confirm(context.Context) error { return nil }

// A wrong sequence ends a producer, so an agent says it only if nobody can have acknowledged what it does not know of.
func TestWhatEndsAProducerIsSaidByAConfirmedSession(t *testing.T) {
	for name, c := range map[string]struct {
		doubt error
		away  bool
		want  *kerr.Error
		asks  int
	}{
		"confirmed":         {nil, false, kerr.OutOfOrderSequenceNumber, 1},
		"fenced":            {metadata.ErrFenced, false, kerr.NotLeaderForPartition, 1},
		"nobody knows":      {metadata.ErrUnknown, false, kerr.NotLeaderForPartition, 1},
		"no answer in time": {context.DeadlineExceeded, false, kerr.NotLeaderForPartition, 1},
		"the stores away":   {nil, true, kerr.NotLeaderForPartition, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l, asks := newLogs(t), 0
			api := Produce(l.catalog, l, roomy{l, c.away}, asked(func() error { asks++; return c.doubt }), time.Second)
			produce := func(acks int16, sequence int32) wire.Reply {
				req := l.produceRequest(acks, map[int32][]byte{0: oneBatch(7, sequence, "x"), 1: oneBatch(7, sequence, "x")})
				req.SetVersion(9)
				answer := make(chan wire.Reply, 1)
				api.Handle(t.Context(), &wire.Request{Key: 0, Version: 9, Body: req.AppendTo(nil), Conn: new(wire.Conn)}, func(r wire.Reply) { answer <- r })
				return <-answer
			}
			if r := produce(0, 0); r.Close || asks > 0 {
				t.Fatalf("the first batch: %+v, the session was asked %d times", r, asks)
			}
			resp := kmsg.NewPtrProduceResponse()
			resp.SetVersion(9)
			if err := resp.ReadFrom(produce(-1, 5).Parts[0]); err != nil {
				t.Fatal(err)
			}
			for _, p := range resp.Topics[0].Partitions { // one question is enough for all
				if p.ErrorCode != c.want.Code || asks != c.asks {
					t.Errorf("got %v after asking %d times, want %v after %d", kerr.ErrorForCode(p.ErrorCode), asks, c.want, c.asks)
				}
			}
			if r := produce(0, 5); !r.Close {
				t.Error("acks=0 was not refused")
			}
		})
	}
}
