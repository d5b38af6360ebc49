package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topicCmd is varve topic.
type topicCmd struct {
	Create   topicCreateCmd   `cmd:"" help:"Create topics."`
	List     topicListCmd     `cmd:"" help:"List topics."`
	Describe topicDescribeCmd `cmd:"" help:"Show topics' partitions, offsets and settings."`
	Alter    topicAlterCmd    `cmd:"" help:"Change settings, or add partitions."`
	Delete   topicDeleteCmd   `cmd:"" help:"Delete topics and all their records."`
	Elect    topicElectCmd    `cmd:"" help:"Elect leaders."`
}

type topicCreateCmd struct {
	broker
	Names       []string `arg:"" name:"name" help:"Names of the topics."`
	Partitions  int32    `default:"-1" help:"Number of partitions; -1 takes the cluster's default."`
	Replication int16    `default:"-1" help:"Replication factor to report; -1 takes the cluster's default."`
	Config      []string `sep:"none" placeholder:"KEY=VALUE" help:"Set a topic's key of varve config; can be repeated."`
	IfNotExists bool     `help:"Succeed when a topic is there already."`
	JSON        bool     `name:"json" help:"Print JSON."`
}

func (topicCreateCmd) Help() string {
	return `Example:

    varve topic create orders --partitions 6 --config retention.ms=86400000`
}

type createdTopic struct {
	Topic      string `json:"topic"`
	ID         string `json:"id,omitempty"`
	Partitions int32  `json:"partitions"`
	Existed    bool   `json:"existed,omitempty"`
}

func (c *topicCreateCmd) Run(in *invocation) error {
	configs, err := parsePairs("--config", c.Config)
	if err != nil {
		return err
	}
	return c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) error {
		responses, err := adm.CreateTopics(ctx, c.Partitions, c.Replication, configs, c.Names...)
		if err != nil {
			return fmt.Errorf("create topics: %w", err)
		}
		created, err := c.results(responses)
		if err := c.print(in.stdout, created); err != nil {
			return err
		}
		return err
	})
}

func (c *topicCreateCmd) results(responses kadm.CreateTopicResponses) (created []createdTopic, errs error) {
	for _, name := range c.Names {
		r := responses[name]
		existed := c.IfNotExists && errors.Is(r.Err, kerr.TopicAlreadyExists)
		if r.Err != nil && !existed {
			errs = errors.Join(errs, fmt.Errorf("create topic %q: %w", r.Topic, explain(r.Err, r.ErrMessage)))
			continue
		}
		t := createdTopic{Topic: r.Topic, Partitions: r.NumPartitions, Existed: existed}
		if !existed {
			t.ID = r.ID.String()
		}
		created = append(created, t)
	}
	return created, errs
}

