package config

import (
	"math"
	"strconv"
	"strings"
)

// Topic is a topic's settings as the code uses them: the topic's own over the agent's defaults. Times are milliseconds,
// since some of Kafka's defaults are longer than a time.Duration; -1 is no limit.
type Topic struct {
	CleanupPolicy   []string
	RetentionMillis int64
	RetentionBytes  int64

	// LocalRetentionMillis and LocalRetentionBytes are resolved: Kafka's -2 has become the retention itself.
	LocalRetentionMillis int64
	LocalRetentionBytes  int64

	SegmentMillis int64
	SegmentBytes  int64

	MaxMessageBytes       int64
	Compression           string // producer, uncompressed, gzip, snappy, lz4 or zstd
	GzipLevel             int
	LZ4Level              int
	ZstdLevel             int
	LogAppendTime         bool
	TimestampBeforeMillis int64
	TimestampAfterMillis  int64

	// Local says that acks=all is answered from the leader's journal (varve.durability=local).
	Local                 bool
	MaxUnflushedRecords   int64
	MaxUnflushedBytes     int64
	MaxUnflushedMillis    int64
	UncleanLeaderElection bool

	MinInsyncReplicas         int
	DeleteRetentionMillis     int64
	MinCompactionLagMillis    int64
	MaxCompactionLagMillis    int64
	MinCleanableDirtyRatio    float64
	RemoteStorageEnable       bool
	RemoteLogCopyDisable      bool
	RemoteLogDeleteOnDisable  bool
	SegmentIndexBytes         int64
	SegmentJitterMillis       int64
	IndexIntervalBytes        int64
	Preallocate               bool
	FileDeleteDelayMillis     int64
	FlushMessages             int64
	FlushMillis               int64
	LeaderThrottledReplicas   []string
	FollowerThrottledReplicas []string
}

// Topic resolves what a topic sets over this agent's defaults. A value that its key does not accept, which a newer agent
// may have written, counts as not set.
func (a *Agent) Topic(set map[string]string) Topic {
	r := resolver{agent: a, set: set}
	t := Topic{
		CleanupPolicy:   Split(r.text("cleanup.policy")),
		RetentionMillis: r.int("retention.ms"),
		RetentionBytes:  max(-1, r.int("retention.bytes")),

		LocalRetentionMillis: r.int("local.retention.ms"),
		LocalRetentionBytes:  r.int("local.retention.bytes"),

		SegmentMillis: r.int("segment.ms"),
		SegmentBytes:  r.int("segment.bytes"),

		MaxMessageBytes:       r.int("max.message.bytes"),
		Compression:           r.text("compression.type"),
		GzipLevel:             int(r.int("compression.gzip.level")),
		LZ4Level:              int(r.int("compression.lz4.level")),
		ZstdLevel:             int(r.int("compression.zstd.level")),
		LogAppendTime:         r.text("message.timestamp.type") == "LogAppendTime",
		TimestampBeforeMillis: r.int("message.timestamp.before.max.ms"),
		TimestampAfterMillis:  r.int("message.timestamp.after.max.ms"),

		Local:                 r.text("varve.durability") == "local",
		MaxUnflushedRecords:   r.int("varve.local.max.unflushed.records"),
		MaxUnflushedBytes:     r.int("varve.local.max.unflushed.bytes"),
		MaxUnflushedMillis:    r.int("varve.local.max.unflushed.ms"),
		UncleanLeaderElection: r.bool("unclean.leader.election.enable"),

		MinInsyncReplicas:         int(r.int("min.insync.replicas")),
		DeleteRetentionMillis:     r.int("delete.retention.ms"),
		MinCompactionLagMillis:    r.int("min.compaction.lag.ms"),
		MaxCompactionLagMillis:    r.int("max.compaction.lag.ms"),
		MinCleanableDirtyRatio:    r.float("min.cleanable.dirty.ratio"),
		RemoteStorageEnable:       r.bool("remote.storage.enable"),
		RemoteLogCopyDisable:      r.bool("remote.log.copy.disable"),
		RemoteLogDeleteOnDisable:  r.bool("remote.log.delete.on.disable"),
		SegmentIndexBytes:         r.int("segment.index.bytes"),
		SegmentJitterMillis:       r.int("segment.jitter.ms"),
		IndexIntervalBytes:        r.int("index.interval.bytes"),
		Preallocate:               r.bool("preallocate"),
		FileDeleteDelayMillis:     r.int("file.delete.delay.ms"),
		FlushMessages:             r.int("flush.messages"),
		FlushMillis:               r.int("flush.ms"),
		LeaderThrottledReplicas:   Split(r.text("leader.replication.throttled.replicas")),
		FollowerThrottledReplicas: Split(r.text("follower.replication.throttled.replicas")),
	}
	t.LocalRetentionMillis = within(t.LocalRetentionMillis, t.RetentionMillis)
	t.LocalRetentionBytes = within(t.LocalRetentionBytes, t.RetentionBytes)
	return t
}

// within resolves a local bound: -2 is the whole one, and no local bound is wider than the whole one.
func within(local, whole int64) int64 {
	unlimited := func(v int64) int64 {
		if v == -1 {
			return math.MaxInt64
		}
		return v
	}
	if local == -2 || unlimited(local) > unlimited(whole) {
		return whole
	}
	return local
}

// resolver reads one topic's settings.
type resolver struct {
	agent *Agent
	set   map[string]string
}

func (r resolver) text(name string) string {
	k, ok := TopicKey(name)
	if !ok {
		panic("config: no topic key " + strconv.Quote(name))
	}
	if v, ok := r.set[name]; ok && k.Check(v) == nil {
		return v
	}
	v, _ := r.agent.TopicDefault(k)
	return v
}

// The three below parse what Check has accepted.

func (r resolver) int(name string) int64 {
	v, _ := strconv.ParseInt(r.text(name), 10, 64)
	return v
}

func (r resolver) float(name string) float64 {
	v, _ := strconv.ParseFloat(r.text(name), 64)
	return v
}

func (r resolver) bool(name string) bool { return strings.EqualFold(r.text(name), "true") }
