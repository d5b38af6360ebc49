package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/group"
	"varve.dev/agent/wire"
)

// DeleteGroups is API key 42: it removes empty groups with their offsets, and answers after that is stored. GROUP_ID_NOT_FOUND
// and NON_EMPTY_GROUP are each group's own.
func DeleteGroups(groups *group.Coordinator) API {
	return Async(0, 2, 0, func(_ context.Context, _ *wire.Request, req *kmsg.DeleteGroupsRequest, reply func(kmsg.Response)) {
		names := unique(req.Groups, func(g string) string { return g })
		resp := kmsg.NewPtrDeleteGroupsResponse()
		resp.Groups = make([]kmsg.DeleteGroupsResponseGroup, len(names))
		all := countdown(len(names), func() { reply(resp) })
		for i, name := range names {
			groups.Delete(name, func(err error) {
				resp.Groups[i].Default()
				resp.Groups[i].Group, resp.Groups[i].ErrorCode = name, Code(err)
				all()
			})
		}
	})
}
