package broker

import (
	"bytes"
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/group"
	"varve.dev/agent/wire"
)

// syncGroupFrameCap lets a leader share out: 10,000 partitions to 1,000 members, at 300 bytes of topic name each, with
// as many decoded bytes as the whole default budget holds.
const syncGroupFrameCap = 3 << 20

// SyncGroup is API key 14: the leader brings everybody's share, and everybody waits for it to be stored. From v5 on the
// request says what protocol it thinks it is in.
func SyncGroup(groups *group.Coordinator) API {
	return Async(0, 5, syncGroupFrameCap, func(_ context.Context, _ *wire.Request, req *kmsg.SyncGroupRequest, reply func(kmsg.Response)) {
		if req.Version >= 5 && (req.ProtocolType == nil || req.Protocol == nil) {
			resp := kmsg.NewPtrSyncGroupResponse() // both may be null in the schema, but not in Kafka
			resp.ErrorCode, resp.MemberAssignment = kerr.InconsistentGroupProtocol.Code, []byte{}
			reply(resp)
			return
		}
		in := group.Sync{
			Member: req.MemberID, Instance: orEmpty(req.InstanceID), Generation: req.Generation,
			ProtocolType: req.ProtocolType, Protocol: req.Protocol,
		}
		for _, a := range req.GroupAssignment {
			in.Assignments = append(in.Assignments, group.Assignment{Member: a.MemberID, Data: bytes.Clone(a.MemberAssignment)})
		}
		groups.Sync(req.Group, in, func(a group.SyncReply) {
			resp := kmsg.NewPtrSyncGroupResponse()
			resp.ErrorCode, resp.MemberAssignment = Code(a.Err), []byte{}
			if a.Err == nil {
				resp.ProtocolType, resp.Protocol = &a.ProtocolType, &a.Protocol
				resp.MemberAssignment = append(resp.MemberAssignment, a.Assignment...)
			}
			reply(resp)
		})
	})
}
