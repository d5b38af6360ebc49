package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// The kinds of coordinators.
const (
	groupCoordinator = iota
	txnCoordinator
	shareCoordinator
)

// FindCoordinator is API key 10. This agent coordinates every group, at the address that the connection's listener
// advertises.
//
// Transactions are not offered. The answer to who looks for their coordinator is INVALID_REQUEST with a sentence, not
// COORDINATOR_NOT_AVAILABLE: clients repeat the latter without end, while the former fails the producer at once and shows
// the sentence. Share groups are answered as Kafka does where they are switched off.
func FindCoordinator(self Self) API {
	return Message(0, 6, 0, func(_ context.Context, r *wire.Request, req *kmsg.FindCoordinatorRequest) (kmsg.Response, error) {
		keys := req.CoordinatorKeys
		if req.Version < 4 {
			keys = []string{req.CoordinatorKey}
		}
		resp := kmsg.NewPtrFindCoordinatorResponse()
		host, port := r.Conn.Advertised()
		for _, key := range unique(keys, func(k string) string { return k }) {
			c := kmsg.NewFindCoordinatorResponseCoordinator()
			c.Key, c.NodeID, c.Host, c.Port = key, self.ID, host, port
			c.ErrorMessage = kmsg.StringPtr("") // what Kafka says beside success
			if req.Version < 4 {
				c.ErrorMessage = kmsg.StringPtr("NONE")
			}
			if err := coordinated(req.CoordinatorType); err != nil {
				c.NodeID, c.Host, c.Port = -1, "", -1
				c.ErrorCode, c.ErrorMessage = Code(err), text(err)
			}
			resp.Coordinators = append(resp.Coordinators, c)
		}
		if req.Version < 4 {
			c := resp.Coordinators[0]
			resp.NodeID, resp.Host, resp.Port = c.NodeID, c.Host, c.Port
			resp.ErrorCode, resp.ErrorMessage = c.ErrorCode, c.ErrorMessage
			resp.Coordinators = nil
		}
		return resp, nil
	})
}

func coordinated(kind int8) error {
	switch kind {
	case groupCoordinator:
		return nil
	case txnCoordinator:
		return explain(kerr.InvalidRequest, "this cluster does not offer transactions")
	case shareCoordinator:
		return explain(kerr.InvalidRequest, "this cluster does not offer share groups")
	}
	return explain(kerr.InvalidRequest, "unknown kind of coordinator")
}
