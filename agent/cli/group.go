package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// groupCmd is varve group.
type groupCmd struct {
	List     groupListCmd     `cmd:"" help:"List consumer groups."`
	Describe groupDescribeCmd `cmd:"" help:"Show groups' members, offsets and lag."`
	Seek     groupSeekCmd     `cmd:"" help:"Move a group's committed offsets."`
	Delete   groupDeleteCmd   `cmd:"" help:"Delete groups and their committed offsets."`
}

type groupListCmd struct {
	broker
	JSON bool `name:"json" help:"Print JSON."`
}

func (groupListCmd) Help() string {
	return `Example:

    varve group list`
}

type listedGroup struct {
	Group       string `json:"group"`
	State       string `json:"state"`
	Protocol    string `json:"protocol_type"`
	Coordinator int32  `json:"coordinator"`
}

func (c *groupListCmd) Run(in *invocation) error {
	return c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) error {
		groups, err := adm.ListGroups(ctx)
		if err != nil {
			return fmt.Errorf("list groups: %w", err)
		}
		list := []listedGroup{}
		for _, g := range groups.Sorted() {
			list = append(list, listedGroup{g.Group, g.State, g.ProtocolType, g.Coordinator})
		}
		if c.JSON {
			return writeJSON(in.stdout, list)
		}
		t := newTable(in.stdout, "GROUP", "STATE", "PROTOCOL", "COORDINATOR")
		for _, g := range list {
			t.row(g.Group, g.State, g.Protocol, g.Coordinator)
		}
		return t.flush()
	})
}

type groupDescribeCmd struct {
	broker
	Names []string `arg:"" name:"name" help:"Names of the groups."`
	JSON  bool     `name:"json" help:"Print JSON."`
}

func (groupDescribeCmd) Help() string {
	return `Example:

    varve group describe billing`
}

type describedGroup struct {
	Group       string            `json:"group"`
	State       string            `json:"state"`
	Protocol    string            `json:"protocol"`
	Coordinator int32             `json:"coordinator"`
	Members     []describedMember `json:"members"`
	Lag         int64             `json:"lag"`
	Partitions  []groupPartition  `json:"partitions"`
}

type describedMember struct {
	Member   string  `json:"member"`
	Instance *string `json:"instance,omitempty"`
	Client   string  `json:"client"`
	Host     string  `json:"host"`
}

type groupPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"` // -1: none
	Start     int64  `json:"start"`
	End       int64  `json:"end"`
	Lag       int64  `json:"lag"`
	Member    string `json:"member,omitempty"`
	Client    string `json:"client,omitempty"`
	Error     string `json:"error,omitempty"`
}

func (c *groupDescribeCmd) Run(in *invocation) error {
	return c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) error {
		lags, err := adm.Lag(ctx, c.Names...)
		if err != nil {
			return fmt.Errorf("describe groups: %w", err)
		}
		list := []describedGroup{}
		for _, name := range c.Names {
			g, err := describeGroup(name, lags)
			if err != nil {
				return err
			}
			list = append(list, g)
		}
		if c.JSON {
			return writeJSON(in.stdout, list)
		}
		return printGroups(in.stdout, list)
	})
}

func describeGroup(name string, lags kadm.DescribedGroupLags) (describedGroup, error) {
	l, ok := lags[name]
	if !ok || l.State == "Dead" || errors.Is(l.DescribeErr, kerr.GroupIDNotFound) {
		return describedGroup{}, fmt.Errorf("group %q does not exist; varve group list shows those that do", name)
	}
	if err := l.Error(); err != nil {
		return describedGroup{}, fmt.Errorf("group %q: %w", name, err)
	}
	g := describedGroup{
		Group: name, State: l.State, Protocol: l.Protocol, Coordinator: l.Coordinator.NodeID, Lag: l.Lag.Total(),
		Members: []describedMember{}, Partitions: []groupPartition{},
	}
	for _, m := range l.Members {
		g.Members = append(g.Members, describedMember{m.MemberID, m.InstanceID, m.ClientID, m.ClientHost})
	}
	for _, p := range l.Lag.Sorted() {
		row := groupPartition{
			Topic: p.Topic, Partition: p.Partition, Committed: p.Commit.At, Start: p.Start.Offset, End: p.End.Offset, Lag: p.Lag, Error: text(p.Err),
		}
		if p.Member != nil {
			row.Member, row.Client = p.Member.MemberID, p.Member.ClientID
		}
		g.Partitions = append(g.Partitions, row)
	}
	return g, nil
}

