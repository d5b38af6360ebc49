package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// AlterReplicaLogDirs makes API key 34, v1-2. Partitions have no directories to be moved between.
func AlterReplicaLogDirs() API {
	return Message(1, 2, 0, func(_ context.Context, _ *wire.Request, req *kmsg.AlterReplicaLogDirsRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrAlterReplicaLogDirsResponse()
		resp.Topics = []kmsg.AlterReplicaLogDirsResponseTopic{}
		for _, dir := range req.Dirs {
			for _, t := range dir.Topics {
				out := kmsg.NewAlterReplicaLogDirsResponseTopic()
				out.Topic, out.Partitions = t.Topic, []kmsg.AlterReplicaLogDirsResponseTopicPartition{}
				for _, p := range t.Partitions {
					answer := kmsg.NewAlterReplicaLogDirsResponseTopicPartition()
					answer.Partition, answer.ErrorCode = p, kerr.LogDirNotFound.Code
					out.Partitions = append(out.Partitions, answer)
				}
				resp.Topics = append(resp.Topics, out)
			}
		}
		return resp, nil
	})
}
