package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// IncrementalAlterConfigs makes API key 44, v0-1: SET, DELETE, and APPEND and SUBTRACT for lists (KIP-339).
func IncrementalAlterConfigs(agents Agents, changes *Changes) API {
	h := &alterer{agents, changes}
	return Message(0, 1, 0, func(ctx context.Context, _ *wire.Request, req *kmsg.IncrementalAlterConfigsRequest) (kmsg.Response, error) {
		ctx, cancel := within(ctx, 0)
		defer cancel()
		var (
			rs    []resource
			asked [][]alteration
		)
		for _, r := range req.Resources {
			var as []alteration
			for _, c := range r.Configs {
				as = append(as, alteration{name: c.Name, op: c.Op, value: c.Value})
			}
			rs, asked = append(rs, resource{r.ResourceType, r.ResourceName}), append(asked, as)
		}
		resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
		resp.Resources = []kmsg.IncrementalAlterConfigsResponseResource{}
		for i, err := range h.alter(ctx, rs, asked, false, req.ValidateOnly) {
			out := kmsg.NewIncrementalAlterConfigsResponseResource()
			out.ResourceType, out.ResourceName = rs[i].kind, rs[i].name
			out.ErrorCode, out.ErrorMessage = Code(err), text(err)
			resp.Resources = append(resp.Resources, out)
		}
		return resp, nil
	})
}
