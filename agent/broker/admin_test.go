package broker

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/config"
	"varve.dev/metadata"
	"varve.dev/metadata/sqlite"
)

// cluster is one agent's table over a real store. It leads what it has reconciled.
type cluster struct {
	*Broker
	self    Self
	store   *lossy
	catalog *catalog.Catalog
	led     map[metadata.PartitionID]bool
	others  []metadata.Pulse
	pipes   *pipes
}

func (c *cluster) Leader(id metadata.PartitionID) (int32, int32, error) {
	if !c.led[id] {
		return metadata.NoAgent, -1, metadata.ErrNotFound
	}
	if id.Partition == 1 && len(c.others) > 0 {
		return c.others[0].Agent, 5, nil
	}
	return c.self.ID, 4, nil
}

func (c *cluster) Agents() []metadata.Pulse { return c.others }

func (c *cluster) Reconcile(context.Context) error {
	c.led = map[metadata.PartitionID]bool{}
	for _, t := range c.catalog.Image().Topics {
		for p := range t.Partitions {
			c.led[metadata.PartitionID{Topic: t.Num, Partition: p}] = true
		}
	}
	return nil
}

// lossy is a store that loses the reply of the next statements after it has executed them.
type lossy struct {
	*sqlite.Store
	lose int
}

func (l *lossy) lost(err error) error {
	if err == nil && l.lose > 0 {
		l.lose--
		return metadata.ErrUnknown
	}
	return err
}

func (l *lossy) CreateTopic(ctx context.Context, t metadata.Topic, target int32) (metadata.Topic, error) {
	made, err := l.Store.CreateTopic(ctx, t, target)
	return made, l.lost(err)
}

func (l *lossy) AddPartitions(ctx context.Context, num int32, from, to int32, target int32) error {
	return l.lost(l.Store.AddPartitions(ctx, num, from, to, target))
}

func (l *lossy) DeleteTopic(ctx context.Context, num int32, grace metadata.Grace) error {
	return l.lost(l.Store.DeleteTopic(ctx, num, grace))
}

func (l *lossy) SetTopicConfig(ctx context.Context, num int32, set map[string]string) error {
	return l.lost(l.Store.SetTopicConfig(ctx, num, set))
}

func newCluster(t testing.TB, settings ...string) *cluster {
	t.Helper()
	base, err := config.Load(nil, nil, settings)
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "m"), sqlite.Config{Readers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if _, err := store.Join(t.Context(), metadata.Cluster{ID: metadata.UUID{1}, Shards: 1, Format: 1}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	c := &cluster{self: Self{ID: 1, Cluster: "AQAAAAAAAAAAAAAAAAAAAA", Rack: "zone-a"}, store: &lossy{Store: store}}
	c.catalog = catalog.New(c.store, base, c.self.ID, log, catalog.Config{})
	if err := c.catalog.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	changes := NewChanges(c.self, c.store, c.catalog, c, log, metadata.Grace{})
	c.Broker = New(c.self, produceStub(),
		Metadata(c.self, c.catalog, c, c, changes),
		SASLHandshake(), SASLAuthenticate(),
		CreateTopics(c, changes), DeleteTopics(changes), CreatePartitions(c, changes),
		DescribeConfigs(c.self, c.catalog), AlterConfigs(c, changes), IncrementalAlterConfigs(c, changes),
		AlterReplicaLogDirs(), AlterPartitionAssignments(c.catalog), ListPartitionReassignments(),
		DescribeCluster(c.self, c), ListConfigResources(c.self, c.catalog, c),
		DescribeTopicPartitions(c.self, c.catalog, c, c),
	)
	c.pipes = start(t, c.Broker)
	return c
}

func (c *cluster) connect(t testing.TB) client { return connect(t, c.pipes) }

// with two more agents, one of which clients of PLAINTEXT cannot reach.
func (c *cluster) grow() {
	c.others = []metadata.Pulse{
		{Agent: 3, Address: "PLAINTEXT://broker3:9092,OTHER://other3:1", Rack: "zone-c"},
		{Agent: 2, Address: "PLAINTEXT://broker2:9092"},
		{Agent: 4, Address: "OTHER://other4:1"},
	}
}

func newTopic(name string, partitions int32, replicas int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, replicas
	for i := 0; i < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], &configs[i+1]
		t.Configs = append(t.Configs, c)
	}
	return t
}

func assigned(name string, replicas ...[]int32) kmsg.CreateTopicsRequestTopic {
	t := newTopic(name, -1, -1)
	for i, r := range replicas {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = int32(i), r
		t.ReplicaAssignment = append(t.ReplicaAssignment, a)
	}
	return t
}

func createRequest(topics ...kmsg.CreateTopicsRequestTopic) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics, req.TimeoutMillis = topics, 5000
	return req
}

func (c *cluster) mustCreate(t testing.TB, topics ...kmsg.CreateTopicsRequestTopic) {
	t.Helper()
	for _, topic := range ask[*kmsg.CreateTopicsResponse](c.connect(t), 7, createRequest(topics...)).Topics {
		if topic.ErrorCode != 0 {
			t.Fatalf("create %s: error %d: %s", topic.Topic, topic.ErrorCode, orNull(topic.ErrorMessage))
		}
	}
}

func orNull(s *string) string {
	if s == nil {
		return "null"
	}
	return *s
}

func wantCode(t *testing.T, what string, got int16, want *kerr.Error) {
	t.Helper()
	if got != want.Code {
		t.Errorf("%s: got error %d (%v), want %s", what, got, kerr.ErrorForCode(got), want.Message)
	}
}

