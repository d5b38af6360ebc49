package broker

import (
	"bytes"
	"context"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/group"
	"varve.dev/agent/wire"
)

// JoinGroup is API key 11: it waits until everybody has joined, or the rebalance timeout is over. v4 (KIP-394) is given a
// member id first, v5 has static members, v9 (KIP-814) can be told to lead without sharing out.
func JoinGroup(groups *group.Coordinator) API {
	return Async(0, 9, 0, func(_ context.Context, r *wire.Request, req *kmsg.JoinGroupRequest, reply func(kmsg.Response)) {
		in := group.Join{
			Member: req.MemberID, Instance: orEmpty(req.InstanceID), ClientID: r.ClientID, Host: clientHost(r),
			Session:      time.Duration(req.SessionTimeoutMillis) * time.Millisecond,
			Rebalance:    time.Duration(max(req.RebalanceTimeoutMillis, 0)) * time.Millisecond,
			ProtocolType: req.ProtocolType, RequireKnownID: req.Version >= 4, CanSkipAssigning: req.Version >= 9,
		}
		if req.Version == 0 {
			in.Rebalance = in.Session
		}
		for _, p := range req.Protocols {
			// A copy: the group keeps it, and the frame must go.
			in.Protocols = append(in.Protocols, group.Protocol{Name: p.Name, Metadata: bytes.Clone(p.Metadata)})
		}
		groups.Join(req.Group, in, func(a group.JoinReply) { reply(joinResponse(a)) })
	})
}

func joinResponse(a group.JoinReply) *kmsg.JoinGroupResponse {
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.MemberID, resp.Generation = a.Member, -1
	if resp.ErrorCode = Code(a.Err); a.Err != nil {
		return resp
	}
	resp.Generation, resp.LeaderID, resp.SkipAssignment = a.Generation, a.Leader, a.SkipAssignment
	resp.ProtocolType, resp.Protocol = &a.ProtocolType, &a.Protocol
	for _, m := range a.Members {
		rm := kmsg.NewJoinGroupResponseMember()
		rm.MemberID, rm.InstanceID, rm.ProtocolMetadata = m.Member, nullable(m.Instance), m.Metadata
		resp.Members = append(resp.Members, rm)
	}
	return resp
}

// clientHost is the client's address as Kafka shows it, without the port.
func clientHost(r *wire.Request) string {
	addr := r.Conn.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(addr); err == nil {
		addr = host
	}
	return "/" + addr
}
