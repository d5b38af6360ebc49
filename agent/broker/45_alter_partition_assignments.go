package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// AlterPartitionAssignments makes API key 45, v0-1. Every agent reaches every record in the object store, so there is
// nothing to move: a reassignment is refused, and there is never one to cancel.
func AlterPartitionAssignments(images Images) API {
	return Message(0, 1, 0, func(_ context.Context, _ *wire.Request, req *kmsg.AlterPartitionAssignmentsRequest) (kmsg.Response, error) {
		image := images.Image()
		resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
		resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange
		resp.Topics = []kmsg.AlterPartitionAssignmentsResponseTopic{}
		for _, t := range req.Topics {
			topic := image.ByName(t.Topic)
			out := kmsg.NewAlterPartitionAssignmentsResponseTopic()
			out.Topic, out.Partitions = t.Topic, []kmsg.AlterPartitionAssignmentsResponseTopicPartition{}
			for _, p := range t.Partitions {
				err := explain(kerr.InvalidReplicaAssignment, "Partitions have no replicas to be placed: their records are in the object store.")
				switch {
				case topic == nil, !image.Has(metadata.PartitionID{Topic: topic.Num, Partition: p.Partition}):
					err = kerr.UnknownTopicOrPartition
				case p.Replicas == nil:
					err = kerr.NoReassignmentInProgress
				}
				answer := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
				answer.Partition, answer.ErrorCode, answer.ErrorMessage = p.Partition, Code(err), text(err)
				out.Partitions = append(out.Partitions, answer)
			}
			resp.Topics = append(resp.Topics, out)
		}
		return resp, nil
	})
}