func TestCreateTopicsAnswersLikeKafka(t *testing.T) {
	c := newCluster(t)
	c.grow()
	c.mustCreate(t, newTopic("taken", 1, 1), newTopic("a.b", 1, 1))
	cases := []struct {
		topic kmsg.CreateTopicsRequestTopic
		want  *kerr.Error // nil: created
	}{
		{newTopic("fine", 3, 3), nil},
		{newTopic("defaults", -1, -1), nil},
		{newTopic("five", 1, 5, "cleanup.policy", "delete", "retention.ms", "1000"), nil},
		{assigned("placed", []int32{1, 2}, []int32{2, 3}), nil},
		{newTopic("taken", 1, 1), kerr.TopicAlreadyExists},
		{newTopic("a_b", 1, 1), kerr.InvalidTopicException},
		{newTopic("", 1, 1), kerr.InvalidTopicException},
		{newTopic("..", 1, 1), kerr.InvalidTopicException},
		{newTopic("white space", 1, 1), kerr.InvalidTopicException},
		{newTopic(strings.Repeat("x", 250), 1, 1), kerr.InvalidTopicException},
		{newTopic("none", 0, 1), kerr.InvalidPartitions},
		{newTopic("negative", -2, 1), kerr.InvalidPartitions},
		{newTopic("noreplica", 1, 0), kerr.InvalidReplicationFactor},
		{newTopic("six", 1, 6), kerr.InvalidReplicationFactor},
		{newTopic("unknownkey", 1, 1, "retention.msec", "1"), kerr.InvalidConfig},
		{newTopic("badvalue", 1, 1, "retention.ms", "soon"), kerr.InvalidConfig},
		{newTopic("hidden", 1, 1, catalog.ReplicasKey, "3"), kerr.InvalidConfig},
		{assigned("unknownbroker", []int32{9}), kerr.InvalidReplicaAssignment},
		{assigned("uneven", []int32{1}, []int32{1, 2}), kerr.InvalidReplicaAssignment},
		{assigned("sametwice", []int32{1, 1}), kerr.InvalidReplicaAssignment},
		{newTopic("huge", 10_001, 1), kerr.PolicyViolation},
	}
	both := assigned("both", []int32{1})
	both.NumPartitions = 1
	gap := assigned("gap", []int32{1}, []int32{1})
	gap.ReplicaAssignment[1].Partition = 2
	null := newTopic("null", 1, 1, "retention.ms", "")
	null.Configs[0].Value = nil
	cases = append(cases, []struct {
		topic kmsg.CreateTopicsRequestTopic
		want  *kerr.Error
	}{
		{both, kerr.InvalidRequest}, {gap, kerr.InvalidReplicaAssignment}, {null, kerr.InvalidConfig},
	}...)
	for version := int16(2); version <= 7; version++ {
		for _, tc := range cases {
			for _, dry := range []bool{true, false} {
				topic := tc.topic
				req := createRequest(topic)
				req.ValidateOnly = dry
				resp := ask[*kmsg.CreateTopicsResponse](c.connect(t), version, req)
				if len(resp.Topics) != 1 {
					t.Fatalf("v%d %s: %d answers", version, topic.Topic, len(resp.Topics))
				}
				got := resp.Topics[0]
				if tc.want != nil {
					wantCode(t, fmt.Sprintf("v%d dry %v %s", version, dry, topic.Topic), got.ErrorCode, tc.want)
					continue
				}
				if got.ErrorCode != 0 {
					t.Fatalf("v%d dry %v %s: error %d %s", version, dry, topic.Topic, got.ErrorCode, orNull(got.ErrorMessage))
				}
				if version >= 5 && (len(got.Configs) == 0 || got.NumPartitions < 1 || got.ReplicationFactor < 1) {
					t.Errorf("v%d %s: got %d partitions, %d replicas, %d configs", version, topic.Topic,
						got.NumPartitions, got.ReplicationFactor, len(got.Configs))
				}
				if version >= 7 && !dry == (got.TopicID == [16]byte{}) {
					t.Errorf("v%d dry %v %s: got topic id %v", version, dry, topic.Topic, got.TopicID)
				}
				for _, e := range got.Configs {
					if e.Source < 1 || e.Source > 5 || e.Value == nil {
						t.Errorf("v%d %s: %s has source %d, value %v", version, topic.Topic, e.Name, e.Source, e.Value)
					}
				}
				if made := c.catalog.Image().ByName(topic.Topic); (made != nil) == dry {
					t.Errorf("v%d dry %v: %s exists: %v", version, dry, topic.Topic, made != nil)
				}
				if !dry {
					c.delete(t, topic.Topic)
				}
			}
		}
	}
}

func (c *cluster) delete(t *testing.T, name string) {
	t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: &name}}
	if resp := ask[*kmsg.DeleteTopicsResponse](c.connect(t), 6, req); resp.Topics[0].ErrorCode != 0 {
		t.Fatalf("delete %s: error %d", name, resp.Topics[0].ErrorCode)
	}
}

func TestOneBadTopicDoesNotFailTheOthers(t *testing.T) {
	c := newCluster(t)
	resp := ask[*kmsg.CreateTopicsResponse](c.connect(t), 7, createRequest(
		newTopic("twice", 1, 1), newTopic("good", 2, 3), newTopic("bad name", 1, 1), newTopic("twice", 1, 1),
		newTopic("x.y", 1, 1), newTopic("x_y", 1, 1)))
	got := map[string]int16{}
	for _, topic := range resp.Topics {
		if _, again := got[topic.Topic]; again {
			t.Errorf("%s is answered twice", topic.Topic)
		}
		got[topic.Topic] = topic.ErrorCode
	}
	want := map[string]int16{"twice": 42, "good": 0, "bad name": 17, "x.y": 0, "x_y": 17}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if topic := c.catalog.Image().ByName("good"); topic == nil || topic.Replicas != 3 || topic.Partitions != 2 {
		t.Errorf("got %+v, want two partitions and three replicas", topic)
	}
}

// A create, an addition or a deletion whose reply was lost is one, not two, and not an error.
func TestALostReplyOfTheStoreIsNotSeen(t *testing.T) {
	c := newCluster(t)
	c.store.lose = 1
	c.mustCreate(t, newTopic("t", 1, 1))
	first := c.catalog.Image().ByName("t").ID

	c.store.lose = 1
	parts := kmsg.NewPtrCreatePartitionsRequest()
	parts.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: "t", Count: 4}}
	if resp := ask[*kmsg.CreatePartitionsResponse](c.connect(t), 3, parts); resp.Topics[0].ErrorCode != 0 {
		t.Errorf("add partitions: error %d %s", resp.Topics[0].ErrorCode, orNull(resp.Topics[0].ErrorMessage))
	}
	if topic := c.catalog.Image().ByName("t"); topic.Partitions != 4 || topic.ID != first {
		t.Errorf("got %d partitions", topic.Partitions)
	}
	c.store.lose = 1
	c.delete(t, "t")
	if c.catalog.Image().ByName("t") != nil || c.store.lose != 0 {
		t.Error("the topic is still there, or nothing was lost")
	}
}

