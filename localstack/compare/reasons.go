package main

// What an operator is told about the differences.
const (
	explained  = "Varve says what is wrong where Kafka leaves the message empty"
	offered    = "Varve does not offer it yet, and so does not advertise it: clients do without, or say so"
	compaction = "Compaction is not offered yet: what needs it is refused when the topic is created, not ignored"
	noTxn      = "Transactions are not offered yet: the answer is final, so a transactional producer stops at once instead of trying for ever"
	share      = "Share groups, streams groups and client metrics are not offered yet: they have no configs and no coordinator"
	ownKeys    = "Varve has configs of its own, all under varve"
	elr        = "Eligible leader replicas are a feature of Kafka's replication, whose min.insync.replicas it sets for the cluster; Varve's durability does not depend on it"
	stored     = "Records are in the object store, not on replicas: any replication factor up to 5 is accepted and reported, and there is nothing to move"
	noInternal = "Offsets are in the metadata store: there are no internal topics"
	once       = "What is named twice is answered once, so that an answer is never larger than what it is about; clients put answers into a map"
	both       = "Kafka drops one of two entries for a partition without a word, Varve does and answers both"
	crash      = "Kafka fails here with an unexpected exception, and answers UNKNOWN_SERVER_ERROR, hangs up or never answers; Varve gives an answer"
	timeouts   = "A timeout of 0 or less means Varve's default of 30 s, so that what is done is also reported; Kafka does the work and reports a timeout"
	noID       = "What is only validated gets no id: Kafka makes one up and forgets it"
	collide    = "Kafka compares names with topics that are there, not with those of the same request, and makes both"
	dynamic    = "Varve lets this be altered while agents run, Kafka reads it from its file only"
	strict     = "Kafka stores keys for brokers that it does not know, for plug-ins; Varve has none, so an unknown key is a mistake"
	badValue   = "INVALID_CONFIG says better than INVALID_REQUEST that a value is wrong"
	synonyms   = "The default stands under the key that topics inherit from; in Kafka under the coarsest of its three keys"
	unopened   = "Kafka opens every batch and looks at each record; Varve keeps batches as the producer signed them, looks at the header only, and so spends far less CPU. What Kafka would refuse here no client library can write"
	times      = "Varve compares the times that a batch's header states, and so names no single records. A time before 1970 is not stored, except -1 for none"
	trailing   = "Varve refuses bytes that are no whole batch; Kafka cuts them off without a word"
	final      = "A batch of a format that does not exist, or that is longer than it says, is as wrong the next time: Varve's answer is final, Kafka's is retriable"
	emptied    = "Kafka leaves a topic without partitions out of the answer, Varve answers it as it came; no client sends one"
	oldFormat  = "Varve says that the format is too old, Kafka only that the record is invalid; both are final"
	claims     = "Varve refuses attributes that a producer must not set (append time, delete horizon, bits without a meaning); Kafka stores some of them"
	sequences  = "A producer id without an epoch is invalid to Varve; Kafka stores it, and takes an epoch below -1 for a fenced one"
	logStart   = "Varve states the log's start in an error only where the offset is out of range, since there it helps; Kafka states it in errors of Produce and not of Fetch"
	duplicate  = "log_append_time_ms is -1 under CreateTime (KIP-32), for a duplicate too; Kafka answers a duplicate with the time of its producer"
	whole      = "Varve sends whole batches; Kafka may end with the beginning of one, which clients throw away"
	noSession  = "Every fetch is answered with session id 0, so that any agent can answer the next: clients then send full requests (KIP-227)"
	replicas   = "A client that claims to be a broker is refused: brokers do not replicate by fetching"
	deleted    = "Kafka answers with a record that DeleteRecords has removed, Varve with the one that is left"
	tiered     = "Every topic is tiered: what is not yet sealed is what is pending; Kafka answers for topics without remote storage"
	negative   = "A negative epoch means that the client has none; Kafka compares -2 like an epoch"
	noPolicy   = "An empty cleanup.policy is not offered: retention.ms=-1 with retention.bytes=-1 keeps everything"
)

