package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/catalog"
	"varve.dev/agent/config"
	"varve.dev/metadata"
)

// resource names what has configs.
type resource struct {
	kind kmsg.ConfigResourceType
	name string
}

// alteration is one change of one key.
type alteration struct {
	name  string
	op    kmsg.IncrementalAlterConfigOp
	value *string
}

// alterable is a resource whose configs may be altered: what is set on it now, and how that is replaced.
type alterable struct {
	set     map[string]string
	keep    []string // keys of set that are not configs and outlive every change
	find    func(name string) (config.Key, error)
	inForce func(k config.Key) string
	store   func(ctx context.Context, set map[string]string) error
}

// alterer is what AlterConfigs and IncrementalAlterConfigs have in common.
type alterer struct {
	agents  Agents
	changes *Changes
}

// alter makes the changes of each resource, in the turn of c. replace begins with nothing set. The answers are in the
// order of rs.
func (a *alterer) alter(ctx context.Context, rs []resource, asked [][]alteration, replace, validateOnly bool) []error {
	failures := make([]error, len(rs))
	count := map[resource]int{}
	for _, r := range rs {
		count[r]++
	}
	a.changes.do(ctx, func(image *catalog.Image, err error) (changed bool) {
		for i, r := range rs {
			failures[i] = err
			if err == nil && count[r] > 1 {
				failures[i] = explain(kerr.InvalidRequest, "Each resource must appear at most once.")
			}
			if failures[i] != nil {
				continue
			}
			failures[i] = a.one(ctx, image, r, asked[i], replace, validateOnly)
			changed = changed || failures[i] == nil && !validateOnly
		}
		return changed
	})
	return failures
}

func (a *alterer) one(
	ctx context.Context, image *catalog.Image, r resource, asked []alteration, replace, validateOnly bool,
) error {
	to, err := a.find(image, r)
	if err != nil {
		return err
	}
	next, err := to.apply(asked, replace)
	if err != nil || validateOnly || maps.Equal(next, to.set) {
		return err
	}
	if err := again(func() error { return to.store(ctx, next) }); err != nil {
		a.changes.log.Warn("configs were not altered", "kind", int8(r.kind), "name", r.name, "error", err)
		return err
	}
	a.changes.log.Info("configs altered", "kind", int8(r.kind), "name", r.name, "keys", slices.Sorted(maps.Keys(next)))
	return nil
}

func (a *alterer) find(image *catalog.Image, r resource) (alterable, error) {
	switch r.kind {
	case kmsg.ConfigResourceTypeTopic:
		return a.topic(image, r.name)
	case kmsg.ConfigResourceTypeBroker:
		return a.agent(image, r.name)
	case kmsg.ConfigResourceTypeGroupConfig:
		return a.group(image, r.name)
	case kmsg.ConfigResourceTypeBrokerLogger:
		return alterable{}, explain(kerr.InvalidRequest, "There are no loggers: the level of all lines is log.level.")
	case kmsg.ConfigResourceTypeClientMetrics:
		return alterable{}, explain(kerr.InvalidRequest, "Client metrics subscriptions are not supported.")
	}
	return alterable{}, explain(kerr.InvalidRequest, fmt.Sprintf("Unsupported resource type: %d", r.kind))
}

func (a *alterer) topic(image *catalog.Image, name string) (alterable, error) {
	if name == "" {
		return alterable{}, explain(kerr.InvalidRequest, "Default topic resources are not allowed.")
	}
	if err := checkName(name); err != nil {
		return alterable{}, err
	}
	t := image.ByName(name)
	if t == nil {
		return alterable{}, kerr.UnknownTopicOrPartition
	}
	return alterable{
		set:  t.Config,
		keep: []string{catalog.ReplicasKey},
		find: func(name string) (config.Key, error) {
			if k, ok := config.TopicKey(name); ok {
				return k, nil
			}
			return config.Key{}, unknownKey("topic", name, config.TopicKeys())
		},
		inForce: func(k config.Key) string {
			v, _ := image.Agent.TopicDefault(k)
			return v
		},
		store: func(ctx context.Context, set map[string]string) error {
			return a.changes.store.SetTopicConfig(ctx, t.Num, set)
		},
	}, nil
}

