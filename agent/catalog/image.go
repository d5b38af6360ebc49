package catalog

import (
	"slices"
	"strconv"
	"strings"

	"varve.dev/agent/config"
	"varve.dev/metadata"
)

// ReplicasKey is where a topic's replication factor is kept, beside its configs: it changes nothing here, but clients ask
// for what they have set.
const ReplicasKey = "varve.internal.replication.factor"

// Topic is a topic with its settings resolved over the agent's.
type Topic struct {
	metadata.Topic // Config may hold ReplicasKey
	Settings       config.Topic
	Replicas       int // the replication factor that was asked for
}

// Image is one consistent state of the catalog. It is immutable, and so is everything that it answers.
type Image struct {
	Version int64
	// Agent is this agent's configuration, what was altered for it included.
	Agent *config.Agent
	// Static is the same without what was altered.
	Static *config.Agent
	// Topics are those that users see, by name.
	Topics []*Topic
	// Deleting are those that are gone for users while their bytes are being removed, by number.
	Deleting []metadata.Topic
	// Brokers and Groups hold what was altered, as metadata.Catalog has it.
	Brokers map[int32]map[string]string
	Groups  map[string]map[string]string

	byName map[string]*Topic
	byID   map[metadata.UUID]*Topic
	byNum  map[int32]*Topic
}

func newImage(c metadata.Catalog, base *config.Agent, self int32) *Image {
	i := &Image{
		Version: c.Version,
		Agent:   base.With(c.Brokers[metadata.NoAgent]).With(c.Brokers[self]),
		Static:  base,
		Brokers: c.Brokers,
		Groups:  c.Groups,
		byName:  make(map[string]*Topic, len(c.Topics)),
		byID:    make(map[metadata.UUID]*Topic, len(c.Topics)),
		byNum:   make(map[int32]*Topic, len(c.Topics)),
	}
	for _, t := range c.Topics {
		if t.Deleting {
			i.Deleting = append(i.Deleting, t)
			continue
		}
		topic := &Topic{Topic: t, Settings: i.Agent.Topic(t.Config), Replicas: replicas(t.Config)}
		i.Topics = append(i.Topics, topic)
		i.byName[t.Name], i.byID[t.ID], i.byNum[t.Num] = topic, topic, topic
	}
	slices.SortFunc(i.Topics, func(a, b *Topic) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(i.Deleting, func(a, b metadata.Topic) int { return int(a.Num) - int(b.Num) })
	return i
}

func replicas(config map[string]string) int {
	if n, err := strconv.Atoi(config[ReplicasKey]); err == nil && n > 0 {
		return n
	}
	return 1
}

// ByName answers the topic with a name, or nil.
func (i *Image) ByName(name string) *Topic { return i.byName[name] }

// ByID answers the topic with an id, or nil.
func (i *Image) ByID(id metadata.UUID) *Topic { return i.byID[id] }

// ByNum answers the topic with a number, or nil.
func (i *Image) ByNum(num int32) *Topic { return i.byNum[num] }

// Has says whether a partition exists.
func (i *Image) Has(id metadata.PartitionID) bool {
	t := i.byNum[id.Topic]
	return t != nil && id.Partition >= 0 && id.Partition < t.Partitions
}