func (c *topicCreateCmd) print(w io.Writer, created []createdTopic) error {
	if c.JSON {
		return writeJSON(w, nonNil(created))
	}
	for _, t := range created {
		line := fmt.Sprintf("created %s with %s", t.Topic, count(int64(t.Partitions), "partition"))
		if t.Existed {
			line = t.Topic + " was there already"
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

type topicListCmd struct {
	broker
	Internal bool `help:"List internal topics too."`
	JSON     bool `name:"json" help:"Print JSON."`
}

func (topicListCmd) Help() string {
	return `Example:

    varve topic list`
}

type listedTopic struct {
	Topic       string `json:"topic"`
	Partitions  int    `json:"partitions"`
	Replication int    `json:"replication"`
	Internal    bool   `json:"internal,omitempty"`
	ID          string `json:"id"`
}

func (c *topicListCmd) Run(in *invocation) error {
	return c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) error {
		details, err := adm.ListTopicsWithInternal(ctx)
		if err != nil {
			return fmt.Errorf("list topics: %w", err)
		}
		list := []listedTopic{}
		for _, d := range details.Sorted() {
			if d.IsInternal && !c.Internal {
				continue
			}
			list = append(list, listedTopic{d.Topic, len(d.Partitions), d.Partitions.NumReplicas(), d.IsInternal, d.ID.String()})
		}
		if c.JSON {
			return writeJSON(in.stdout, list)
		}
		t := newTable(in.stdout, "TOPIC", "PARTITIONS", "REPLICATION", "ID")
		for _, l := range list {
			t.row(l.Topic, l.Partitions, l.Replication, l.ID)
		}
		return t.flush()
	})
}

type topicDescribeCmd struct {
	broker
	Names []string `arg:"" name:"name" help:"Names of the topics."`
	All   bool     `help:"Show settings that have their default value too."`
	JSON  bool     `name:"json" help:"Print JSON."`
}

func (topicDescribeCmd) Help() string {
	return `Example:

    varve topic describe orders --all`
}

type describedTopic struct {
	Topic      string               `json:"topic"`
	ID         string               `json:"id"`
	Internal   bool                 `json:"internal,omitempty"`
	Partitions []describedPartition `json:"partitions"`
	Configs    []describedConfig    `json:"configs"`
}

type describedPartition struct {
	Partition   int32   `json:"partition"`
	Leader      int32   `json:"leader"`
	LeaderEpoch int32   `json:"leader_epoch"`
	Replicas    []int32 `json:"replicas"`
	Start       int64   `json:"start"`
	End         int64   `json:"end"`
	Error       string  `json:"error,omitempty"`
}

type describedConfig struct {
	Name   string  `json:"name"`
	Value  *string `json:"value"`
	Source string  `json:"source"`
}

func (c *topicDescribeCmd) Run(in *invocation) error {
	return c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) error {
		details, err := adm.ListTopicsWithInternal(ctx, c.Names...)
		if err != nil {
			return fmt.Errorf("describe topics: %w", err)
		}
		list := []describedTopic{}
		for _, name := range c.Names {
			t, err := c.describe(ctx, adm, name, details)
			if err != nil {
				return err
			}
			list = append(list, t)
		}
		if c.JSON {
			return writeJSON(in.stdout, list)
		}
		return printTopics(in.stdout, list)
	})
}

func (c *topicDescribeCmd) describe(ctx context.Context, adm *kadm.Client, name string, details kadm.TopicDetails) (t describedTopic, err error) {
	if err := missing(name, details); err != nil {
		return t, err
	}
	starts, err := adm.ListStartOffsets(ctx, name)
	if err != nil {
		return t, fmt.Errorf("list offsets of %s: %w", name, err)
	}
	ends, err := adm.ListEndOffsets(ctx, name)
	if err != nil {
		return t, fmt.Errorf("list offsets of %s: %w", name, err)
	}
	d := details[name]
	t = describedTopic{Topic: name, ID: d.ID.String(), Internal: d.IsInternal, Partitions: []describedPartition{}}
	for _, p := range d.Partitions.Sorted() {
		start, _ := starts.Lookup(name, p.Partition)
		end, _ := ends.Lookup(name, p.Partition)
		t.Partitions = append(t.Partitions, describedPartition{
			Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, Replicas: nonNil(p.Replicas),
			Start: start.Offset, End: end.Offset, Error: text(errors.Join(p.Err, start.Err, end.Err)),
		})
	}
	t.Configs, err = c.configs(ctx, adm, name)
	return t, err
}