// reasons explain differences. Order counts: the first that fits explains. A reason that explains nothing fails the
// comparison, as a difference without a reason does.
func reasons() []reason {
	return []reason{
		{Field: "*ErrorMessage", Kafka: "null", Varve: "text", Why: explained},
		{Field: "*ErrorMessage", Kafka: `""`, Varve: "text", Why: explained},

		// 1–10: connection and negotiation
		{Case: "1 what ApiVersions lists", Kafka: there, Varve: absent, Why: offered},
		{Case: "1 what ApiVersions lists", Field: "FinalizedFeaturesEpoch", Why: offered},
		{Case: "1 AlterPartitionReassignments", Step: "to where it is", Why: stored},
		{Case: "10 FindCoordinator", Step: "the same twice", Field: "Coordinators[g#2]", Why: once},
		{Case: "10 FindCoordinator", Step: "share", Why: share},
		{Case: "10 FindCoordinator for transactions", Why: noTxn},

		// 11–17: metadata and topics
		{Case: "12 Metadata of what is not there", Step: "the id 0", Why: crash},
		{Case: "14 internal topics", Why: noInternal},
		{Case: "15 *", Step: "only validated", Field: "*TopicID", Why: noID},
		{Case: "15 CreateTopics", Step: "timeout *", Why: timeouts},
		{Case: "15 CreateTopics under illegal names", Step: "two that collide", Why: collide},
		{Case: "15 CreateTopics with configs", Step: "cleanup.policy=", Why: noPolicy},
		{Case: "15 CreateTopics with configs", Step: "compacted*", Why: compaction},
		{Case: "15 CreateTopics with wrong counts", Step: "* replicas", Kafka: "38 *", Varve: "0", Why: stored},
		{Case: "15 what CreateTopics says of configs", Field: "*.Configs[varve.*]", Kafka: absent, Why: ownKeys},
		{Case: "15 what CreateTopics says of configs", Field: "*[min.insync.replicas].Source", Why: elr},
		{Case: "16 CreatePartitions", Step: "to *", Kafka: "-1 *", Varve: "37 *", Why: crash},
		{Case: "16 DeleteTopics", Step: "timeout *", Why: timeouts},

		// 18–19: configs
		{Case: "18 AlterConfigs", Step: "resource twice", Kafka: silent, Why: crash},
		{Case: "18 DescribeConfigs of a broker", Step: "itself", Field: "*.ReadOnly", Varve: "false", Why: dynamic},
		{Case: "18 DescribeConfigs of a broker", Step: "the default", Field: "*[min.insync.replicas]", Why: elr},
		{Case: "18 DescribeConfigs of a broker", Step: "client metrics", Varve: absent, Why: share},
		{Case: "18 DescribeConfigs of a broker", Step: "group", Field: "*[s*]", Varve: absent, Why: share},
		{Case: "18 DescribeConfigs of a topic", Field: "*.Configs[varve.*]", Kafka: absent, Why: ownKeys},
		{Case: "18 DescribeConfigs of a topic", Field: "*[min.insync.replicas].Source", Why: elr},
		{Case: "18 DescribeConfigs of a topic", Step: "synonyms", Field: "*.ConfigSynonyms[log.retention.*]", Why: synonyms},
		{Case: "18 DescribeConfigs of a topic", Step: "twice", Field: "Resources[a#2]", Why: once},
		{Case: "18 IncrementalAlterConfigs", Step: "subtract all of it", Why: noPolicy},
		{Case: "18 IncrementalAlterConfigs", Step: "operation 9", Kafka: "-1 *", Why: crash},
		{Case: "18 IncrementalAlterConfigs of other resources", Step: "*, read only", Varve: "0", Why: dynamic},
		{Case: "18 IncrementalAlterConfigs of other resources", Step: "broker, unknown key", Why: strict},
		{Case: "18 IncrementalAlterConfigs of other resources", Step: "broker, bad value", Varve: "40 *", Why: badValue},

		// 20–24: produce
		{Case: "20 a partition twice", Why: both},
		{Case: "20 batches that are none", Step: "null", Kafka: silent, Why: crash},
		{Case: "20 batches that are none", Step: "a batch and *", Field: "*ErrorCode", Varve: "87 *", Why: trailing},
		{Case: "20 batches that are none", Step: "length too small for its records", Field: "*ErrorCode", Why: final},
		{Case: "20 batches that are none", Step: "magic 1 in a batch", Field: "*ErrorCode", Varve: "43 *", Why: oldFormat},
		{Case: "20 batches that are none", Step: "message format *", Field: "*ErrorCode", Varve: "43 *", Why: oldFormat},
		{Case: "20 batches that are none", Step: "magic *", Field: "*ErrorCode", Varve: "87 *", Why: final},
		{Case: "20 where to", Step: "no partitions", Field: "Topics[a]", Kafka: absent, Why: emptied},
		{Case: "21 a control record", Kafka: "53 *", Why: noTxn},
		{Case: "21 attributes", Kafka: "53 *", Why: noTxn},
		{Case: "21 attributes", Kafka: "-1 *", Why: crash},
		{Case: "21 attributes", Kafka: "0", Varve: "87 *", Why: claims},
		{Case: "21 attributes", Step: "*: what is stored", Why: claims},
		{Case: "21 counts", Step: "says fewer than there are", Field: "*ErrorCode", Varve: "0", Why: unopened},
		{Case: "21 keyless records on a compacted topic", Why: compaction},
		{Case: "21 producer ids and sequences", Field: "*ErrorCode", Varve: "87 *", Why: sequences},
		{Case: "21 records", Field: "*ErrorCode", Varve: "0", Why: unopened},
		{Case: "21 records", Step: "*: what is stored", Why: unopened},
		{Case: "21 times", Field: "*.ErrorRecords[*", Varve: absent, Why: times},
		{Case: "21 times", Step: "-2", Field: "*ErrorCode", Why: times},
		{Case: "2*", Field: "*.LogStartOffset", Kafka: "0", Varve: "-1", Why: logStart},
		{Case: "33 *", Field: "*.LogStartOffset", Kafka: "0", Varve: "-1", Why: logStart},
		{Case: "33 *", Field: "*.LogAppendTime", Varve: "-1", Why: duplicate},

		// 25–31: fetch and offsets
		{Case: "2*", Field: "*.LogStartOffset", Kafka: "-1", Why: logStart},
		{Case: "3*", Field: "*.LogStartOffset", Kafka: "-1", Why: logStart},
		{Case: "25 whole batches", Field: "*.RecordBatches[1]", Varve: absent, Why: whole},
		{Case: "25 whole batches", Kafka: "-1 *", Why: crash},
		{Case: "26 where from", Step: "a topic twice", Why: both},
		{Case: "26 where from", Step: "as a broker", Why: replicas},
		{Case: "27 fetch sessions", Field: "SessionID", Kafka: "<session>", Varve: "0", Why: noSession},
		{Case: "27 fetch sessions", Step: "next, nothing changed", Why: noSession},
		{Case: "28 read_committed without transactions", Step: "isolation level 2", Kafka: "-1 *", Why: crash},
		{Case: "29 ListOffsets, special times", Step: "*: -6", Why: tiered},
		{Case: "29 ListOffsets, special times", Step: "*deleted: -3", Why: deleted},
		{Case: "30 OffsetForLeaderEpoch", Step: "*: -2", Why: negative},
		{Case: "30 leader epochs in requests", Step: "*, -1", Kafka: "74 *", Why: negative},
		{Case: "31 DeleteRecords", Step: "partition twice", Why: both},

		// 33–37: producers
		{Case: "37 *", Varve: "48 *", Why: noTxn},

		// 39–46: groups
		{Case: "39 OffsetFetch of an unknown group", Field: "*#2]", Varve: absent, Why: once},
		{Case: "40 a protocol twice", Kafka: silent, Why: crash},
		{Case: "46 DescribeGroups", Step: "twice", Field: "Groups[g#2]", Why: once},
	}
}