func metadataRequest(create bool, topics ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = create
	for _, name := range topics {
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = &name
		req.Topics = append(req.Topics, topic)
	}
	return req
}

func TestMetadataInEveryVersion(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(t, newTopic("b", 2, 3), newTopic("a", 1, 1))
	for version := range int16(14) {
		all := metadataRequest(false)
		if version == 0 {
			all.Topics = []kmsg.MetadataRequestTopic{}
		}
		resp := ask[*kmsg.MetadataResponse](c.connect(t), version, all)
		if len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 1 || resp.Brokers[0].Host != "broker1" || resp.Brokers[0].Port != 9092 {
			t.Errorf("v%d: got brokers %+v", version, resp.Brokers)
		}
		if version >= 1 && (resp.ControllerID != 1 || orNull(resp.Brokers[0].Rack) != "zone-a") {
			t.Errorf("v%d: got controller %d, rack %s", version, resp.ControllerID, orNull(resp.Brokers[0].Rack))
		}
		if version >= 2 && orNull(resp.ClusterID) != c.self.Cluster {
			t.Errorf("v%d: got cluster %v", version, resp.ClusterID)
		}
		if len(resp.Topics) != 2 || orNull(resp.Topics[0].Topic) != "a" || len(resp.Topics[1].Partitions) != 2 {
			t.Fatalf("v%d: got topics %+v", version, resp.Topics)
		}
		for _, p := range resp.Topics[1].Partitions {
			if p.ErrorCode != 0 || p.Leader != 1 || !slices.Equal(p.Replicas, []int32{1}) || !slices.Equal(p.ISR, []int32{1}) || len(p.OfflineReplicas) != 0 {
				t.Errorf("v%d: got partition %+v, want the leader alone", version, p)
			}
			if version >= 7 && p.LeaderEpoch != 4 {
				t.Errorf("v%d: got epoch %d", version, p.LeaderEpoch)
			}
		}
		if version >= 8 && (resp.Topics[0].AuthorizedOperations != noOperations || version <= 10 && resp.AuthorizedOperations != noOperations) {
			t.Errorf("v%d: operations that were not asked for: %d %d", version, resp.Topics[0].AuthorizedOperations, resp.AuthorizedOperations)
		}
		if version >= 1 {
			none := metadataRequest(false)
			none.Topics = []kmsg.MetadataRequestTopic{}
			if resp := ask[*kmsg.MetadataResponse](c.connect(t), version, none); len(resp.Topics) != 0 {
				t.Errorf("v%d: an empty list got %d topics", version, len(resp.Topics))
			}
		}
		named := ask[*kmsg.MetadataResponse](c.connect(t), version, metadataRequest(false, "b", "b", "nope!", "b"))
		if len(named.Topics) != 2 || named.Topics[0].ErrorCode != 0 {
			t.Errorf("v%d: got %d topics for two names, one of them three times", version, len(named.Topics))
		}
		wantCode(t, "illegal name", named.Topics[1].ErrorCode, kerr.InvalidTopicException)
	}
}

func TestMetadataByID(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(t, newTopic("a", 1, 1))
	byID := func(id metadata.UUID) kmsg.MetadataRequestTopic {
		topic := kmsg.NewMetadataRequestTopic()
		topic.TopicID = id
		return topic
	}
	id := c.catalog.Image().ByName("a").ID
	req := metadataRequest(true)
	req.Topics = []kmsg.MetadataRequestTopic{byID(id), byID(metadata.UUID{9}), byID(id)}
	for _, version := range []int16{12, 13} {
		resp := ask[*kmsg.MetadataResponse](c.connect(t), version, req)
		if len(resp.Topics) != 2 {
			t.Fatalf("v%d: got %d topics", version, len(resp.Topics))
		}
		found, lost := resp.Topics[0], resp.Topics[1]
		if found.ErrorCode != 0 || orNull(found.Topic) != "a" || lost.Topic != nil || lost.TopicID != (metadata.UUID{9}) {
			t.Errorf("v%d: got %+v, %+v", version, found, lost)
		}
		wantCode(t, "unknown id", resp.Topics[1].ErrorCode, kerr.UnknownTopicID)
	}
	req.Topics = append(req.Topics[:1], metadataRequest(true, "a").Topics...)
	if resp := ask[*kmsg.MetadataResponse](c.connect(t), 12, req); len(resp.Topics) != 1 {
		t.Errorf("an id and a name: got %d topics, want the one of the id", len(resp.Topics))
	}
	for _, early := range ask[*kmsg.MetadataResponse](c.connect(t), 10, req).Topics {
		wantCode(t, "v10 has ids in answers only", early.ErrorCode, kerr.InvalidRequest)
	}
}

func TestATopicIsCreatedOnDemandOnlyWhereAllowed(t *testing.T) {
	for _, tc := range []struct {
		name    string
		setting string
		req     *kmsg.MetadataRequest
		version int16
		created bool
	}{
		{"named and allowed", "auto.create.topics.enable=true", metadataRequest(true, "wish"), 4, true},
		{"old clients always allow it", "auto.create.topics.enable=true", metadataRequest(false, "wish"), 3, true},
		{"not allowed by the client", "auto.create.topics.enable=true", metadataRequest(false, "wish"), 4, false},
		{"not allowed by the agent", "auto.create.topics.enable=false", metadataRequest(true, "wish"), 4, false},
		{"illegal name", "auto.create.topics.enable=true", metadataRequest(true, "a wish"), 4, false},
		{"all topics", "auto.create.topics.enable=true", metadataRequest(true), 4, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, tc.setting, "num.partitions=7", "default.replication.factor=2")
			resp := ask[*kmsg.MetadataResponse](c.connect(t), tc.version, tc.req)
			for _, topic := range resp.Topics {
				if code := topic.ErrorCode; code != kerr.UnknownTopicOrPartition.Code && code != kerr.InvalidTopicException.Code {
					t.Errorf("the first answer has error %d, want 3 or 17", code)
				}
			}
			if got := len(c.catalog.Image().Topics); got != map[bool]int{true: 1}[tc.created] {
				t.Fatalf("got %d topics", got)
			}
			if !tc.created {
				return
			}
			again := ask[*kmsg.MetadataResponse](c.connect(t), tc.version, tc.req).Topics[0]
			if again.ErrorCode != 0 || len(again.Partitions) != 7 || c.catalog.Image().ByName("wish").Replicas != 2 {
				t.Errorf("got error %d and %d partitions the second time", again.ErrorCode, len(again.Partitions))
			}
		})
	}
}

