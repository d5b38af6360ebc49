package broker

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/group"
	"varve.dev/agent/wire"
)

// classicType is what KIP-848 calls the groups of the classic protocol.
const classicType = "classic"

// ListGroups is API key 16: the groups that this agent coordinates. v4 filters by state, v5 by type; case does not matter,
// an empty filter passes all, and a state or type that does not exist passes none.
func ListGroups(groups *group.Coordinator) API {
	return Message(0, 5, 0, func(_ context.Context, _ *wire.Request, req *kmsg.ListGroupsRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrListGroupsResponse()
		list, err := groups.List()
		resp.ErrorCode = Code(err)
		for _, g := range list {
			if !passes(req.StatesFilter, g.State.String()) || !passes(req.TypesFilter, classicType) {
				continue
			}
			rg := kmsg.NewListGroupsResponseGroup()
			rg.Group, rg.ProtocolType = g.Group, g.ProtocolType
			rg.GroupState, rg.GroupType = g.State.String(), classicType
			resp.Groups = append(resp.Groups, rg)
		}
		return resp, nil
	})
}

func passes(filter []string, s string) bool {
	return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, s) })
}
