package node

import (
	"math"
	"time"

	"varve.dev/agent/catalog"
	"varve.dev/agent/config"
	"varve.dev/agent/session"
	"varve.dev/metadata"
	"varve.dev/tiering/batch/codec"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
)

// wanted is session.Topics over the catalog.
type wanted struct {
	catalog *catalog.Catalog
}

func (w wanted) Wanted() (topics map[int32]session.Topic, gone []int32) {
	image := w.catalog.Image()
	topics = make(map[int32]session.Topic, len(image.Topics))
	for _, t := range image.Topics {
		topics[t.Num] = topicOf(t, image.Agent)
	}
	for _, t := range image.Deleting {
		gone = append(gone, t.Num)
	}
	return topics, gone
}

func topicOf(t *catalog.Topic, agent *config.Agent) session.Topic {
	s := &t.Settings
	kept, asked := codec.Parse(s.Compression)
	return session.Topic{
		Name:       object.TopicName{Num: t.Num, ID: t.ID, Name: t.Name},
		Partitions: t.Partitions,
		Config: partition.Config{
			Local:               s.Local,
			MaxMessageBytes:     int(s.MaxMessageBytes),
			AppendTime:          s.LogAppendTime,
			TimestampBefore:     millis(s.TimestampBeforeMillis),
			TimestampAfter:      millis(s.TimestampAfterMillis),
			Codec:               kept,
			KeepCodec:           !asked,
			MaxUnflushedRecords: s.MaxUnflushedRecords,
			MaxUnflushedBytes:   s.MaxUnflushedBytes,
			MaxUnflushedAge:     millis(s.MaxUnflushedMillis),
			SegmentAge:          millis(s.SegmentMillis),
			LocalRetention:      millis(s.LocalRetentionMillis),
			ProducerExpiry:      agent.Duration("producer.id.expiration.ms"),
		},
		Retention:      millis(s.RetentionMillis),
		RetentionBytes: s.RetentionBytes,
		Unclean:        s.UncleanLeaderElection,
	}
}

// forever stands for no bound where a moment is computed from it: a century.
const forever = 100 * 365 * 24 * time.Hour

// millis is a time in milliseconds, cut at a century; negative stays so.
func millis(ms int64) time.Duration {
	if ms > int64(forever/time.Millisecond) {
		return forever
	}
	if ms < 0 {
		return -1
	}
	return time.Duration(ms) * time.Millisecond
}

// grace is how long objects outlive their last reference.
func grace(cfg *config.Agent) metadata.Grace {
	return metadata.Grace{Superseded: cfg.Duration("gc.grace.ms"), Orphan: cfg.Duration("gc.orphan.grace.ms")}
}

// bounded cuts a 64-bit setting to an int.
func bounded(v int64) int { return int(min(v, math.MaxInt32)) }