func TestReplicasAreTheLeaderAndItsNeighbours(t *testing.T) {
	c := newCluster(t)
	c.grow()
	c.mustCreate(t, newTopic("t", 3, 2), newTopic("u", 1, 5))
	delete(c.led, metadata.PartitionID{Topic: c.catalog.Image().ByName("t").Num, Partition: 2})
	resp := ask[*kmsg.MetadataResponse](c.connect(t), 12, metadataRequest(false, "t", "u"))
	var ids []int32
	for _, b := range resp.Brokers {
		ids = append(ids, b.NodeID)
	}
	if !slices.Equal(ids, []int32{1, 2, 3}) || resp.Brokers[2].Host != "broker3" {
		t.Errorf("got brokers %+v, want those that this listener's clients can reach", resp.Brokers)
	}
	ps := resp.Topics[0].Partitions
	if !slices.Equal(ps[0].Replicas, []int32{1, 2}) || ps[1].Leader != 3 || !slices.Equal(ps[1].ISR, []int32{3, 1}) {
		t.Errorf("got %+v", ps)
	}
	wantCode(t, "no leader", ps[2].ErrorCode, kerr.LeaderNotAvailable)
	if ps[2].Leader != -1 || ps[2].LeaderEpoch != -1 || len(ps[2].Replicas) != 2 {
		t.Errorf("got %+v for a partition without leader", ps[2])
	}
	if got := resp.Topics[1].Partitions[0].Replicas; len(got) != 3 {
		t.Errorf("got replicas %v of a topic that asked for five among three", got)
	}
}

func TestDeleteTopicsByNameAndByID(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(t, newTopic("a", 1, 1), newTopic("b", 1, 1), newTopic("c", 1, 1))
	old := kmsg.NewPtrDeleteTopicsRequest()
	old.TopicNames = []string{"a", "nope", "a"}
	resp := ask[*kmsg.DeleteTopicsResponse](c.connect(t), 5, old)
	if len(resp.Topics) != 2 || c.catalog.Image().ByName("a") == nil {
		t.Fatalf("got %+v, want two answers, and a topic that was named twice still there", resp.Topics)
	}
	wantCode(t, "named twice", resp.Topics[0].ErrorCode, kerr.InvalidRequest)
	wantCode(t, "unknown name", resp.Topics[1].ErrorCode, kerr.UnknownTopicOrPartition)
	old.TopicNames = []string{"a"}
	if code := ask[*kmsg.DeleteTopicsResponse](c.connect(t), 5, old).Topics[0].ErrorCode; code != 0 {
		t.Errorf("a topic that is named once: got error %d", code)
	}

	b := c.catalog.Image().ByName("b").ID
	name := "c"
	byID := kmsg.NewPtrDeleteTopicsRequest()
	byID.Topics = []kmsg.DeleteTopicsRequestTopic{{TopicID: b}, {TopicID: metadata.UUID{9}}, {Topic: &name, TopicID: b}, {}}
	resp = ask[*kmsg.DeleteTopicsResponse](c.connect(t), 6, byID)
	if got := resp.Topics[0]; got.ErrorCode != 0 || orNull(got.Topic) != "b" || got.TopicID != b {
		t.Errorf("got %+v, want name and id of the deleted topic", got)
	}
	wantCode(t, "unknown id", resp.Topics[1].ErrorCode, kerr.UnknownTopicID)
	wantCode(t, "both", resp.Topics[2].ErrorCode, kerr.InvalidRequest)
	wantCode(t, "neither", resp.Topics[3].ErrorCode, kerr.InvalidRequest)

	c.mustCreate(t, newTopic("b", 1, 1))
	if c.catalog.Image().ByName("b").ID == b {
		t.Error("a topic that was made again has its old id")
	}

	kept := newCluster(t, "delete.topic.enable=false")
	kept.mustCreate(t, newTopic("a", 1, 1))
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TopicNames = []string{"a"}
	wantCode(t, "disabled", ask[*kmsg.DeleteTopicsResponse](kept.connect(t), 4, req).Topics[0].ErrorCode, kerr.TopicDeletionDisabled)
	wantCode(t, "disabled, v1", ask[*kmsg.DeleteTopicsResponse](kept.connect(t), 1, req).Topics[0].ErrorCode, kerr.InvalidRequest)
}

func TestCreatePartitionsOnlyGrows(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(t, newTopic("t", 3, 1), newTopic("u", 1, 1))
	grow := func(name string, count int32, dry bool, assignment ...[]int32) *kmsg.CreatePartitionsResponse {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.ValidateOnly = dry
		topic := kmsg.NewCreatePartitionsRequestTopic()
		topic.Topic, topic.Count = name, count
		for _, a := range assignment {
			topic.Assignment = append(topic.Assignment, kmsg.CreatePartitionsRequestTopicAssignment{Replicas: a})
		}
		req.Topics = append(req.Topics, topic)
		return ask[*kmsg.CreatePartitionsResponse](c.connect(t), 3, req)
	}
	for _, tc := range []struct {
		name       string
		count      int32
		assignment [][]int32
		want       *kerr.Error
	}{
		{"t", 2, nil, kerr.InvalidPartitions}, {"t", 3, nil, kerr.InvalidPartitions}, {"t", -1, nil, kerr.InvalidPartitions},
		{"t", 2_000_000_000, nil, kerr.InvalidPartitions},
		{"nope", 2, nil, kerr.UnknownTopicOrPartition},
		{"t", 5, [][]int32{{1}}, kerr.InvalidReplicaAssignment}, {"t", 4, [][]int32{{9}}, kerr.InvalidReplicaAssignment},
	} {
		resp := grow(tc.name, tc.count, false, tc.assignment...)
		if len(resp.Topics) != 1 || resp.Topics[0].Topic != tc.name || resp.Topics[0].ErrorMessage == nil {
			t.Fatalf("%s to %d: got %+v", tc.name, tc.count, resp.Topics)
		}
		wantCode(t, fmt.Sprintf("%s to %d", tc.name, tc.count), resp.Topics[0].ErrorCode, tc.want)
	}
	if resp := grow("t", 5, true); resp.Topics[0].ErrorCode != 0 || c.catalog.Image().ByName("t").Partitions != 3 {
		t.Errorf("validate_only: error %d, %d partitions", resp.Topics[0].ErrorCode, c.catalog.Image().ByName("t").Partitions)
	}
	if resp := grow("t", 5, false, []int32{1}, []int32{1}); resp.Topics[0].ErrorCode != 0 || c.catalog.Image().ByName("t").Partitions != 5 {
		t.Errorf("error %d, %d partitions, want 5", resp.Topics[0].ErrorCode, c.catalog.Image().ByName("t").Partitions)
	}
	if !c.led[metadata.PartitionID{Topic: c.catalog.Image().ByName("t").Num, Partition: 4}] {
		t.Error("nobody was told to lead the new partitions")
	}
}

