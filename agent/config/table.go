package config

import (
	"math"
	"strconv"
	"sync"
)

const (
	minLong = math.MinInt64
	maxLong = math.MaxInt64
	maxInt  = math.MaxInt32

	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40

	second = int64(1000) // times are in milliseconds, as in Kafka
	minute = 60 * second
	hour   = 60 * minute
	day    = 24 * hour
)

// The look-ups are built once, on first use, from the tables below, and never written again.
var (
	agentIndex = sync.OnceValue(func() map[string]Key { return index(agentTable()) })
	topicIndex = sync.OnceValue(func() map[string]Key { return index(topicTable()) })
	groupIndex = sync.OnceValue(func() map[string]Key { return index(groupTable()) })
)

func n(v int64) string { return strconv.FormatInt(v, 10) }

// agentTable is every key of an agent, by the page's groups. Where Kafka has the key, name and default are Kafka's.
func agentTable() []Key {
	const (
		identity  = "Identity and places"
		listening = "Listeners and connections"
		topics    = "Topics"
		logs      = "Defaults of topics"
		groups    = "Consumer groups"
		producing = "Produce and flush"
		journal   = "Journal"
		sealing   = "Seal"
		reading   = "Cache and fetch"
		deleting  = "Retention and deletion"
		sessions  = "Session and catalog"
		process   = "Process"
	)
	return []Key{
		{Group: identity, Name: "agent.id", Type: Int, Default: "1", Min: 1, Max: maxInt,
			Doc: "Number of this agent in its cluster, which clients see as the broker's id; two running agents with one number fence each other."},
		{Group: identity, Name: "broker.rack", Type: String,
			Doc: "Zone that this agent runs in; consumers in the same zone may be sent here for sealed history. Empty: no zone."},
		{Group: identity, Name: "data.dir", Type: String, Default: "varve-data", check: notEmpty,
			Doc: "Folder of the journal and the local cache; one running agent owns it."},
		{Group: identity, Name: "metadata.url", Type: String, Sensitive: true, check: checkMetadataURL,
			Doc: "Where the metadata lives: sqlite:PATH for one agent, postgres://USER@HOST/DATABASE for a cluster. Empty: sqlite under data.dir."},
		{Group: identity, Name: "store.url", Type: String, check: checkStoreURL,
			Doc: "Where objects live: s3://BUCKET/PREFIX or minio://BUCKET/PREFIX with ?endpoint=…&region=…&path-style=true, file:///DIR, or memory: for tests. Empty: a folder under data.dir."},
		{Group: identity, Name: "cluster.shards", Type: Int, Default: "16", Min: 1, Max: 1024,
			Doc: "Number of shards that groups are spread over; fixed when the cluster is created, ignored afterwards."},

		{Group: listening, Name: "listeners", Type: List, Default: "PLAINTEXT://127.0.0.1:9092", check: checkListeners,
			Doc: "Addresses to listen on, as NAME://HOST:PORT and separated by commas; port 0 takes a free one."},
		{Group: listening, Name: "advertised.listeners", Type: List, check: checkAdvertised,
			Doc: "Addresses that clients are told to connect to, by the names of listeners. Empty: those of listeners."},
		{Group: listening, Name: "listeners.insecure.allow", Type: Boolean, Default: "false",
			Doc: "Allows listeners without encryption and authentication, http.listen included, on addresses that other machines can reach."},
		{Group: listening, Name: "http.listen", Type: String, Default: "127.0.0.1:8092", check: checkHostPort,
			Doc: "HOST:PORT of health checks, metrics and, on loopback only, profiling; port 0 takes a free one."},
		{Group: listening, Name: "socket.request.max.bytes", Type: Int, Unit: "bytes", Default: n(100 * mib), Min: 64 * kib, Max: maxInt,
			Doc: "Largest request frame that is read; a larger one closes its connection."},
		{Group: listening, Name: "queued.max.request.bytes", Type: Long, Unit: "bytes", Default: n(256 * mib), Min: mib, Max: tib,
			Doc: "Memory for requests that were read and not yet answered; above it connections are not read."},
		{Group: listening, Name: "max.connections", Type: Int, Default: "10000", Min: 1, Max: maxInt,
			Doc: "Connections open at a time on all listeners; one more is closed at once."},
		{Group: listening, Name: "connections.max.idle.ms", Type: Long, Unit: "ms", Default: n(10 * minute), Min: second, Max: 365 * day,
			Doc: "A connection without a request for this long is closed."},

		{Group: topics, Name: "num.partitions", Type: Int, Default: "1", Min: 1, Max: 10_000, Dynamic: true,
			Doc: "Partitions of a topic that is created without a number."},
		{Group: topics, Name: "default.replication.factor", Type: Int, Default: "1", Min: 1, Max: 5, Dynamic: true,
			Doc: "Replication factor that is reported for a topic created without one; the object store keeps the copies."},
		{Group: topics, Name: "auto.create.topics.enable", Type: Boolean, Default: "true", Dynamic: true,
			Doc: "Creates a topic when a client that allows it asks for one by name."},
		{Group: topics, Name: "delete.topic.enable", Type: Boolean, Default: "true",
			Doc: "Allows topics to be deleted."},
		{Group: topics, Name: "max.request.partition.size.limit", Type: Int, Default: "2000", Min: 1, Max: maxInt,
			Doc: "Most partitions on one page of DescribeTopicPartitions."},

		{Group: logs, Name: "log.cleanup.policy", Type: List, Default: "delete", Valid: []string{"delete"}, check: checkCleanup, Dynamic: true,
			Doc: "What happens to old records of a topic."},
		{Group: logs, Name: "log.cleaner.backoff.ms", Type: Long, Unit: "ms", Default: "15000", Min: 0, Max: maxLong, Dynamic: true,
			Inert: noCompaction, Doc: "Time between two looks for logs to compact."},
		{Group: logs, Name: "log.retention.hours", Type: Int, Unit: "hours", Default: "168", Min: -1, Max: maxInt,
			Doc: "How long records are kept unless log.retention.minutes or log.retention.ms says otherwise; -1 keeps them for ever."},
		{Group: logs, Name: "log.retention.minutes", Type: Int, Unit: "minutes", Min: -1, Max: maxInt,
			Doc: "How long records are kept, before log.retention.hours; -1 keeps them for ever. Empty: log.retention.hours holds."},
		{Group: logs, Name: "log.retention.ms", Type: Long, Unit: "ms", Min: -1, Max: maxLong, Dynamic: true,
			Doc: "How long records are kept, before the other two; -1 keeps them for ever. Empty: log.retention.minutes or .hours holds."},
		{Group: logs, Name: "log.retention.bytes", Type: Long, Unit: "bytes", Default: "-1", Min: -1, Max: maxLong, Dynamic: true,
			Doc: "Bytes that a partition keeps before its oldest segments are deleted; -1 sets no limit."},
		{Group: logs, Name: "log.local.retention.ms", Type: Long, Unit: "ms", Default: "-2", Min: -2, Max: maxLong, Dynamic: true,
			Doc: "How long sealed segments also stay on local disk; -2 means as long as retention keeps them, -1 no limit."},
		{Group: logs, Name: "log.local.retention.bytes", Type: Long, Unit: "bytes", Default: "-2", Min: -2, Max: maxLong, Dynamic: true,
			Inert: "cache.disk.bytes bounds what lies on local disk, of all partitions together",
			Doc:   "Bytes of a partition's sealed segments that also stay on local disk; -2 means as many as retention keeps, -1 no limit."},
		{Group: logs, Name: "log.segment.bytes", Type: Int, Unit: "bytes", Default: n(gib), Min: mib, Max: maxInt, Dynamic: true,
			Inert: "segments are cut by seal.object.bytes and log.roll.ms",
			Doc:   "Size of a segment."},
		{Group: logs, Name: "log.roll.hours", Type: Int, Unit: "hours", Default: "168", Min: 1, Max: maxInt,
			Doc: "Age at which unsealed records become a segment however few they are, unless log.roll.ms says otherwise."},
		{Group: logs, Name: "log.roll.ms", Type: Long, Unit: "ms", Min: 1, Max: maxLong, Dynamic: true,
			Doc: "Age at which unsealed records become a segment however few they are. Empty: log.roll.hours holds."},
		{Group: logs, Name: "message.max.bytes", Type: Int, Unit: "bytes", Default: "1048588", Min: 0, Max: 100 * mib, Dynamic: true,
			Doc: "Largest record batch that a topic accepts."},
		{Group: logs, Name: "compression.type", Type: String, Default: "producer", Valid: codecs(), Dynamic: true,
			Doc: "Codec that batches are stored in; producer keeps them as they came."},
		{Group: logs, Name: "log.message.timestamp.type", Type: String, Default: "CreateTime", Valid: timestampTypes(), Dynamic: true,
			Doc: "Whether a record's time is its producer's or that of its append."},
		{Group: logs, Name: "log.message.timestamp.before.max.ms", Type: Long, Unit: "ms", Default: n(maxLong), Min: 0, Max: maxLong, Dynamic: true,
			Doc: "How far a record's time may lie in the past."},
		{Group: logs, Name: "log.message.timestamp.after.max.ms", Type: Long, Unit: "ms", Default: n(hour), Min: 0, Max: maxLong, Dynamic: true,
			Doc: "How far a record's time may lie in the future."},
		{Group: logs, Name: "unclean.leader.election.enable", Type: Boolean, Default: "false", Dynamic: true,
			Doc: "Lets another agent lead a varve.durability=local partition whose journal is away, giving up what was not flushed."},
		{Group: logs, Name: "min.insync.replicas", Type: Int, Default: "1", Min: 1, Max: maxInt, Dynamic: true,
			Inert: "durability is the topic's varve.durability, not a count of replicas",
			Doc:   "Replicas that must hold a record before acks=all is answered."},
		{Group: logs, Name: "log.varve.durability", Type: String, Default: "object", Valid: durabilities(), Dynamic: true,
			Doc: "When acks=all is answered: object once a record is stored and committed, local once it is fsynced on the leader's disk."},
		{Group: logs, Name: "log.varve.local.max.unflushed.records", Type: Long, Unit: "records", Default: n(1 << 20), Min: 1, Max: 1 << 20, Dynamic: true,
			Doc: "Most records of a local partition that may be on the leader's disk alone."},
		{Group: logs, Name: "log.varve.local.max.unflushed.bytes", Type: Long, Unit: "bytes", Default: n(256 * mib), Min: kib, Max: tib, Dynamic: true,
			Doc: "Most bytes of a local partition that may be on the leader's disk alone."},
		{Group: logs, Name: "log.varve.local.max.unflushed.ms", Type: Long, Unit: "ms", Default: n(5 * second), Min: 10, Max: hour, Dynamic: true,
			Doc: "Longest time that a record of a local partition may be on the leader's disk alone."},

		{Group: groups, Name: "group.initial.rebalance.delay.ms", Type: Int, Unit: "ms", Default: n(3 * second), Min: 0, Max: maxInt,
			Doc: "How long an empty group waits for more members before its first rebalance."},
		{Group: groups, Name: "group.min.session.timeout.ms", Type: Int, Unit: "ms", Default: n(6 * second), Min: 1, Max: maxInt,
			Doc: "Shortest session timeout that a member may ask for."},
		{Group: groups, Name: "group.max.session.timeout.ms", Type: Int, Unit: "ms", Default: n(30 * minute), Min: 1, Max: maxInt,
			Doc: "Longest session timeout that a member may ask for."},
		{Group: groups, Name: "group.max.size", Type: Int, Unit: "members", Default: n(maxInt), Min: 1, Max: maxInt,
			Doc: "Most members of one group."},
		{Group: groups, Name: "offsets.retention.minutes", Type: Int, Unit: "minutes", Default: "10080", Min: 1, Max: maxInt,
			Doc: "How long committed offsets outlive their group's last member."},
		{Group: groups, Name: "offsets.retention.check.interval.ms", Type: Long, Unit: "ms", Default: n(10 * minute), Min: 1, Max: day,
			Doc: "How often expired offsets are looked for."},
		{Group: groups, Name: "offset.metadata.max.bytes", Type: Int, Unit: "bytes", Default: "4096", Min: 0, Max: mib,
			Doc: "Longest text that a client may store with a committed offset."},

		{Group: producing, Name: "flush.interval.ms", Type: Long, Unit: "ms", Min: 1, Max: hour,
			Doc: "Least time between the starts of two uploads, so it bounds requests and not latency. Empty: 250 for s3 and minio, 20 for file and memory."},
		{Group: producing, Name: "flush.bytes", Type: Long, Unit: "bytes", Default: n(8 * mib), Min: 64 * kib, Max: 96 * mib,
			Doc: "An upload starts at once when this much waits for it."},
		{Group: producing, Name: "flush.inflight", Type: Int, Default: "8", Min: 1, Max: 16,
			Doc: "Uploads in flight at a time; their commits keep the order."},
		{Group: producing, Name: "produce.buffer.bytes", Type: Long, Unit: "bytes", Default: n(256 * mib), Min: mib, Max: tib,
			Doc: "Memory for records that are not yet stored; when it is full, produce waits."},
		{Group: producing, Name: "produce.wait.ms", Type: Long, Unit: "ms", Default: n(10 * second), Min: 0, Max: 10 * minute,
			Doc: "How long a produce request waits for room before it is refused with an error that clients retry."},
		{Group: producing, Name: "producer.id.expiration.ms", Type: Int, Unit: "ms", Default: n(day), Min: 1, Max: maxInt,
			Doc: "How long an idle idempotent producer's last batches are remembered."},

		{Group: journal, Name: "journal.bytes", Type: Long, Unit: "bytes", Default: n(4 * gib), Min: leastJournal(mib), Max: 64 * tib,
			Doc: "Most disk that the journal takes; when it is full, what waits for it waits for the object store instead."},
		{Group: journal, Name: "journal.file.bytes", Type: Long, Unit: "bytes", Default: n(64 * mib), Min: mib, Max: gib,
			Doc: "Size of one journal file; files are created and zeroed ahead, and recycled."},

		{Group: sealing, Name: "seal.bytes", Type: Long, Unit: "bytes", Default: n(8 * gib), Min: 1, Max: 64 * tib,
			Doc: "Unsealed bytes above which the oldest run of objects is merged into segments."},
		{Group: sealing, Name: "seal.objects", Type: Int, Default: "2048", Min: 1, Max: 1 << 16,
			Doc: "Unsealed objects above which the oldest run is merged."},
		{Group: sealing, Name: "seal.directory.bytes", Type: Long, Unit: "bytes", Default: n(16 * mib), Min: kib, Max: gib,
			Doc: "Bytes of unsealed objects' directories above which the oldest run is merged; a successor reads them all."},
		{Group: sealing, Name: "seal.age.ms", Type: Long, Unit: "ms", Default: n(hour), Min: 1, Max: 365 * day,
			Doc: "Age of the oldest unsealed object above which its run is merged."},
		{Group: sealing, Name: "seal.extent.min.bytes", Type: Long, Unit: "bytes", Default: n(4 * mib), Min: 1, Max: 256 * mib,
			Doc: "A partition with at least this much in a run leaves it as a segment; less goes into a pack."},
		{Group: sealing, Name: "seal.object.bytes", Type: Long, Unit: "bytes", Default: n(256 * mib), Min: 64 * kib, Max: 256 * mib,
			Doc: "Largest sealed object; each is one upload."},
		{Group: sealing, Name: "seal.check.interval.ms", Type: Long, Unit: "ms", Default: n(second), Min: 10, Max: hour,
			Doc: "How often the bounds of seal are compared."},

		{Group: reading, Name: "cache.memory.bytes", Type: Long, Unit: "bytes", Default: n(512 * mib), Min: mib, Max: 64 * tib,
			Doc: "Memory for objects that this agent wrote and has not sealed."},
		{Group: reading, Name: "cache.disk.bytes", Type: Long, Unit: "bytes", Default: n(16 * gib), Min: 0, Max: 1024 * tib,
			Doc: "Disk for copies of objects: the unsealed ones, then the newest segments."},
		{Group: reading, Name: "cache.disk.free.bytes", Type: Long, Unit: "bytes", Default: n(gib), Min: 0, Max: 1024 * tib,
			Doc: "Room on that disk that copies leave free; they go when others take it. 0: they go for nobody."},
		{Group: reading, Name: "cache.cold.bytes", Type: Long, Unit: "bytes", Default: n(256 * mib), Min: 4 * mib, Max: 64 * tib,
			Doc: "Memory for blocks of history that were read from the object store."},
		{Group: reading, Name: "fetch.max.bytes", Type: Int, Unit: "bytes", Default: n(55 * mib), Min: kib, Max: maxInt,
			Doc: "Most bytes of records in one answer to a fetch."},
		{Group: reading, Name: "fetch.cold.concurrency", Type: Int, Default: "64", Min: 1, Max: 4096,
			Doc: "Reads of history from the object store at a time."},
		{Group: reading, Name: "fetch.readahead.bytes", Type: Long, Unit: "bytes", Default: n(128 * mib), Min: 0, Max: gib,
			Doc: "Most bytes that are read ahead for one sequential reader of history."},

		{Group: deleting, Name: "log.retention.check.interval.ms", Type: Long, Unit: "ms", Default: n(5 * minute), Min: 1, Max: day,
			Doc: "How often segments past their retention are looked for."},
		{Group: deleting, Name: "gc.interval.ms", Type: Long, Unit: "ms", Default: n(minute), Min: 10, Max: day,
			Doc: "How often objects that nothing names any more are deleted."},
		{Group: deleting, Name: "gc.grace.ms", Type: Long, Unit: "ms", Default: n(10 * minute), Min: 1, Max: 30 * day,
			Doc: "How long an object outlives its last reference, so that readers in progress end."},
		{Group: deleting, Name: "gc.orphan.grace.ms", Type: Long, Unit: "ms", Default: n(7 * day), Min: 1, Max: 365 * day,
			Doc: "How long an object that was stored but never committed is kept; at least as long as a metadata backup that may be restored."},

		{Group: sessions, Name: "session.ttl.ms", Type: Long, Unit: "ms", Default: n(6 * second), Min: 500, Max: 10 * minute,
			Doc: "An agent whose session stood still for this long may be fenced by another."},
		{Group: sessions, Name: "session.beat.ms", Type: Long, Unit: "ms", Default: n(second), Min: 50, Max: minute,
			Doc: "How often an agent that commits nothing renews its session."},
		{Group: sessions, Name: "catalog.poll.ms", Type: Long, Unit: "ms", Default: n(second), Min: 10, Max: minute,
			Doc: "How often changes that other agents made to topics and configs are looked for."},

		{Group: process, Name: "shutdown.timeout.ms", Type: Long, Unit: "ms", Default: n(30 * second), Min: 0, Max: hour,
			Doc: "Time to drain, flush and release when the agent is told to stop."},
		{Group: process, Name: "log.level", Type: String, Default: "info", Valid: []string{"debug", "info", "warn", "error"},
			Doc: "Least level of the agent's own log lines."},
		{Group: process, Name: "log.format", Type: String, Default: "text", Valid: []string{"text", "json"},
			Doc: "Form of the agent's own log lines, on standard error."},
	}
}

