package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// ListPartitionReassignments makes API key 46, v0: there are none.
func ListPartitionReassignments() API {
	return Message(0, 0, 0, func(context.Context, *wire.Request, *kmsg.ListPartitionReassignmentsRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrListPartitionReassignmentsResponse()
		resp.Topics = []kmsg.ListPartitionReassignmentsResponseTopic{}
		return resp, nil
	})
}
