package broker

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"varve.dev/agent/catalog"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
)

// Images answers the newest image of topics and configs.
type Images interface {
	Image() *catalog.Image
}

// Leaders says who leads a partition, under which epoch. An error means that nobody does now; an epoch that is known all
// the same goes to clients, else it is -1.
type Leaders interface {
	Leader(id metadata.PartitionID) (agent, leaderEpoch int32, err error)
}

// Agents lists the agents that live, as far as this one knows; itself it may leave out. Their addresses are written by
// wire.Advertise.
type Agents interface {
	Agents() []metadata.Pulse
}

// node is an agent as a client of one listener sees it: a broker.
type node struct {
	id   int32
	host string
	port int32
	rack *string
}

// placement says where partitions are, to the clients of one listener.
type placement struct {
	leaders Leaders
	nodes   []node // by id; the agent that answers is among them
}

func place(self Self, leaders Leaders, agents Agents, conn *wire.Conn) placement {
	host, port := conn.Advertised()
	p := placement{leaders: leaders, nodes: []node{{self.ID, host, port, rack(self.Rack)}}}
	for _, a := range agents.Agents() {
		host, port, ok := wire.Endpoint(a.Address, conn.Listener())
		if ok && a.Agent != self.ID { // an agent without this listener cannot be reached by this client
			p.nodes = append(p.nodes, node{a.Agent, host, port, rack(a.Rack)})
		}
	}
	slices.SortFunc(p.nodes, func(a, b node) int { return int(a.id) - int(b.id) })
	return p
}

func rack(name string) *string {
	if name == "" {
		return nil
	}
	return &name
}

func (p placement) index(id int32) int {
	return slices.IndexFunc(p.nodes, func(n node) bool { return n.id == id })
}

// seat is one partition's place.
type seat struct {
	code          int16
	leader, epoch int32
	replicas      []int32 // never nil: Java refuses null (and reads them as in sync, which they always are)
}

// seat answers a partition's leader, and as many agents as the topic asked replicas: the leader and those that follow it in
// the order of their ids. Any agent can serve a partition's history and become its leader, so none of them is out of sync.
func (p placement) seat(t *catalog.Topic, partition int32) seat {
	leader, epoch, err := p.leaders.Leader(metadata.PartitionID{Topic: t.Num, Partition: partition})
	first := p.index(leader)
	s := seat{leader: leader, epoch: epoch}
	if err != nil || first < 0 {
		// Retriable; -1 as the epoch says nothing, so that a client's knowledge never goes back.
		s.code, s.leader = kerr.LeaderNotAvailable.Code, -1
		first = int(partition) % len(p.nodes)
	}
	for i := range min(t.Replicas, len(p.nodes)) {
		s.replicas = append(s.replicas, p.nodes[(first+i)%len(p.nodes)].id)
	}
	return s
}

// Operations that are allowed where nobody is asked, as bits of Kafka's AclOperation: every one that the resource has.
const (
	topicOperations   = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
	clusterOperations = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12
	noOperations      = -1 << 31 // not asked for
)

func operations(asked bool, all int32) int32 {
	if asked {
		return all
	}
	return noOperations
}

// internal says whether Kafka would keep state of its own in a topic of this name.
func internal(name string) bool {
	return name == "__consumer_offsets" || name == "__transaction_state"
}