// topicTable is every key of a topic. Names and defaults are Kafka's, but for those under varve.
func topicTable() []Key {
	const (
		retention = "Retention"
		messages  = "Messages"
		durable   = "Durability"
		noEffect  = "Accepted, without effect"
	)
	return []Key{
		{Group: retention, Name: "cleanup.policy", Type: List, Default: "delete", Valid: []string{"delete"}, check: checkCleanup,
			AgentKey: "log.cleanup.policy", Doc: "What happens to old records."},
		{Group: retention, Name: "retention.ms", Type: Long, Unit: "ms", Default: n(7 * day), Min: -1, Max: maxLong,
			AgentKey: "log.retention.ms", Doc: "How long records are kept, by whole segments; -1 keeps them for ever."},
		{Group: retention, Name: "retention.bytes", Type: Long, Unit: "bytes", Default: "-1", Min: minLong, Max: maxLong,
			AgentKey: "log.retention.bytes", Doc: "Bytes that a partition keeps before its oldest segments are deleted; -1 sets no limit."},
		{Group: retention, Name: "local.retention.ms", Type: Long, Unit: "ms", Default: "-2", Min: -2, Max: maxLong,
			AgentKey: "log.local.retention.ms", Doc: "How long sealed segments also stay on local disk, once memory does not hold them; -2 means as long as retention.ms, -1 no limit."},
		{Group: retention, Name: "local.retention.bytes", Type: Long, Unit: "bytes", Default: "-2", Min: -2, Max: maxLong,
			AgentKey: "log.local.retention.bytes", Inert: "cache.disk.bytes bounds what lies on local disk, of all partitions together",
			Doc: "Bytes of sealed segments that also stay on local disk; -2 means as retention.bytes, -1 no limit."},
		{Group: retention, Name: "segment.ms", Type: Long, Unit: "ms", Default: n(7 * day), Min: 1, Max: maxLong,
			AgentKey: "log.roll.ms", Doc: "Age at which unsealed records become a segment however few they are."},

		{Group: messages, Name: "max.message.bytes", Type: Int, Unit: "bytes", Default: "1048588", Min: 0, Max: 100 * mib,
			AgentKey: "message.max.bytes", Doc: "Largest record batch that is accepted."},
		{Group: messages, Name: "compression.type", Type: String, Default: "producer", Valid: codecs(),
			AgentKey: "compression.type", Doc: "Codec that batches are stored in; producer keeps them as they came."},
		{Group: messages, Name: "compression.gzip.level", Type: Int, Default: "-1", Min: -1, Max: 9,
			Doc: "Level for compression.type=gzip; -1 is the codec's own default.", check: gzipLevel},
		{Group: messages, Name: "compression.lz4.level", Type: Int, Default: "9", Min: 1, Max: 17,
			Doc: "Level for compression.type=lz4."},
		{Group: messages, Name: "compression.zstd.level", Type: Int, Default: "3", Min: -131072, Max: 22,
			Doc: "Level for compression.type=zstd."},
		{Group: messages, Name: "message.timestamp.type", Type: String, Default: "CreateTime", Valid: timestampTypes(),
			AgentKey: "log.message.timestamp.type", Doc: "Whether a record's time is its producer's or that of its append."},
		{Group: messages, Name: "message.timestamp.before.max.ms", Type: Long, Unit: "ms", Default: n(maxLong), Min: 0, Max: maxLong,
			AgentKey: "log.message.timestamp.before.max.ms", Doc: "How far a record's time may lie in the past."},
		{Group: messages, Name: "message.timestamp.after.max.ms", Type: Long, Unit: "ms", Default: n(hour), Min: 0, Max: maxLong,
			AgentKey: "log.message.timestamp.after.max.ms", Doc: "How far a record's time may lie in the future."},

		{Group: durable, Name: "varve.durability", Type: String, Default: "object", Valid: durabilities(),
			AgentKey: "log.varve.durability", Doc: "When acks=all is answered: object once a record is stored and committed, local once it is fsynced on the leader's disk."},
		{Group: durable, Name: "varve.local.max.unflushed.records", Type: Long, Unit: "records", Default: n(1 << 20), Min: 1, Max: 1 << 20,
			AgentKey: "log.varve.local.max.unflushed.records", Doc: "With varve.durability=local, most records that may be on the leader's disk alone."},
		{Group: durable, Name: "varve.local.max.unflushed.bytes", Type: Long, Unit: "bytes", Default: n(256 * mib), Min: kib, Max: tib,
			AgentKey: "log.varve.local.max.unflushed.bytes", Doc: "With varve.durability=local, most bytes that may be on the leader's disk alone."},
		{Group: durable, Name: "varve.local.max.unflushed.ms", Type: Long, Unit: "ms", Default: n(5 * second), Min: 10, Max: hour,
			AgentKey: "log.varve.local.max.unflushed.ms", Doc: "With varve.durability=local, longest time that a record may be on the leader's disk alone."},
		{Group: durable, Name: "unclean.leader.election.enable", Type: Boolean, Default: "false",
			AgentKey: "unclean.leader.election.enable", Doc: "Lets another agent lead a varve.durability=local partition whose journal is away, giving up what was not flushed."},

		{Group: noEffect, Name: "min.insync.replicas", Type: Int, Default: "1", Min: 1, Max: maxInt, AgentKey: "min.insync.replicas",
			Inert: "durability is varve.durability, not a count of replicas", Doc: "Replicas that must hold a record before acks=all is answered."},
		{Group: noEffect, Name: "segment.bytes", Type: Int, Unit: "bytes", Default: n(gib), Min: mib, Max: maxInt, AgentKey: "log.segment.bytes",
			Inert: "segments are cut by the agent's seal.object.bytes and by segment.ms", Doc: "Size of a segment."},
		{Group: noEffect, Name: "segment.index.bytes", Type: Int, Unit: "bytes", Default: n(10 * mib), Min: 4, Max: maxInt,
			Inert: "there are no index files", Doc: "Size of a segment's index file."},
		{Group: noEffect, Name: "segment.jitter.ms", Type: Long, Unit: "ms", Default: "0", Min: 0, Max: maxLong,
			Inert: "segments of many partitions are cut together, in one object", Doc: "Spread of segment.ms."},
		{Group: noEffect, Name: "index.interval.bytes", Type: Int, Unit: "bytes", Default: "4096", Min: 0, Max: maxInt,
			Inert: "the object format fixes the density of its index", Doc: "Bytes between two entries of an index file."},
		{Group: noEffect, Name: "preallocate", Type: Boolean, Default: "false",
			Inert: "the journal is always allocated ahead, segments never are files that grow", Doc: "Creates segment files at full size."},
		{Group: noEffect, Name: "file.delete.delay.ms", Type: Long, Unit: "ms", Default: n(minute), Min: 0, Max: maxLong,
			Inert: "deleted objects stay for the agent's gc.grace.ms", Doc: "Time before a deleted segment's file goes."},
		{Group: noEffect, Name: "flush.messages", Type: Long, Unit: "records", Default: n(maxLong), Min: 1, Max: maxLong,
			Inert: "every acknowledgement is durable as varve.durability says", Doc: "Records after which a log is fsynced."},
		{Group: noEffect, Name: "flush.ms", Type: Long, Unit: "ms", Default: n(maxLong), Min: 0, Max: maxLong,
			Inert: "every acknowledgement is durable as varve.durability says", Doc: "Time after which a log is fsynced."},
		{Group: noEffect, Name: "remote.storage.enable", Type: Boolean, Default: "false",
			Inert: "every topic's history lies in the object store", Doc: "Moves old segments to remote storage."},
		{Group: noEffect, Name: "remote.log.copy.disable", Type: Boolean, Default: "false",
			Inert: "every topic's history lies in the object store", Doc: "Stops copying segments to remote storage."},
		{Group: noEffect, Name: "remote.log.delete.on.disable", Type: Boolean, Default: "false",
			Inert: "every topic's history lies in the object store", Doc: "Deletes remote segments when remote storage is disabled."},
		{Group: noEffect, Name: "leader.replication.throttled.replicas", Type: List,
			Inert: "agents do not copy records to each other", Doc: "Replicas whose replication is throttled on the leader."},
		{Group: noEffect, Name: "follower.replication.throttled.replicas", Type: List,
			Inert: "agents do not copy records to each other", Doc: "Replicas whose replication is throttled on the follower."},
		{Group: noEffect, Name: "delete.retention.ms", Type: Long, Unit: "ms", Default: n(day), Min: 0, Max: maxLong,
			Inert: noCompaction, Doc: "How long compaction keeps the mark of a deleted key."},
		{Group: noEffect, Name: "min.compaction.lag.ms", Type: Long, Unit: "ms", Default: "0", Min: 0, Max: maxLong,
			Inert: noCompaction, Doc: "Time that a record is safe from compaction."},
		{Group: noEffect, Name: "max.compaction.lag.ms", Type: Long, Unit: "ms", Default: n(maxLong), Min: 1, Max: maxLong,
			Inert: noCompaction, Doc: "Time after which a record must have been compacted."},
		{Group: noEffect, Name: "min.cleanable.dirty.ratio", Type: Double, Default: "0.5", Min: 0, Max: 1,
			Inert: noCompaction, Doc: "Share of a log that must be new before it is compacted."},
	}
}

// groupTable is every key of a consumer group.
func groupTable() []Key {
	const (
		consumer = "Consumer protocol"
		why      = "this version speaks the classic group protocol, where the client sets it"
	)
	return []Key{
		{Group: consumer, Name: "consumer.session.timeout.ms", Type: Int, Unit: "ms", Default: n(45 * second), Min: 1, Max: maxInt,
			Inert: why, Doc: "Time without a heartbeat after which a member is removed."},
		{Group: consumer, Name: "consumer.heartbeat.interval.ms", Type: Int, Unit: "ms", Default: n(5 * second), Min: 1, Max: maxInt,
			Inert: why, Doc: "Time between two heartbeats of a member."},
	}
}

const noCompaction = "this version does not compact topics"

func codecs() []string {
	return []string{"producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"}
}

func timestampTypes() []string { return []string{"CreateTime", "LogAppendTime"} }

func durabilities() []string { return []string{"object", "local"} }
