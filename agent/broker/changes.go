package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"varve.dev/agent/catalog"
	"varve.dev/agent/config"
	"varve.dev/metadata"
)

const (
	// maxReplicas is the largest replication factor that is accepted; it changes nothing here.
	maxReplicas = 5
	// maxPartitionsPerRequest is Kafka's bound on the partitions that one request creates.
	maxPartitionsPerRequest = 10_000
	// defaultAdminTimeout holds for requests that name none.
	defaultAdminTimeout = 30 * time.Second
	// maxAdminTimeout bounds what a client may ask its connection to wait.
	maxAdminTimeout = 10 * time.Minute
)

// TopicStore is what changes topics and dynamic configs: a part of metadata.Topics.
type TopicStore interface {
	CreateTopic(ctx context.Context, t metadata.Topic, target int32) (metadata.Topic, error)
	AddPartitions(ctx context.Context, num int32, from, to int32, target int32) error
	DeleteTopic(ctx context.Context, num int32, grace metadata.Grace) error
	SetTopicConfig(ctx context.Context, num int32, config map[string]string) error
	SetBrokerConfig(ctx context.Context, agent int32, config map[string]string) error
	SetGroupConfig(ctx context.Context, group string, config map[string]string) error
}

// Catalog is an image that can be brought up to date.
type Catalog interface {
	Images
	Refresh(ctx context.Context) error
}

// Reconciler makes this agent lead what is new and drop what is gone.
type Reconciler interface {
	Reconcile(ctx context.Context) error
}

// Changes is how requests change topics and configs. Those of one agent follow each other, so that none overwrites what
// another has just set.
type Changes struct {
	self    Self
	store   TopicStore
	catalog Catalog
	leading Reconciler
	log     *slog.Logger
	grace   metadata.Grace
	turn    chan struct{} // one slot
}

// NewChanges: grace is how long the objects of a deleted topic stay.
func NewChanges(
	self Self, store TopicStore, catalog Catalog, leading Reconciler, log *slog.Logger, grace metadata.Grace,
) *Changes {
	return &Changes{self: self, store: store, catalog: catalog, leading: leading, log: log, grace: grace, turn: make(chan struct{}, 1)}
}

// within is a request's time.
func within(ctx context.Context, millis int32) (context.Context, context.CancelFunc) {
	timeout := min(time.Duration(millis)*time.Millisecond, maxAdminTimeout)
	if timeout <= 0 {
		timeout = defaultAdminTimeout
	}
	return context.WithTimeout(ctx, timeout)
}

// do makes a change in its turn, on an image that holds what was written before, by whomever. err says that there is no
// such image: then change only reports it. What it changed takes effect here before do returns.
func (c *Changes) do(ctx context.Context, change func(image *catalog.Image, err error) (changed bool)) {
	if c.inTurn(ctx, change) {
		c.settle(ctx)
	}
}

func (c *Changes) inTurn(ctx context.Context, change func(*catalog.Image, error) bool) bool {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return change(c.catalog.Image(), ctx.Err())
	}
	err := c.catalog.Refresh(ctx)
	return change(c.catalog.Image(), err)
}

// settle makes changes that were stored visible here. They are facts whether this succeeds or not, and are retried in the
// background: so its failure is logged and changes no answer.
func (c *Changes) settle(ctx context.Context) {
	err := c.catalog.Refresh(ctx)
	if err == nil {
		err = c.leading.Reconcile(ctx)
	}
	if err != nil {
		c.log.Warn("a change of topics is not yet in effect here", "error", err)
	}
}

// topicSpec is a topic to create.
type topicSpec struct {
	name       string
	partitions int32 // -1: the default
	replicas   int32 // -1: the default
	assigned   [][]int32
	config     map[string]string
}

// resolve checks a spec, but for whether its name is free, and fills in the defaults. image is what the agent knows.
func (s topicSpec) resolve(image *catalog.Image, known func(agent int32) bool) (topicSpec, error) {
	if err := checkName(s.name); err != nil {
		return s, err
	}
	for name, value := range s.config {
		if err := checkTopicConfig(name, value); err != nil {
			return s, err
		}
	}
	if len(s.assigned) > 0 {
		return s.resolveAssigned(known)
	}
	if s.partitions == -1 {
		s.partitions = int32(image.Agent.Int("num.partitions"))
	}
	if s.partitions < 1 {
		return s, explain(kerr.InvalidPartitions, "Number of partitions was set to an invalid non-positive value.")
	}
	if s.replicas == -1 {
		s.replicas = int32(image.Agent.Int("default.replication.factor"))
	}
	if s.replicas < 1 || s.replicas > maxReplicas {
		return s, explain(kerr.InvalidReplicationFactor,
			fmt.Sprintf("Replication factor must be from 1 to %d, or -1 to use the default.", maxReplicas))
	}
	return s, nil
}