func (c *topicDescribeCmd) configs(ctx context.Context, adm *kadm.Client, name string) ([]describedConfig, error) {
	resources, err := adm.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("describe settings of %s: %w", name, err)
	}
	list := []describedConfig{}
	for _, r := range resources {
		if r.Err != nil {
			return nil, fmt.Errorf("describe settings of %s: %w", name, explain(r.Err, r.ErrMessage))
		}
		for _, k := range r.Configs {
			if c.All || k.Source == kmsg.ConfigSourceDynamicTopicConfig {
				list = append(list, describedConfig{k.Key, k.Value, sourceName(k.Source)})
			}
		}
	}
	slices.SortFunc(list, func(a, b describedConfig) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func sourceName(s kmsg.ConfigSource) string {
	switch s {
	case kmsg.ConfigSourceDynamicTopicConfig:
		return "topic"
	case kmsg.ConfigSourceDynamicBrokerConfig, kmsg.ConfigSourceDynamicDefaultBrokerConfig:
		return "cluster"
	case kmsg.ConfigSourceStaticBrokerConfig:
		return "agent"
	}
	return "default"
}

func printTopics(w io.Writer, list []describedTopic) error {
	for i, d := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "topic %s, id %s\n", d.Topic, d.ID)
		t := newTable(w, "PARTITION", "LEADER", "EPOCH", "REPLICAS", "START", "END", "ERROR")
		for _, p := range d.Partitions {
			t.row(p.Partition, p.Leader, p.LeaderEpoch, strings.Trim(strings.ReplaceAll(fmt.Sprint(p.Replicas), " ", ","), "[]"), p.Start, p.End, p.Error)
		}
		if err := t.flush(); err != nil {
			return err
		}
		if len(d.Configs) == 0 {
			continue
		}
		t = newTable(w, "SETTING", "VALUE", "FROM")
		for _, k := range d.Configs {
			value := "(hidden)"
			if k.Value != nil {
				value = *k.Value
			}
			t.row(k.Name, value, k.Source)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return nil
}

type topicAlterCmd struct {
	broker
	Name         string   `arg:"" help:"Name of the topic."`
	Config       []string `sep:"none" placeholder:"KEY=VALUE" help:"Set a topic's key of varve config; can be repeated."`
	DeleteConfig []string `placeholder:"KEY" help:"Return a key to its default; can be repeated."`
	Partitions   int      `placeholder:"N" help:"Grow to this number of partitions. Keys may then land elsewhere than before."`
}

func (topicAlterCmd) Help() string {
	return `Example:

    varve topic alter orders --config retention.ms=3600000 --delete-config compression.type`
}

func (c *topicAlterCmd) Run(in *invocation) error {
	changes, err := c.changes()
	if err != nil {
		return err
	}
	return c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) error {
		if err := exist(ctx, adm, []string{c.Name}); err != nil {
			return err
		}
		if c.Partitions > 0 {
			if err := c.grow(ctx, adm); err != nil {
				return err
			}
		}
		if len(changes) > 0 {
			if err := c.alter(ctx, adm, changes); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(in.stdout, "altered %s\n", c.Name)
		return err
	})
}

func (c *topicAlterCmd) changes() ([]kadm.AlterConfig, error) {
	set, err := parsePairs("--config", c.Config)
	if err != nil {
		return nil, err
	}
	var changes []kadm.AlterConfig
	for name, value := range set {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: value})
	}
	for _, name := range c.DeleteConfig {
		changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: name})
	}
	if len(changes) == 0 && c.Partitions == 0 {
		return nil, usagef("nothing to alter: give --config, --delete-config or --partitions")
	}
	return changes, nil
}

func (c *topicAlterCmd) grow(ctx context.Context, adm *kadm.Client) error {
	responses, err := adm.UpdatePartitions(ctx, c.Partitions, c.Name)
	if err != nil {
		return fmt.Errorf("add partitions to %s: %w", c.Name, err)
	}
	for _, r := range responses {
		if r.Err != nil {
			return fmt.Errorf("add partitions to %s: %w", c.Name, explain(r.Err, r.ErrMessage))
		}
	}
	return nil
}

func (c *topicAlterCmd) alter(ctx context.Context, adm *kadm.Client, changes []kadm.AlterConfig) error {
	responses, err := adm.AlterTopicConfigs(ctx, changes, c.Name)
	if err != nil {
		return fmt.Errorf("alter %s: %w", c.Name, err)
	}
	for _, r := range responses {
		if r.Err != nil {
			return fmt.Errorf("alter %s: %w", c.Name, explain(r.Err, r.ErrMessage))
		}
	}
	return nil
}

type topicDeleteCmd struct {
	broker
	Names []string `arg:"" name:"name" help:"Names of the topics."`
}

func (topicDeleteCmd) Help() string {
	return `Example:

    varve topic delete orders`
}