func describeRequest(kind kmsg.ConfigResourceType, name string, keys ...string) *kmsg.DescribeConfigsRequest {
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.IncludeSynonyms, req.IncludeDocumentation = true, true
	req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name, ConfigNames: keys}}
	return req
}

func (c *cluster) describe(t testing.TB, kind kmsg.ConfigResourceType, name string, keys ...string) kmsg.DescribeConfigsResponseResource {
	t.Helper()
	resp := ask[*kmsg.DescribeConfigsResponse](c.connect(t), 4, describeRequest(kind, name, keys...))
	if len(resp.Resources) != 1 {
		t.Fatalf("got %d resources", len(resp.Resources))
	}
	return resp.Resources[0]
}

// entryOf writes a described key as one line: value, source, then synonyms.
func entryOf(r kmsg.DescribeConfigsResponseResource, key string) string {
	for _, e := range r.Configs {
		if e.Name != key {
			continue
		}
		s := fmt.Sprintf("%s(%d)", orNull(e.Value), e.Source)
		for _, y := range e.ConfigSynonyms {
			s += fmt.Sprintf(" %s=%s(%d)", y.Name, orNull(y.Value), y.Source)
		}
		return s
	}
	return "absent"
}

func TestDescribeConfigsShowsEveryKeyAndWhereItsValueIsFrom(t *testing.T) {
	c := newCluster(t, "log.retention.ms=5000")
	c.mustCreate(t, newTopic("t", 1, 3, "retention.bytes", "77"))
	store := c.store.Store
	if err := store.SetBrokerConfig(t.Context(), metadata.NoAgent, map[string]string{"num.partitions": "8"}); err != nil {
		t.Fatal(err)
	}
	if err := store.SetBrokerConfig(t.Context(), 1, map[string]string{"num.partitions": "9"}); err != nil {
		t.Fatal(err)
	}
	if err := c.catalog.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	topic := c.describe(t, kmsg.ConfigResourceTypeTopic, "t")
	if len(topic.Configs) != len(config.TopicKeys()) {
		t.Errorf("got %d topic keys, want all %d", len(topic.Configs), len(config.TopicKeys()))
	}
	for key, want := range map[string]string{
		"retention.bytes":      "77(1) retention.bytes=77(1) log.retention.bytes=-1(5)",
		"retention.ms":         "5000(4) log.retention.ms=5000(4) log.retention.ms=(5)",
		"index.interval.bytes": "4096(5) index.interval.bytes=4096(5)",
		catalog.ReplicasKey:    "absent",
	} {
		if got := entryOf(topic, key); got != want {
			t.Errorf("%s: got %s, want %s", key, got, want)
		}
	}
	for _, e := range topic.Configs {
		if e.ConfigType == 0 || orNull(e.Documentation) == "null" || e.Value == nil && !e.IsSensitive {
			t.Errorf("%s: type %d, documentation %v, value %v", e.Name, e.ConfigType, e.Documentation != nil, e.Value)
		}
	}
	agent := c.describe(t, kmsg.ConfigResourceTypeBroker, "1")
	if got, want := entryOf(agent, "num.partitions"), "9(2) num.partitions=9(2) num.partitions=8(3) num.partitions=1(5)"; got != want {
		t.Errorf("num.partitions: got %s, want %s", got, want)
	}
	for _, e := range agent.Configs {
		k, _ := config.AgentKey(e.Name)
		if e.ReadOnly == k.Dynamic || k.Sensitive != (e.Value == nil) {
			t.Errorf("%s: read-only %v, value shown %v", e.Name, e.ReadOnly, e.Value != nil)
		}
	}
	all := c.describe(t, kmsg.ConfigResourceTypeBroker, "")
	if len(all.Configs) != 1 || entryOf(all, "num.partitions") != "8(3) num.partitions=8(3)" {
		t.Errorf("got %+v for the default of all brokers", all.Configs)
	}
	if got := c.describe(t, kmsg.ConfigResourceTypeTopic, "t", "retention.ms", "nope"); len(got.Configs) != 1 {
		t.Errorf("got %d keys of one that was named", len(got.Configs))
	}
	if got := c.describe(t, kmsg.ConfigResourceTypeGroupConfig, "g"); len(got.Configs) != len(config.GroupKeys()) {
		t.Errorf("got %d group keys", len(got.Configs))
	}
	for _, tc := range []struct {
		kind kmsg.ConfigResourceType
		name string
		want *kerr.Error
	}{
		{kmsg.ConfigResourceTypeTopic, "nope", kerr.UnknownTopicOrPartition},
		{kmsg.ConfigResourceTypeTopic, "no pe", kerr.InvalidTopicException},
		{kmsg.ConfigResourceTypeBroker, "2", kerr.InvalidRequest},
		{kmsg.ConfigResourceTypeGroupConfig, "", kerr.InvalidRequest},
		{kmsg.ConfigResourceTypeClientMetrics, "", kerr.InvalidRequest},
		{kmsg.ConfigResourceTypeBrokerLogger, "7", kerr.InvalidRequest},
		{99, "x", kerr.InvalidRequest},
	} {
		wantCode(t, fmt.Sprintf("describe %d %q", tc.kind, tc.name), c.describe(t, tc.kind, tc.name).ErrorCode, tc.want)
	}
	for version := int16(1); version <= 4; version++ {
		resp := ask[*kmsg.DescribeConfigsResponse](c.connect(t), version, describeRequest(kmsg.ConfigResourceTypeTopic, "t"))
		if got := entryOf(resp.Resources[0], "retention.bytes"); !strings.HasPrefix(got, "77(1) retention.bytes=77(1)") {
			t.Errorf("v%d: got %s", version, got)
		}
	}
}

