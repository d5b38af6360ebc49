package broker

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/config"
	"varve.dev/agent/group"
	"varve.dev/metadata"
	"varve.dev/metadata/sqlite"
)

// groupsUnderTest is the group APIs over a real store, and topics "a" and "b" with two partitions each.
type groupsUnderTest struct {
	client
	pipes  *pipes
	topics map[string]metadata.Topic
}

func startGroups(t testing.TB) groupsUnderTest {
	t.Helper()
	ctx, log := t.Context(), slog.New(slog.DiscardHandler)
	store, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "m.db"), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if _, err := store.Join(ctx, metadata.Cluster{ID: metadata.UUID{1}, Shards: 3, Format: 1}); err != nil {
		t.Fatal(err)
	}
	me, _, err := store.Start(ctx, metadata.Agent{ID: 1, Journal: metadata.UUID{2}}, 1,
		func(metadata.Ended) []string { return nil }, metadata.Grace{})
	if err != nil {
		t.Fatal(err)
	}
	g := groupsUnderTest{topics: map[string]metadata.Topic{}}
	for i, name := range []string{"a", "b"} {
		g.topics[name], err = store.CreateTopic(ctx, metadata.Topic{ID: metadata.UUID{byte(i + 3)}, Name: name, Partitions: 2}, 1)
		if err != nil {
			t.Fatal(err)
		}
	}
	base, err := config.Load(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	topics := catalog.New(store, base, 1, log, catalog.Config{})
	if err := topics.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	cfg := group.DefaultConfig(3)
	cfg.InitialDelay = 0
	groups, err := group.New(store, me, func(num int32) (string, bool) {
		if topic := topics.Image().ByNum(num); topic != nil {
			return topic.Name, true
		}
		return "", false
	}, log, group.NewMetrics(nil), cfg)
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- groups.Run(running) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	self := Self{ID: 7}
	g.pipes = start(t, New(self,
		OffsetCommit(groups, topics), OffsetFetch(groups, topics), FindCoordinator(self), JoinGroup(groups), Heartbeat(groups),
		LeaveGroup(groups), SyncGroup(groups), DescribeGroups(groups), ListGroups(groups), DeleteGroups(groups),
		OffsetDelete(groups, topics),
	))
	g.client = connect(t, g.pipes)
	for deadline := time.Now().Add(10 * time.Second); !groups.Ready(); {
		if time.Now().After(deadline) {
			t.Fatal("the shards are not loaded after 10s")
		}
		<-time.After(time.Millisecond)
	}
	return g
}

func (g groupsUnderTest) wantCode(got int16, want *kerr.Error) {
	g.t.Helper()
	var code int16
	if want != nil {
		code = want.Code
	}
	if got != code {
		g.t.Fatalf("got %v, want %v", kerr.ErrorForCode(got), want)
	}
}

// join is a consumer of topic "a" that joins alone, in a version of JoinGroup.
func (g groupsUnderTest) join(version int16, name, instance string) *kmsg.JoinGroupResponse {
	g.t.Helper()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis, req.ProtocolType = name, 10_000, 60_000, "consumer"
	req.InstanceID = nullable(instance)
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", []byte("\x00\x01\x00\x00\x00\x01\x00\x01a\xff\xff\xff\xff")
	req.Protocols = append(req.Protocols, p)
	resp := ask[*kmsg.JoinGroupResponse](g.client, version, req)
	if version >= 4 && instance == "" {
		g.wantCode(resp.ErrorCode, kerr.MemberIDRequired)
		req.MemberID = resp.MemberID
		resp = ask[*kmsg.JoinGroupResponse](g.client, version, req)
	}
	g.wantCode(resp.ErrorCode, nil)
	if resp.LeaderID != resp.MemberID || orEmpty(resp.Protocol) != "range" || len(resp.Members) != 1 ||
		orEmpty(resp.Members[0].InstanceID) != instance && version >= 5 || string(resp.Members[0].ProtocolMetadata) != string(p.Metadata) {
		g.t.Fatalf("JoinGroup v%d: %+v", version, resp)
	}
	return resp
}

func (g groupsUnderTest) sync(version int16, name, instance string, j *kmsg.JoinGroupResponse) *kmsg.SyncGroupResponse {
	g.t.Helper()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.Generation, req.MemberID, req.InstanceID = name, j.Generation, j.MemberID, nullable(instance)
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), j.Protocol
	a := kmsg.NewSyncGroupRequestGroupAssignment()
	a.MemberID, a.MemberAssignment = j.MemberID, []byte("share")
	req.GroupAssignment = append(req.GroupAssignment, a)
	return ask[*kmsg.SyncGroupResponse](g.client, version, req)
}