func (c *topicDeleteCmd) Run(in *invocation) error {
	return c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) error {
		responses, err := adm.DeleteTopics(ctx, c.Names...)
		if err != nil {
			return fmt.Errorf("delete topics: %w", err)
		}
		var errs error
		for _, name := range c.Names {
			r, err := responses.On(name, nil) // fails where the answer left the topic out
			if err = errors.Join(err, r.Err); err != nil {
				errs = errors.Join(errs, fmt.Errorf("delete topic %q: %w", name, explain(err, r.ErrMessage)))
				continue
			}
			fmt.Fprintf(in.stdout, "deleted %s\n", name)
		}
		return errs
	})
}

type topicElectCmd struct {
	broker
	Name      string  `arg:"" help:"Name of the topic."`
	Partition []int32 `placeholder:"N" help:"Only this partition; can be repeated."`
	Unclean   bool    `help:"Elect a leader although records may be lost."`
	JSON      bool    `name:"json" help:"Print JSON."`
}

func (topicElectCmd) Help() string {
	return `A partition with varve.durability=local whose last leader's journal is away waits for that journal. With --unclean
another agent takes it: what was not flushed is given up, recorded as lost, and left in the log as a gap.

Example:

    varve topic elect orders --partition 3 --unclean`
}

type election struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Elected   bool   `json:"elected"`
	Error     string `json:"error,omitempty"`
}

func (c *topicElectCmd) Run(in *invocation) error {
	return c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) error {
		how := kadm.ElectPreferredReplica
		if c.Unclean {
			how = kadm.ElectLiveReplica
		}
		set, err := c.partitions(ctx, adm)
		if err != nil {
			return err
		}
		results, err := adm.ElectLeaders(ctx, how, set)
		if err != nil {
			return fmt.Errorf("elect leaders of %s: %w", c.Name, err)
		}
		list, err := c.elections(results)
		if err := c.print(in.stdout, list); err != nil {
			return err
		}
		return err
	})
}

func (c *topicElectCmd) partitions(ctx context.Context, adm *kadm.Client) (kadm.TopicsSet, error) {
	details, err := adm.ListTopicsWithInternal(ctx, c.Name)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", c.Name, err)
	}
	if err := missing(c.Name, details); err != nil {
		return nil, err
	}
	var set kadm.TopicsSet
	set.Add(c.Name, c.Partition...)
	if len(c.Partition) == 0 {
		set.Add(c.Name, details[c.Name].Partitions.Numbers()...)
	}
	return set, nil
}

func (c *topicElectCmd) elections(results kadm.ElectLeadersResults) (list []election, errs error) {
	for _, r := range results[c.Name] {
		e := election{Topic: r.Topic, Partition: r.Partition, Elected: r.Err == nil}
		if r.Err != nil && !errors.Is(r.Err, kerr.ElectionNotNeeded) {
			err := explain(r.Err, r.ErrMessage)
			e.Error = err.Error()
			errs = errors.Join(errs, fmt.Errorf("elect a leader of %s partition %d: %w", r.Topic, r.Partition, err))
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b election) int { return int(a.Partition) - int(b.Partition) })
	return list, errs
}

func (c *topicElectCmd) print(w io.Writer, list []election) error {
	if c.JSON {
		return writeJSON(w, nonNil(list))
	}
	t := newTable(w, "TOPIC", "PARTITION", "RESULT")
	for _, e := range list {
		result := "not needed, it has a leader"
		switch {
		case e.Error != "":
			result = e.Error
		case e.Elected:
			result = "elected"
		}
		t.row(e.Topic, e.Partition, result)
	}
	return t.flush()
}

// missing fails when details lacks the topic.
func missing(topic string, details kadm.TopicDetails) error {
	d, ok := details[topic]
	switch {
	case !ok, errors.Is(d.Err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("topic %q does not exist; varve topic list shows those that do", topic)
	case d.Err != nil:
		return fmt.Errorf("topic %q: %w", topic, d.Err)
	}
	return nil
}

// parsePairs reads KEY=VALUE arguments of a flag.
func parsePairs(flag string, pairs []string) (map[string]*string, error) {
	out := map[string]*string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usagef("%s: got %q, want KEY=VALUE", flag, pair)
		}
		out[key] = &value
	}
	return out, nil
}

// nonNil keeps JSON's empty list a list.
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