type op = kmsg.IncrementalAlterConfigsRequestResourceConfig

func set(name, value string) op { return op{Name: name, Value: &value} }

func with(o op, kind kmsg.IncrementalAlterConfigOp) op {
	o.Op = kind
	return o
}

func (c *cluster) alter(t *testing.T, kind kmsg.ConfigResourceType, name string, ops ...op) int16 {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kind, ResourceName: name, Configs: ops}}
	resp := ask[*kmsg.IncrementalAlterConfigsResponse](c.connect(t), 1, req)
	if len(resp.Resources) != 1 || resp.Resources[0].ResourceName != name || resp.Resources[0].ResourceType != kind {
		t.Fatalf("got %+v", resp.Resources)
	}
	return resp.Resources[0].ErrorCode
}

func TestIncrementalAlterConfigs(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(t, newTopic("t", 1, 4, "retention.ms", "1000"))
	const topic = kmsg.ConfigResourceTypeTopic
	const throttled = "leader.replication.throttled.replicas" // a list of any words
	ok := func(ops ...op) {
		t.Helper()
		if code := c.alter(t, topic, "t", ops...); code != 0 {
			t.Fatalf("got error %d", code)
		}
	}
	want := func(want map[string]string) {
		t.Helper()
		want[catalog.ReplicasKey] = "4"
		if d := cmp.Diff(want, c.catalog.Image().ByName("t").Config); d != "" {
			t.Error(d)
		}
	}
	ok(set("retention.bytes", "5"), set(throttled, "0:1"))
	want(map[string]string{"retention.ms": "1000", "retention.bytes": "5", throttled: "0:1"})
	ok(with(set("retention.ms", ""), kmsg.IncrementalAlterConfigOpDelete), with(set(throttled, "0:2,0:1"), kmsg.IncrementalAlterConfigOpAppend))
	want(map[string]string{"retention.bytes": "5", throttled: "0:1,0:2"})
	ok(with(set(throttled, "0:1,0:9"), kmsg.IncrementalAlterConfigOpSubtract))
	want(map[string]string{"retention.bytes": "5", throttled: "0:2"})
	ok(with(op{Name: "retention.ms"}, kmsg.IncrementalAlterConfigOpDelete)) // not set: nothing to do
	if got := c.catalog.Image().ByName("t").Settings.RetentionBytes; got != 5 {
		t.Errorf("the image resolves retention.bytes to %d", got)
	}

	c.store.lose = 1
	ok(set("retention.bytes", "6"))
	want(map[string]string{"retention.bytes": "6", throttled: "0:2"})

	for _, tc := range []struct {
		what string
		kind kmsg.ConfigResourceType
		name string
		ops  []op
		want *kerr.Error
	}{
		{"append to what is no list", topic, "t", []op{with(set("retention.ms", "1"), kmsg.IncrementalAlterConfigOpAppend)}, kerr.InvalidConfig},
		{"unknown key", topic, "t", []op{set("nope", "1")}, kerr.InvalidConfig},
		{"bad value", topic, "t", []op{set("retention.ms", "soon")}, kerr.InvalidConfig},
		{"null", topic, "t", []op{{Name: "retention.ms"}}, kerr.InvalidRequest},
		{"one key twice", topic, "t", []op{set("retention.ms", "1"), set("retention.ms", "2")}, kerr.InvalidRequest},
		{"unknown operation", topic, "t", []op{with(set("retention.ms", "1"), 9)}, kerr.InvalidRequest},
		{"good and bad together", topic, "t", []op{set("retention.bytes", "9"), set("nope", "1")}, kerr.InvalidConfig},
		{"unknown topic", topic, "nope", []op{set("retention.ms", "1")}, kerr.UnknownTopicOrPartition},
		{"a key that is not dynamic", kmsg.ConfigResourceTypeBroker, "1", []op{set("listeners", "x")}, kerr.InvalidRequest},
		{"a broker that is not there", kmsg.ConfigResourceTypeBroker, "7", []op{set("num.partitions", "2")}, kerr.InvalidRequest},
		{"loggers", kmsg.ConfigResourceTypeBrokerLogger, "1", nil, kerr.InvalidRequest},
		{"client metrics", kmsg.ConfigResourceTypeClientMetrics, "x", nil, kerr.InvalidRequest},
		{"unknown type", 99, "x", nil, kerr.InvalidRequest},
	} {
		wantCode(t, tc.what, c.alter(t, tc.kind, tc.name, tc.ops...), tc.want)
	}
	for _, nothing := range []string{"nope", catalog.ReplicasKey} { // as in Kafka: nothing is set under this name
		if code := c.alter(t, topic, "t", with(set(nothing, ""), kmsg.IncrementalAlterConfigOpDelete)); code != 0 {
			t.Errorf("delete %s: got error %d", nothing, code)
		}
	}
	want(map[string]string{"retention.bytes": "6", throttled: "0:2"})

	if code := c.alter(t, kmsg.ConfigResourceTypeBroker, "", set("num.partitions", "3")); code != 0 {
		t.Errorf("default of all brokers: error %d", code)
	}
	if code := c.alter(t, kmsg.ConfigResourceTypeBroker, "1", set("num.partitions", "4")); code != 0 {
		t.Errorf("broker 1: error %d", code)
	}
	if got := c.catalog.Image().Agent.Int("num.partitions"); got != 4 {
		t.Errorf("num.partitions is %d in force, want 4", got)
	}
	if code := c.alter(t, kmsg.ConfigResourceTypeGroupConfig, "g", set("consumer.session.timeout.ms", "50000")); code != 0 {
		t.Errorf("group: error %d", code)
	}
	if got := entryOf(c.describe(t, kmsg.ConfigResourceTypeGroupConfig, "g"), "consumer.session.timeout.ms"); !strings.HasPrefix(got, "50000(8)") {
		t.Errorf("got %s", got)
	}

	twice := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.IncrementalAlterConfigsRequestResource{ResourceType: topic, ResourceName: "t", Configs: []op{set("retention.ms", "1")}}
	twice.Resources = []kmsg.IncrementalAlterConfigsRequestResource{r, r}
	for _, out := range ask[*kmsg.IncrementalAlterConfigsResponse](c.connect(t), 0, twice).Resources {
		wantCode(t, "one resource twice", out.ErrorCode, kerr.InvalidRequest)
	}
	dry := kmsg.NewPtrIncrementalAlterConfigsRequest()
	dry.ValidateOnly = true
	dry.Resources = twice.Resources[:1]
	if out := ask[*kmsg.IncrementalAlterConfigsResponse](c.connect(t), 0, dry).Resources[0]; out.ErrorCode != 0 {
		t.Errorf("validate_only: error %d", out.ErrorCode)
	}
	want(map[string]string{"retention.bytes": "6", throttled: "0:2"})
}

