package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/group"
	"varve.dev/agent/wire"
)

// Heartbeat is API key 12: it keeps a session alive, and learns of a rebalance.
func Heartbeat(groups *group.Coordinator) API {
	return Async(0, 4, 0, func(_ context.Context, _ *wire.Request, req *kmsg.HeartbeatRequest, reply func(kmsg.Response)) {
		in := group.Heartbeat{Member: req.MemberID, Instance: orEmpty(req.InstanceID), Generation: req.Generation}
		groups.Heartbeat(req.Group, in, func(err error) {
			resp := kmsg.NewPtrHeartbeatResponse()
			resp.ErrorCode = Code(err)
			reply(resp)
		})
	})
}
