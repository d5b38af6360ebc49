package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// DescribeLogDirs (key 35), v1–4: one directory, the object store; a partition's size is what it takes there. User
// interfaces show topic sizes from it.

// Sizes answers the bytes of partitions, sealed and not, and those of the whole disk that the journal lies on.
type Sizes interface {
	Size(id metadata.PartitionID) int64
	Disk() (total, usable int64)
}

// DescribeLogDirs is the handler of key 35. dir is how the one directory is called: the store's URL.
func DescribeLogDirs(topics *catalog.Catalog, led Led, sizes Sizes, dir string) API {
	return Message(1, 4, 0, func(ctx context.Context, r *wire.Request, req *kmsg.DescribeLogDirsRequest) (kmsg.Response, error) {
		resp := kmsg.NewPtrDescribeLogDirsResponse()
		out := kmsg.NewDescribeLogDirsResponseDir()
		out.Dir = dir
		out.TotalBytes, out.UsableBytes = sizes.Disk()
		image := topics.Image()
		add := func(t *catalog.Topic, want func(int32) bool) {
			topic := kmsg.NewDescribeLogDirsResponseDirTopic()
			topic.Topic = t.Name
			for i := range t.Partitions {
				id := metadata.PartitionID{Topic: t.Num, Partition: i}
				if !want(i) {
					continue
				}
				if _, err := led.Get(id); err != nil {
					continue
				}
				p := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
				p.Partition, p.Size = i, sizes.Size(id)
				topic.Partitions = append(topic.Partitions, p)
			}
			if len(topic.Partitions) > 0 {
				out.Topics = append(out.Topics, topic)
			}
		}
		if req.Topics == nil {
			for _, t := range image.Topics {
				add(t, func(int32) bool { return true })
			}
		}
		for i := range req.Topics {
			if t := image.ByName(req.Topics[i].Topic); t != nil {
				asked := map[int32]bool{}
				for _, p := range req.Topics[i].Partitions {
					asked[p] = true
				}
				add(t, func(p int32) bool { return asked[p] })
			}
		}
		resp.Dirs = append(resp.Dirs, out)
		return resp, nil
	})
}
