package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/group"
	"varve.dev/agent/wire"
)

// LeaveGroup is API key 13. Up to v2 one member leaves and its error is the answer's; from v3 on several may, and an
// instance id without a member id takes out a static member (KIP-345).
func LeaveGroup(groups *group.Coordinator) API {
	return Async(0, 5, 0, func(_ context.Context, _ *wire.Request, req *kmsg.LeaveGroupRequest, reply func(kmsg.Response)) {
		leavers := []group.Leaver{{Member: req.MemberID}}
		if req.Version >= 3 {
			leavers = make([]group.Leaver, len(req.Members))
			for i, m := range req.Members {
				leavers[i] = group.Leaver{Member: m.MemberID, Instance: orEmpty(m.InstanceID)}
			}
		}
		groups.Leave(req.Group, leavers, func(errs []error, err error) {
			resp := kmsg.NewPtrLeaveGroupResponse()
			resp.ErrorCode = Code(err)
			if err == nil && req.Version < 3 {
				resp.ErrorCode = Code(errs[0])
			}
			if err == nil && req.Version >= 3 {
				for i, m := range req.Members {
					rm := kmsg.NewLeaveGroupResponseMember()
					rm.MemberID, rm.InstanceID, rm.ErrorCode = m.MemberID, m.InstanceID, Code(errs[i])
					resp.Members = append(resp.Members, rm)
				}
			}
			reply(resp)
		})
	})
}