// resolveAssigned takes the counts from an assignment. Where its replicas would lie is of no consequence here.
func (s topicSpec) resolveAssigned(known func(agent int32) bool) (topicSpec, error) {
	if s.replicas != -1 {
		return s, explain(kerr.InvalidRequest, "A manual partition assignment was specified, but replication factor was not set to -1.")
	}
	if s.partitions != -1 {
		return s, explain(kerr.InvalidRequest, "A manual partition assignment was specified, but numPartitions was not set to -1.")
	}
	if err := checkAssigned(s.assigned, len(s.assigned[0]), known); err != nil {
		return s, err
	}
	s.partitions, s.replicas = int32(len(s.assigned)), int32(len(s.assigned[0]))
	return s, nil
}

// checkAssigned wants as many different agents that we know for each partition.
func checkAssigned(assigned [][]int32, replicas int, known func(agent int32) bool) error {
	for p, agents := range assigned {
		if len(agents) == 0 || len(agents) != replicas || len(agents) > maxReplicas {
			return explain(kerr.InvalidReplicaAssignment, fmt.Sprintf("partition %d has %d replicas, want %d", p, len(agents), replicas))
		}
		seen := map[int32]bool{}
		for _, a := range agents {
			if seen[a] {
				return explain(kerr.InvalidReplicaAssignment, fmt.Sprintf("partition %d names broker %d twice", p, a))
			}
			if seen[a] = true; !known(a) {
				return explain(kerr.InvalidReplicaAssignment, fmt.Sprintf("partition %d names broker %d, which is not alive", p, a))
			}
		}
	}
	return nil
}

func checkTopicConfig(name, value string) error {
	k, ok := config.TopicKey(name)
	if !ok {
		return unknownKey("topic", name, config.TopicKeys())
	}
	if err := k.Check(value); err != nil {
		return explain(kerr.InvalidConfig, err.Error())
	}
	return nil
}

func unknownKey(of, name string, keys []config.Key) error {
	text := fmt.Sprintf("Unknown %s config name: %s", of, name)
	if near := config.Nearest(name, keys); near != "" {
		text += " (did you mean " + near + "?)"
	}
	return explain(kerr.InvalidConfig, text)
}

// checkName is Kafka's Topic.validate.
func checkName(name string) error {
	switch {
	case name == "":
		return explain(kerr.InvalidTopicException, "Topic name is invalid: the empty string is not allowed")
	case name == "." || name == "..":
		return explain(kerr.InvalidTopicException, "Topic name is invalid: '.' or '..' is not allowed")
	case len(name) > 249:
		return explain(kerr.InvalidTopicException, fmt.Sprintf("Topic name is invalid: the length of %d is longer than 249", len(name)))
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return explain(kerr.InvalidTopicException,
				"Topic name is invalid: it contains a character other than ASCII alphanumerics, '.', '_' and '-'")
		}
	}
	return nil
}

// metricName is what Kafka makes of a topic's name in its metrics. Two topics may not have the same.
func metricName(topic string) string { return strings.ReplaceAll(topic, ".", "_") }

// names finds collisions of metric names.
type names map[string]string // metric name to topic

func collisions(image *catalog.Image) names {
	n := make(names, len(image.Topics))
	for _, t := range image.Topics {
		n[metricName(t.Name)] = t.Name
	}
	return n
}

func (n names) check(topic string) error {
	if other, ok := n[metricName(topic)]; ok && other != topic {
		return explain(kerr.InvalidTopicException, fmt.Sprintf("Topic '%s' collides with existing topic: %s", topic, other))
	}
	return nil
}

// again repeats a statement whose reply was lost. TopicStore's are all such that twice is once.
func again(do func() error) error {
	err := do()
	if errors.Is(err, metadata.ErrUnknown) {
		err = do()
	}
	return err
}

// create stores a topic that resolve has checked. Its id tells a repeated create from another's topic of this name.
func (c *Changes) create(ctx context.Context, s topicSpec) (made metadata.Topic, err error) {
	t := metadata.Topic{ID: newTopicID(), Name: s.name, Partitions: s.partitions, Config: map[string]string{}}
	maps.Copy(t.Config, s.config)
	if s.replicas != 1 {
		t.Config[catalog.ReplicasKey] = strconv.Itoa(int(s.replicas))
	}
	err = again(func() error {
		made, err = c.store.CreateTopic(ctx, t, c.self.ID)
		return err
	})
	if errors.Is(err, metadata.ErrExists) {
		return made, explain(kerr.TopicAlreadyExists, fmt.Sprintf("Topic '%s' already exists.", s.name))
	}
	if err != nil {
		c.log.Warn("topic was not created", "topic", s.name, "error", err)
		return made, err
	}
	c.log.Info("topic created", "topic", s.name, "id", made.ID.String(), "partitions", made.Partitions)
	return made, nil
}

// newTopicID is random, and like Kafka's never looks like an option on a command line.
func newTopicID() metadata.UUID {
	for {
		var id metadata.UUID
		rand.Read(id[:]) // never fails
		if id.String()[0] != '-' {
			return id
		}
	}
}