func (a *alterer) agent(image *catalog.Image, name string) (alterable, error) {
	id := metadata.NoAgent
	if name != "" {
		n, err := strconv.ParseInt(name, 10, 32)
		if err != nil || !isAlive(a.agents, a.changes.self, int32(n)) {
			return alterable{}, explain(kerr.InvalidRequest, fmt.Sprintf("Unexpected broker id %q: no such broker is alive", name))
		}
		id = int32(n)
	}
	return alterable{
		set: image.Brokers[id],
		find: func(name string) (config.Key, error) {
			k, ok := config.AgentKey(name)
			if !ok {
				return k, unknownKey("broker", name, config.AgentKeys())
			}
			if !k.Dynamic {
				return k, explain(kerr.InvalidRequest, "Cannot update these configs dynamically: "+name)
			}
			return k, nil
		},
		inForce: func(k config.Key) string { return image.Static.String(k.Name) },
		store: func(ctx context.Context, set map[string]string) error {
			return a.changes.store.SetBrokerConfig(ctx, id, set)
		},
	}, nil
}

func (a *alterer) group(image *catalog.Image, name string) (alterable, error) {
	if name == "" {
		return alterable{}, explain(kerr.InvalidRequest, "Group name must not be empty")
	}
	return alterable{
		set: image.Groups[name],
		find: func(name string) (config.Key, error) {
			if k, ok := config.GroupKey(name); ok {
				return k, nil
			}
			return config.Key{}, unknownKey("group", name, config.GroupKeys())
		},
		inForce: func(k config.Key) string { return k.Default },
		store: func(ctx context.Context, set map[string]string) error {
			return a.changes.store.SetGroupConfig(ctx, name, set)
		},
	}, nil
}

// apply computes what is set after the changes.
func (t alterable) apply(asked []alteration, replace bool) (map[string]string, error) {
	next := map[string]string{}
	if !replace {
		maps.Copy(next, t.set)
	}
	for _, name := range t.keep {
		if v, ok := t.set[name]; ok {
			next[name] = v
		}
	}
	seen := map[string]bool{}
	for _, c := range asked {
		if seen[c.name] {
			return nil, explain(kerr.InvalidRequest, "Error due to duplicate config keys: "+c.name)
		}
		seen[c.name] = true
		if err := t.applyOne(next, c); err != nil {
			return nil, err
		}
	}
	return next, nil
}

func (t alterable) applyOne(next map[string]string, c alteration) error {
	k, err := t.find(c.name)
	if c.op == kmsg.IncrementalAlterConfigOpDelete {
		if _, set := next[c.name]; set && !slices.Contains(t.keep, c.name) {
			delete(next, c.name) // also what this version does not know
			return nil
		}
		if errors.Is(err, kerr.InvalidConfig) {
			return nil // nothing is set under a name that there is not
		}
		return err
	}
	if err != nil {
		return err
	}
	if c.value == nil {
		return explain(kerr.InvalidRequest, "Null value not supported for : "+c.name)
	}
	v := *c.value
	switch c.op {
	case kmsg.IncrementalAlterConfigOpSet:
	case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
		if k.Type != config.List {
			return explain(kerr.InvalidConfig, fmt.Sprintf("Can't %s config value for non-list config: %s", verb(c.op), c.name))
		}
		old, set := next[c.name]
		if !set {
			old = t.inForce(k)
		}
		v = changeList(config.Split(old), config.Split(v), c.op == kmsg.IncrementalAlterConfigOpAppend)
	default:
		return explain(kerr.InvalidRequest, fmt.Sprintf("Unknown operation type %d for %s", c.op, c.name))
	}
	if err := k.Check(v); err != nil {
		return explain(kerr.InvalidConfig, err.Error())
	}
	next[c.name] = v
	return nil
}

func verb(op kmsg.IncrementalAlterConfigOp) string {
	if op == kmsg.IncrementalAlterConfigOpAppend {
		return "APPEND to"
	}
	return "SUBTRACT from"
}

func changeList(old, words []string, add bool) string {
	for _, w := range words {
		old = slices.DeleteFunc(old, func(o string) bool { return o == w && !add })
		if add && !slices.Contains(old, w) {
			old = append(old, w)
		}
	}
	return strings.Join(old, ",")
}
