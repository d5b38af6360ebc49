package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// AlterConfigs makes API key 33, v0-2: what a request names becomes all that is set on the resource.
func AlterConfigs(agents Agents, changes *Changes) API {
	h := &alterer{agents, changes}
	return Message(0, 2, 0, func(ctx context.Context, _ *wire.Request, req *kmsg.AlterConfigsRequest) (kmsg.Response, error) {
		ctx, cancel := within(ctx, 0)
		defer cancel()
		var (
			rs    []resource
			asked [][]alteration
		)
		for _, r := range req.Resources {
			var as []alteration
			for _, c := range r.Configs {
				as = append(as, alteration{name: c.Name, op: kmsg.IncrementalAlterConfigOpSet, value: c.Value})
			}
			rs, asked = append(rs, resource{r.ResourceType, r.ResourceName}), append(asked, as)
		}
		resp := kmsg.NewPtrAlterConfigsResponse()
		resp.Resources = []kmsg.AlterConfigsResponseResource{}
		for i, err := range h.alter(ctx, rs, asked, true, req.ValidateOnly) {
			out := kmsg.NewAlterConfigsResponseResource()
			out.ResourceType, out.ResourceName = rs[i].kind, rs[i].name
			out.ErrorCode, out.ErrorMessage = Code(err), text(err)
			resp.Resources = append(resp.Resources, out)
		}
		return resp, nil
	})
}