func TestAlterConfigsReplacesWhatIsSet(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(t, newTopic("t", 1, 4, "retention.ms", "1000", "retention.bytes", "5"))
	for version := range int16(3) {
		value := fmt.Sprint(100 + version)
		req := kmsg.NewPtrAlterConfigsRequest()
		req.Resources = []kmsg.AlterConfigsRequestResource{{
			ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t",
			Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: "segment.ms", Value: &value}},
		}}
		if resp := ask[*kmsg.AlterConfigsResponse](c.connect(t), version, req); resp.Resources[0].ErrorCode != 0 {
			t.Fatalf("v%d: error %d", version, resp.Resources[0].ErrorCode)
		}
		if d := cmp.Diff(map[string]string{"segment.ms": value, catalog.ReplicasKey: "4"}, c.catalog.Image().ByName("t").Config); d != "" {
			t.Errorf("v%d: %s", version, d)
		}
	}
}

func TestDescribeTopicPartitionsInPages(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(t, newTopic("b", 5, 1), newTopic("a", 3, 1), newTopic("c", 2, 1))
	var (
		got    []string
		cursor *kmsg.DescribeTopicPartitionsRequestCursor
	)
	for page := range 10 {
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.ResponsePartitionLimit, req.Cursor = 4, cursor
		if page > 5 {
			t.Fatal("the pages do not end")
		}
		resp := ask[*kmsg.DescribeTopicPartitionsResponse](c.connect(t), 0, req)
		n := 0
		for _, topic := range resp.Topics {
			if topic.ErrorCode != 0 {
				t.Fatalf("got %+v", topic)
			}
			for _, p := range topic.Partitions {
				got = append(got, fmt.Sprintf("%s%d", *topic.Topic, p.Partition))
				n++
			}
		}
		if n > 4 {
			t.Errorf("page of %d partitions, want at most 4", n)
		}
		if resp.NextCursor == nil {
			break
		}
		cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: resp.NextCursor.Topic, Partition: resp.NextCursor.Partition}
	}
	if want := "a0 a1 a2 b0 b1 b2 b3 b4 c0 c1"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	req.ResponsePartitionLimit = 100
	req.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "nope"}, {Topic: "a"}, {Topic: "a"}}
	req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "a", Partition: 1}
	resp := ask[*kmsg.DescribeTopicPartitionsResponse](c.connect(t), 0, req)
	if len(resp.Topics) != 2 || len(resp.Topics[0].Partitions) != 2 || resp.NextCursor != nil {
		t.Fatalf("got %+v", resp.Topics)
	}
	wantCode(t, "unknown topic", resp.Topics[1].ErrorCode, kerr.UnknownTopicOrPartition)
	req.Cursor.Partition = 1<<31 - 1
	if resp := ask[*kmsg.DescribeTopicPartitionsResponse](c.connect(t), 0, req); len(resp.Topics[0].Partitions) != 0 || resp.NextCursor != nil {
		t.Errorf("a cursor behind the end got %+v, next %+v", resp.Topics, resp.NextCursor)
	}
	for _, cursor := range []kmsg.DescribeTopicPartitionsRequestCursor{{Topic: "a", Partition: -1}, {Topic: "not asked for"}} {
		req.Cursor = &cursor
		for _, refused := range ask[*kmsg.DescribeTopicPartitionsResponse](c.connect(t), 0, req).Topics {
			wantCode(t, "a cursor that points nowhere", refused.ErrorCode, kerr.InvalidRequest)
		}
	}
}

// Java dies of null where the schema allows it, and kmsg reads null and empty alike: so this looks at what is encoded.
func TestNoListIsNull(t *testing.T) {
	c := newCluster(t)
	topic := &catalog.Topic{Topic: metadata.Topic{Name: "t", Partitions: 1}, Replicas: 1}
	where := placement{leaders: c, nodes: []node{{id: 1}}}
	p := describePaged(topic, where, 0, 1).Partitions[0]
	lists := map[string][]int32{
		"Replicas": p.Replicas, "ISR": p.ISR, "EligibleLeaderReplicas": p.EligibleLeaderReplicas,
		"LastKnownELR": p.LastKnownELR, "OfflineReplicas": p.OfflineReplicas,
	}
	for name, list := range lists {
		if list == nil {
			t.Errorf("DescribeTopicPartitions: %s is null", name)
		}
	}
	if absentPaged("t").Partitions == nil || describePaged(topic, where, 1, 1).Partitions == nil {
		t.Error("DescribeTopicPartitions: Partitions is null")
	}
	if failedTopic("t", kerr.InvalidConfig).Configs == nil {
		t.Error("CreateTopics: Configs of a topic that failed is null")
	}
}

func TestDescribeClusterListsItsController(t *testing.T) {
	c := newCluster(t)
	c.grow()
	for version := range int16(3) {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.IncludeClusterAuthorizedOperations = true
		resp := ask[*kmsg.DescribeClusterResponse](c.connect(t), version, req)
		if resp.ErrorCode != 0 || resp.ClusterID != c.self.Cluster || len(resp.Brokers) != 3 || resp.ControllerID != 1 || resp.ClusterAuthorizedOperations != clusterOperations {
			t.Errorf("v%d: got %+v", version, resp)
		}
	}
	for kind, want := range map[int8]*kerr.Error{2: kerr.MismatchedEndpointType, 3: kerr.UnsupportedEndpointType} {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.EndpointType = kind
		wantCode(t, "endpoint type", ask[*kmsg.DescribeClusterResponse](c.connect(t), 1, req).ErrorCode, want)
	}
}