func printGroups(w io.Writer, list []describedGroup) error {
	for i, g := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "group %s, %s, %s, lag %d\n", g.Group, g.State, count(int64(len(g.Members)), "member"), g.Lag)
		t := newTable(w, "TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER", "CLIENT", "ERROR")
		for _, p := range g.Partitions {
			committed := "-"
			if p.Committed >= 0 {
				committed = fmt.Sprint(p.Committed)
			}
			t.row(p.Topic, p.Partition, committed, p.End, p.Lag, p.Member, p.Client, p.Error)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return nil
}

type groupSeekCmd struct {
	broker
	position
	Name      string   `arg:"" help:"Name of the group."`
	Topic     []string `placeholder:"TOPIC" help:"Only this topic; can be repeated. Default: every topic the group has offsets in."`
	Partition []int32  `placeholder:"N" help:"Only this partition of each topic; can be repeated."`
	DryRun    bool     `help:"Show what would change, and change nothing."`
	JSON      bool     `name:"json" help:"Print JSON."`
}

func (groupSeekCmd) Help() string {
	return `The group must have no members while its offsets are moved.

Example:

    varve group seek billing --topic orders --time -1h`
}

type seek struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Before    int64  `json:"before"` // -1: none
	After     int64  `json:"after"`
}

func (c *groupSeekCmd) Run(in *invocation) error {
	if c.From == "stored" || c.From == "" && c.Offset == nil && c.Time == "" {
		return usagef("where to? give --from beginning, --from end, --offset or --time")
	}
	return c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) error {
		seeks, err := c.plan(ctx, adm, in)
		if err != nil {
			return err
		}
		if !c.DryRun {
			if err := c.commit(ctx, adm, seeks); err != nil {
				return err
			}
		}
		if c.JSON {
			return writeJSON(in.stdout, nonNil(seeks))
		}
		t := newTable(in.stdout, "TOPIC", "PARTITION", "BEFORE", "AFTER")
		for _, s := range seeks {
			t.row(s.Topic, s.Partition, s.Before, s.After)
		}
		return t.flush()
	})
}

func (c *groupSeekCmd) plan(ctx context.Context, adm *kadm.Client, in *invocation) ([]seek, error) {
	committed, err := adm.FetchOffsets(ctx, c.Name)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("read the offsets of group %q: %w", c.Name, err)
	}
	topics := c.Topic
	if len(topics) == 0 {
		for topic := range committed {
			topics = append(topics, topic)
		}
	}
	if len(topics) == 0 {
		return nil, fmt.Errorf("group %q has no committed offsets: give --topic", c.Name)
	}
	spans, err := c.spans(ctx, adm, in.now(), topics)
	if err != nil {
		return nil, err
	}
	var seeks []seek
	for topic, partitions := range spans {
		for partition, s := range partitions {
			if len(c.Partition) > 0 && !slices.Contains(c.Partition, partition) {
				continue
			}
			before := int64(-1)
			if o, ok := committed.Lookup(topic, partition); ok {
				before = o.At
			}
			seeks = append(seeks, seek{topic, partition, before, s.at})
		}
	}
	if len(seeks) == 0 {
		return nil, fmt.Errorf("no partition of %v is among %v", topics, c.Partition)
	}
	slices.SortFunc(seeks, func(a, b seek) int { return compareParts(a.Topic, a.Partition, b.Topic, b.Partition) })
	return seeks, nil
}

func (c *groupSeekCmd) commit(ctx context.Context, adm *kadm.Client, seeks []seek) error {
	var offsets kadm.Offsets
	for _, s := range seeks {
		offsets.AddOffset(s.Topic, s.Partition, s.After, -1)
	}
	err := adm.CommitAllOffsets(ctx, c.Name, offsets)
	switch {
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.RebalanceInProgress), errors.Is(err, kerr.IllegalGeneration):
		return fmt.Errorf("group %q has members: stop them first, then seek", c.Name)
	case err != nil:
		return fmt.Errorf("commit the offsets of group %q: %w", c.Name, err)
	}
	return nil
}

type groupDeleteCmd struct {
	broker
	Names []string `arg:"" name:"name" help:"Names of the groups."`
}

func (groupDeleteCmd) Help() string {
	return `A group with members cannot be deleted.

Example:

    varve group delete billing`
}

func (c *groupDeleteCmd) Run(in *invocation) error {
	return c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) error {
		responses, err := adm.DeleteGroups(ctx, c.Names...)
		if err != nil {
			return fmt.Errorf("delete groups: %w", err)
		}
		var errs error
		for _, r := range responses.Sorted() {
			if r.Err != nil {
				errs = errors.Join(errs, fmt.Errorf("delete group %q: %w", r.Group, r.Err))
				continue
			}
			fmt.Fprintf(in.stdout, "deleted %s\n", r.Group)
		}
		return errs
	})
}

func compareParts(topicA string, a int32, topicB string, b int32) int {
	if topicA != topicB {
		if topicA < topicB {
			return -1
		}
		return 1
	}
	return int(a) - int(b)
}