func (g groupsUnderTest) commit(version int16, name, member string, generation int32, topic string, partition int32, offset int64, text string) int16 {
	g.t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = name, member, generation
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = topic, g.id(topic)
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = partition, offset, 4, &text
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp := ask[*kmsg.OffsetCommitResponse](g.client, version, req)
	if t := resp.Topics[0]; version < 10 && t.Topic != topic || version >= 10 && t.TopicID != rt.TopicID || t.Partitions[0].Partition != partition {
		g.t.Fatalf("OffsetCommit v%d: %+v", version, t)
	}
	return resp.Topics[0].Partitions[0].ErrorCode
}

// id is made up for a topic that does not exist.
func (g groupsUnderTest) id(topic string) metadata.UUID {
	if t, ok := g.topics[topic]; ok {
		return t.ID
	}
	return metadata.UUID{99}
}

// fetch asks for partitions 0 and 1 of topics; none: for everything.
func (g groupsUnderTest) fetch(version int16, name string, topics ...string) kmsg.OffsetFetchResponseGroup {
	g.t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group, req.RequireStable = name, true
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group = name
	for _, topic := range topics {
		rt := kmsg.NewOffsetFetchRequestTopic()
		rt.Topic, rt.Partitions = topic, []int32{0, 1}
		req.Topics = append(req.Topics, rt)
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.TopicID, gt.Partitions = topic, g.id(topic), []int32{0, 1}
		rg.Topics = append(rg.Topics, gt)
	}
	req.Groups = append(req.Groups, rg, rg)
	resp := ask[*kmsg.OffsetFetchResponse](g.client, version, req)
	if version >= 8 {
		if len(resp.Groups) != 1 {
			g.t.Fatalf("OffsetFetch v%d answers %d groups for one that is named twice", version, len(resp.Groups))
		}
		return resp.Groups[0]
	}
	out := kmsg.OffsetFetchResponseGroup{Group: name, ErrorCode: resp.ErrorCode}
	for _, t := range resp.Topics {
		gt := kmsg.OffsetFetchResponseGroupTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			gt.Partitions = append(gt.Partitions, kmsg.OffsetFetchResponseGroupTopicPartition{
				Partition: p.Partition, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata, ErrorCode: p.ErrorCode,
			})
		}
		out.Topics = append(out.Topics, gt)
	}
	return out
}

// One member's life in every version of every API.
func TestAMembersLifeInEveryVersion(t *testing.T) {
	g := startGroups(t)
	for v := int16(0); v <= 10; v++ {
		at := func(low, high int16) int16 { return min(max(low, v), high) }
		name, instance := "g"+string('0'+rune(v)), ""
		if v >= 7 {
			instance = "i"
		}
		j := g.join(at(0, 9), name, instance)
		s := g.sync(at(0, 5), name, instance, j)
		g.wantCode(s.ErrorCode, nil)
		if string(s.MemberAssignment) != "share" || v >= 5 && orEmpty(s.Protocol) != "range" {
			t.Fatalf("SyncGroup v%d: %+v", v, s)
		}
		h := kmsg.NewPtrHeartbeatRequest()
		h.Group, h.Generation, h.MemberID, h.InstanceID = name, j.Generation, j.MemberID, nullable(instance)
		g.wantCode(ask[*kmsg.HeartbeatResponse](g.client, at(0, 4), h).ErrorCode, nil)
		h.Generation++
		g.wantCode(ask[*kmsg.HeartbeatResponse](g.client, at(0, 4), h).ErrorCode, kerr.IllegalGeneration)

		g.wantCode(g.commit(at(2, 10), name, j.MemberID, j.Generation, "a", 1, 5, "note"), nil)
		f := g.fetch(at(1, 10), name, "a")
		p := f.Topics[0].Partitions
		if p[0].Offset != -1 || orEmpty(p[0].Metadata) != "" || p[1].Offset != 5 || orEmpty(p[1].Metadata) != "note" ||
			v >= 6 && p[1].LeaderEpoch != 4 {
			t.Fatalf("OffsetFetch v%d: %+v", v, p)
		}

		l := kmsg.NewPtrLeaveGroupRequest()
		l.Group, l.MemberID = name, j.MemberID
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID, m.InstanceID = j.MemberID, nullable(instance)
		l.Members = append(l.Members, m)
		left := ask[*kmsg.LeaveGroupResponse](g.client, at(0, 5), l)
		g.wantCode(left.ErrorCode, nil)
		if v >= 3 && (len(left.Members) != 1 || left.Members[0].ErrorCode != 0) {
			t.Fatalf("LeaveGroup v%d: %+v", v, left)
		}
		left = ask[*kmsg.LeaveGroupResponse](g.client, at(0, 5), l)
		if v < 3 {
			g.wantCode(left.ErrorCode, kerr.UnknownMemberID)
		} else {
			g.wantCode(left.Members[0].ErrorCode, kerr.UnknownMemberID)
		}
	}
}

