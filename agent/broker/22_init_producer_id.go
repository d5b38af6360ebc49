package broker

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// InitProducerId (key 22), v0–5, for idempotent producers: a fresh id with epoch 0, as Kafka answers where no transactional
// id is given. Transactions are not offered: a transactional id is UNSUPPORTED_VERSION, which clients take as final.

// Producers hands out blocks of ids (metadata.Producers).
type Producers interface {
	ProducerIDs(ctx context.Context, n int64) (first int64, err error)
}

// producerBlock is how many ids one look-up reserves, as in Kafka.
const producerBlock = 1000

type producerIDs struct {
	source Producers

	mu        sync.Mutex // guards the block, not the source
	next, end int64
	turn      chan struct{} // one slot: who asks the source
}

// InitProducerID is the handler of key 22.
func InitProducerID(source Producers) API {
	h := &producerIDs{source: source, turn: make(chan struct{}, 1)}
	return Message(0, 5, 0, func(ctx context.Context, r *wire.Request, req *kmsg.InitProducerIDRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrInitProducerIDResponse()
		resp.ProducerID, resp.ProducerEpoch = -1, -1
		switch {
		case req.TransactionalID != nil && *req.TransactionalID == "",
			r.Version >= 3 && (req.ProducerID == -1) != (req.ProducerEpoch == -1):
			resp.ErrorCode = kerr.InvalidRequest.Code
			return resp, nil
		case req.TransactionalID != nil:
			resp.ErrorCode = kerr.UnsupportedVersion.Code
			return resp, nil
		}
		id, err := h.take(ctx)
		if err != nil {
			resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code // every client tries again
			return resp, nil
		}
		resp.ProducerID, resp.ProducerEpoch = id, 0
		return resp, nil
	})
}

func (h *producerIDs) take(ctx context.Context) (int64, error) {
	for {
		if id, ok := h.fromBlock(); ok {
			return id, nil
		}
		if err := h.refill(ctx); err != nil {
			return 0, fmt.Errorf("reserve producer ids: %w", err)
		}
	}
}

func (h *producerIDs) fromBlock() (int64, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == h.end {
		return 0, false
	}
	h.next++
	return h.next - 1, true
}

func (h *producerIDs) refill(ctx context.Context) error {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	h.mu.Lock()
	empty := h.next == h.end
	h.mu.Unlock()
	if !empty {
		return nil
	}
	first, err := h.source.ProducerIDs(ctx, producerBlock)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.next, h.end = first, first+producerBlock
	h.mu.Unlock()
	return nil
}
