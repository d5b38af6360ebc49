package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/group"
	"varve.dev/agent/wire"
)

// groupOperations is every operation that exists on a group, as a bit field: read 3, delete 6, describe 8,
// describe configs 10, alter configs 11.
const groupOperations = 1<<3 | 1<<6 | 1<<8 | 1<<10 | 1<<11

// DescribeGroups is API key 15. A group that does not exist is "Dead" without error up to v5, and GROUP_ID_NOT_FOUND from v6
// on (KIP-1043). Metadata and shares are shown of stable groups only. A group named twice is answered once.
func DescribeGroups(groups *group.Coordinator) API {
	return Message(0, 6, 0, func(_ context.Context, _ *wire.Request, req *kmsg.DescribeGroupsRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrDescribeGroupsResponse()
		for _, name := range unique(req.Groups, func(g string) string { return g }) {
			g := kmsg.NewDescribeGroupsResponseGroup()
			g.Group = name
			d, err := groups.Describe(name)
			switch {
			case err == kerr.GroupIDNotFound && req.Version < 6:
				g.State = group.Dead.String()
			case err != nil:
				g.ErrorCode, g.ErrorMessage = Code(err), text(err)
				if err == kerr.GroupIDNotFound {
					g.State = group.Dead.String()
				}
			default:
				describe(&g, d)
			}
			if req.IncludeAuthorizedOperations && g.ErrorCode == 0 {
				g.AuthorizedOperations = groupOperations
			}
			resp.Groups = append(resp.Groups, g)
		}
		return resp, nil
	})
}

func describe(g *kmsg.DescribeGroupsResponseGroup, d group.Description) {
	g.State, g.ProtocolType, g.Protocol = d.State.String(), d.ProtocolType, d.Protocol
	for _, m := range d.Members {
		gm := kmsg.NewDescribeGroupsResponseGroupMember()
		gm.MemberID, gm.InstanceID, gm.ClientID, gm.ClientHost = m.Member, nullable(m.Instance), m.ClientID, m.Host
		gm.ProtocolMetadata, gm.MemberAssignment = m.Metadata, m.Assignment
		g.Members = append(g.Members, gm)
	}
}