func TestCommitsThatAreRefused(t *testing.T) {
	g := startGroups(t)
	for v := int16(2); v <= 10; v++ {
		unknown := kerr.UnknownTopicOrPartition
		if v == 10 {
			unknown = kerr.UnknownTopicID
		}
		g.wantCode(g.commit(v, "g", "", -1, "nope", 0, 1, ""), unknown)
		g.wantCode(g.commit(v, "g", "", -1, "a", 2, 1, ""), kerr.UnknownTopicOrPartition)
		g.wantCode(g.commit(v, "g", "", -1, "a", 0, 1, strings.Repeat("x", 4097)), kerr.OffsetMetadataTooLarge)
		noGroup := kerr.IllegalGeneration
		if v >= 9 {
			noGroup = kerr.GroupIDNotFound
		}
		g.wantCode(g.commit(v, "none", "m", 3, "a", 0, 1, ""), noGroup)
	}
	g.wantCode(g.commit(10, "g", "", -1, "a", 0, 1, strings.Repeat("x", 4096)), nil)
}

func TestOffsetsOfAGroupThatDoesNotExist(t *testing.T) {
	g := startGroups(t)
	for v := int16(1); v <= 10; v++ {
		f := g.fetch(v, "none", "a", "nope")
		g.wantCode(f.ErrorCode, nil)
		for i, topic := range f.Topics {
			for _, p := range topic.Partitions {
				if p.Offset != -1 || p.Metadata == nil || *p.Metadata != "" || v >= 5 && p.LeaderEpoch != -1 {
					t.Fatalf("v%d: %+v", v, p)
				}
				if v == 10 && i == 1 {
					g.wantCode(p.ErrorCode, kerr.UnknownTopicID)
				} else {
					g.wantCode(p.ErrorCode, nil)
				}
			}
		}
		if len(f.Topics) != 2 {
			t.Fatalf("v%d: %d topics", v, len(f.Topics))
		}
	}
}

func TestNullTopicsAskForEverything(t *testing.T) {
	g := startGroups(t)
	g.wantCode(g.commit(9, "g", "", -1, "a", 1, 5, ""), nil)
	g.wantCode(g.commit(10, "g", "", -1, "b", 0, 6, ""), nil)
	for v := int16(2); v <= 10; v++ {
		f := g.fetch(v, "g")
		if len(f.Topics) != 2 || f.Topics[0].Partitions[0].Offset != 5 || f.Topics[1].Partitions[0].Offset != 6 ||
			v < 10 && f.Topics[1].Topic != "b" || v == 10 && f.Topics[1].TopicID != g.topics["b"].ID {
			t.Fatalf("v%d: %+v", v, f)
		}
	}
}

func TestFindCoordinator(t *testing.T) {
	g := startGroups(t)
	for v := int16(0); v <= 6; v++ {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorKey, req.CoordinatorKeys = "g", []string{"g", "h", "g"}
		for kind, want := range []*kerr.Error{nil, kerr.InvalidRequest, kerr.InvalidRequest, kerr.InvalidRequest} {
			if v == 0 && kind > 0 {
				continue
			}
			req.CoordinatorType = int8(kind)
			resp := ask[*kmsg.FindCoordinatorResponse](g.client, v, req)
			if v >= 4 {
				if len(resp.Coordinators) != 2 || resp.Coordinators[1].Key != "h" {
					t.Fatalf("v%d: %+v", v, resp)
				}
				c := resp.Coordinators[0]
				resp.NodeID, resp.Host, resp.Port, resp.ErrorCode, resp.ErrorMessage = c.NodeID, c.Host, c.Port, c.ErrorCode, c.ErrorMessage
			}
			g.wantCode(resp.ErrorCode, want)
			if want == nil && (resp.NodeID != 7 || resp.Host != "broker1" || resp.Port != 9092) {
				t.Fatalf("v%d: %+v", v, resp)
			}
			if want != nil && (resp.NodeID != -1 || v > 0 && resp.ErrorMessage == nil) {
				t.Fatalf("v%d kind %d: %+v", v, kind, resp)
			}
		}
	}
}