func TestListConfigResources(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(t, newTopic("b", 1, 1), newTopic("a", 1, 1))
	if resp := ask[*kmsg.ListConfigResourcesResponse](c.connect(t), 0, kmsg.NewPtrListConfigResourcesRequest()); len(resp.ConfigResources) != 0 {
		t.Errorf("v0 lists client metrics, and there are none: %+v", resp.ConfigResources)
	}
	list := func(kinds ...int8) string {
		req := kmsg.NewPtrListConfigResourcesRequest()
		req.ResourceTypes = kinds
		resp := ask[*kmsg.ListConfigResourcesResponse](c.connect(t), 1, req)
		var out []string
		for _, r := range resp.ConfigResources {
			out = append(out, fmt.Sprintf("%d:%s", r.Type, r.Name))
		}
		return fmt.Sprint(resp.ErrorCode, out)
	}
	if got, want := list(), "0 [2:a 2:b 4:1 8:1]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := list(4, 32), "0 [4:1]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := list(5), "35 []"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestSASLOnAnOpenListenerIsOutOfPlace(t *testing.T) {
	c := newCluster(t).connect(t)
	for version := range int16(2) {
		resp := ask[*kmsg.SASLHandshakeResponse](c, version, kmsg.NewPtrSASLHandshakeRequest())
		wantCode(t, "handshake", resp.ErrorCode, kerr.IllegalSaslState)
	}
	for version := range int16(3) {
		resp := ask[*kmsg.SASLAuthenticateResponse](c, version, kmsg.NewPtrSASLAuthenticateRequest())
		wantCode(t, "authenticate", resp.ErrorCode, kerr.IllegalSaslState)
	}
}

func TestNothingIsMovedAround(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(t, newTopic("t", 1, 1))
	move := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	move.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: "t", Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{
		{Partition: 0, Replicas: []int32{1}}, {Partition: 0}, {Partition: 9, Replicas: []int32{1}},
	}}}
	for version := range int16(2) {
		ps := ask[*kmsg.AlterPartitionAssignmentsResponse](c.connect(t), version, move).Topics[0].Partitions
		wantCode(t, "move", ps[0].ErrorCode, kerr.InvalidReplicaAssignment)
		wantCode(t, "cancel", ps[1].ErrorCode, kerr.NoReassignmentInProgress)
		wantCode(t, "unknown partition", ps[2].ErrorCode, kerr.UnknownTopicOrPartition)
	}
	if list := ask[*kmsg.ListPartitionReassignmentsResponse](c.connect(t), 0, kmsg.NewPtrListPartitionReassignmentsRequest()); list.ErrorCode != 0 || len(list.Topics) != 0 {
		t.Errorf("got %+v", list)
	}
	dirs := kmsg.NewPtrAlterReplicaLogDirsRequest()
	dirs.Dirs = []kmsg.AlterReplicaLogDirsRequestDir{{Dir: "/d", Topics: []kmsg.AlterReplicaLogDirsRequestDirTopic{{Topic: "t", Partitions: []int32{0}}}}}
	for version := int16(1); version <= 2; version++ {
		resp := ask[*kmsg.AlterReplicaLogDirsResponse](c.connect(t), version, dirs)
		wantCode(t, "log dir", resp.Topics[0].Partitions[0].ErrorCode, kerr.LogDirNotFound)
	}
}

// A real client finds its way: what it negotiates, sends and believes is kgo's own.
func TestKadm(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(t) // an empty request is none
	adm := kadm.NewClient(kgoClient(t, c.pipes))
	ctx := t.Context()
	created, err := adm.CreateTopics(ctx, 3, 3, map[string]*string{"retention.ms": kadm.StringPtr("9000")}, "one", "two")
	if err != nil || created.Error() != nil {
		t.Fatal(err, created.Error())
	}
	if id := created["one"].ID; id == (kadm.TopicID{}) || created["one"].NumPartitions != 3 || created["one"].ReplicationFactor != 3 {
		t.Errorf("got %+v", created["one"])
	}
	if again, err := adm.CreateTopic(ctx, 1, 1, nil, "one"); again.Err != kerr.TopicAlreadyExists {
		t.Errorf("got %v, %v", again.Err, err)
	}
	details, err := adm.ListTopics(ctx)
	if err != nil || len(details.Names()) != 2 || len(details["one"].Partitions) != 3 || details["one"].Partitions[0].Leader != 1 {
		t.Errorf("got %+v, %v", details, err)
	}
	grown, err := adm.UpdatePartitions(ctx, 5, "one")
	if err != nil || grown.Error() != nil {
		t.Error(err, grown.Error())
	}
	altered, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.bytes", Value: kadm.StringPtr("1")}}, "one")
	if err != nil || altered[0].Err != nil {
		t.Error(err, altered)
	}
	described, err := adm.DescribeTopicConfigs(ctx, "one")
	if err != nil || described[0].Err != nil {
		t.Fatal(err, described)
	}
	found := map[string]string{}
	for _, e := range described[0].Configs {
		found[e.Key] = e.MaybeValue()
	}
	if found["retention.ms"] != "9000" || found["retention.bytes"] != "1" {
		t.Errorf("got %v", found)
	}
	brokers, err := adm.DescribeBrokerConfigs(ctx, 1)
	if err != nil || brokers[0].Err != nil || len(brokers[0].Configs) == 0 {
		t.Error(err, brokers)
	}
	meta, err := adm.BrokerMetadata(ctx)
	if err != nil || meta.Cluster != c.self.Cluster || meta.Controller != 1 || len(meta.Brokers) != 1 {
		t.Errorf("got %+v, %v", meta, err)
	}
	deleted, err := adm.DeleteTopics(ctx, "one", "two")
	if err != nil || deleted.Error() != nil {
		t.Error(err, deleted.Error())
	}
	if left := c.catalog.Image().Topics; len(left) != 0 {
		t.Errorf("%d topics are left", len(left))
	}
}