func TestDescribeAndList(t *testing.T) {
	g := startGroups(t)
	j := g.join(9, "live", "i")
	g.wantCode(g.sync(5, "live", "i", j).ErrorCode, nil)
	g.wantCode(g.commit(9, "simple", "", -1, "a", 0, 1, ""), nil)
	for v := int16(0); v <= 6; v++ {
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Groups, req.IncludeAuthorizedOperations = []string{"live", "simple", "none", "live"}, true
		resp := ask[*kmsg.DescribeGroupsResponse](g.client, v, req)
		if len(resp.Groups) != 3 {
			t.Fatalf("v%d: %d groups", v, len(resp.Groups))
		}
		live, simple, none := resp.Groups[0], resp.Groups[1], resp.Groups[2]
		if live.State != "Stable" || live.ProtocolType != "consumer" || live.Protocol != "range" || len(live.Members) != 1 {
			t.Fatalf("v%d: %+v", v, live)
		}
		if m := live.Members[0]; m.MemberID != j.MemberID || m.ClientHost != "/pipe" || m.ClientID != "test" ||
			string(m.MemberAssignment) != "share" || v >= 4 && orEmpty(m.InstanceID) != "i" {
			t.Fatalf("v%d: %+v", v, m)
		}
		if v >= 3 && live.AuthorizedOperations != groupOperations {
			t.Fatalf("v%d: operations %b", v, live.AuthorizedOperations)
		}
		if simple.State != "Empty" || simple.ProtocolType != "" || none.State != "Dead" {
			t.Fatalf("v%d: %+v, %+v", v, simple, none)
		}
		if v < 6 {
			g.wantCode(none.ErrorCode, nil)
		} else {
			g.wantCode(none.ErrorCode, kerr.GroupIDNotFound)
		}
	}
	for _, c := range []struct {
		version       int16
		states, types []string
		want          string
	}{
		{0, nil, nil, "live simple"},
		{3, nil, nil, "live simple"},
		{4, []string{"stable"}, nil, "live"},
		{4, []string{"Empty", "Stable"}, nil, "live simple"},
		{4, []string{"Strange"}, nil, ""},
		{5, []string{"Empty"}, []string{"Classic"}, "simple"},
		{5, nil, []string{"consumer"}, ""},
	} {
		req := kmsg.NewPtrListGroupsRequest()
		req.StatesFilter, req.TypesFilter = c.states, c.types
		resp := ask[*kmsg.ListGroupsResponse](g.client, c.version, req)
		g.wantCode(resp.ErrorCode, nil)
		var got []string
		for _, r := range resp.Groups {
			got = append(got, r.Group)
			if c.version == 5 && r.GroupType != "classic" || c.version >= 4 && r.GroupState == "" {
				t.Fatalf("%+v", r)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Fatalf("%+v: got %q", c, s)
		}
	}
}

func TestDeletions(t *testing.T) {
	g := startGroups(t)
	j := g.join(9, "live", "")
	g.wantCode(g.sync(5, "live", "", j).ErrorCode, nil)
	g.wantCode(g.commit(9, "live", j.MemberID, j.Generation, "a", 0, 1, ""), nil)
	g.wantCode(g.commit(9, "live", j.MemberID, j.Generation, "b", 0, 1, ""), nil)

	del := kmsg.NewPtrOffsetDeleteRequest()
	del.Group = "live"
	for _, topic := range []string{"a", "b", "nope"} {
		rt := kmsg.NewOffsetDeleteRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewOffsetDeleteRequestTopicPartition()
		rt.Partitions = append(rt.Partitions, rp)
		del.Topics = append(del.Topics, rt)
	}
	resp := ask[*kmsg.OffsetDeleteResponse](g.client, 0, del)
	g.wantCode(resp.ErrorCode, nil)
	for i, want := range []*kerr.Error{kerr.GroupSubscribedToTopic, nil, kerr.UnknownTopicOrPartition} {
		g.wantCode(resp.Topics[i].Partitions[0].ErrorCode, want)
	}
	if f := g.fetch(9, "live"); len(f.Topics) != 1 || f.Topics[0].Topic != "a" {
		t.Fatalf("left: %+v", f.Topics)
	}
	del.Group = "none"
	g.wantCode(ask[*kmsg.OffsetDeleteResponse](g.client, 0, del).ErrorCode, kerr.GroupIDNotFound)

	g.wantCode(g.commit(9, "simple", "", -1, "a", 0, 1, ""), nil)
	for v, want := range []*kerr.Error{nil, kerr.GroupIDNotFound, kerr.GroupIDNotFound} {
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Groups = []string{"live", "none", "simple", "live"}
		resp := ask[*kmsg.DeleteGroupsResponse](g.client, int16(v), req)
		if len(resp.Groups) != 3 || resp.Groups[2].Group != "simple" {
			t.Fatalf("v%d: %+v", v, resp.Groups)
		}
		g.wantCode(resp.Groups[0].ErrorCode, kerr.NonEmptyGroup)
		g.wantCode(resp.Groups[1].ErrorCode, kerr.GroupIDNotFound)
		g.wantCode(resp.Groups[2].ErrorCode, want)
	}
}
