package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// consumeCmd is varve consume.
type consumeCmd struct {
	broker
	position
	Topics    []string `arg:"" name:"topic" help:"Names of the topics."`
	Partition []int32  `placeholder:"N" help:"Only this partition of each topic; can be repeated."`
	Group     string   `placeholder:"NAME" help:"Read as a member of this consumer group, and commit what was written out."`
	UntilEnd  bool     `help:"Stop at what was the end of the log at the start."`
	Count     int64    `placeholder:"N" help:"Stop after this many records."`
	Format    string   `short:"f" default:"%v\\n" placeholder:"LAYOUT" help:"How to write a record; see above. Default: the value and a newline."`
	JSON      bool     `name:"json" help:"Write each record as a line of JSON, which produce --json reads."`
}

func (consumeCmd) Help() string {
	return `Starts at the beginning unless --from, --offset or --time says otherwise; a group starts where it stopped, and --from
counts only where it has no committed offset. Ends at Ctrl-C, --count or --until-end.

Layout: %t topic, %p partition, %o offset, %e leader epoch, %T timestamp in ms, %d timestamp as a date, %k key,
%K its length, %v or %s value, %V or %S its length, %h headers, %H their number, %% percent; \n \t \r \0 \\ \xNN.

Example:

    varve consume orders --time -1h --until-end -f '%d %p/%o %k=%v\n'`
}

func (c *consumeCmd) Run(in *invocation) error {
	write, err := c.writer()
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	reader, err := c.open(in)
	if err != nil {
		return err
	}
	defer reader.client.Close()
	reader.meter = newProgress(in, "consumed", isTerminal(in.stderr) && !isTerminal(in.stdout))
	reader.write = write
	err = reader.run(in)
	reader.meter.end()
	if isTerminal(in.stderr) {
		fmt.Fprintln(in.stderr, reader.meter.line())
	}
	return err
}

func (c *consumeCmd) writer() (recordWriter, error) {
	if c.JSON {
		return jsonWriter, nil
	}
	return formatWriter(c.Format)
}

func (c *consumeCmd) check() error {
	switch {
	case c.Group != "" && (c.Offset != nil || c.Time != ""):
		return usagef("--offset and --time do not go with --group: move the group with varve group seek %s", c.Group)
	case c.Group != "" && len(c.Partition) > 0:
		return usagef("--partition does not go with --group: the group hands out partitions")
	case c.Group == "" && c.From == "stored":
		return usagef("--from stored needs --group")
	case c.Count < 0:
		return usagef("--count: got %d, want at least 1", c.Count)
	}
	return nil
}

// reader is one run of consume.
type reader struct {
	*consumeCmd
	client *kgo.Client
	write  recordWriter
	meter  *progress
	// left holds, with --until-end, what each partition still has to reach.
	left    map[part]int64
	written int64 // counts towards --count
}

type part struct {
	topic     string
	partition int32
}

// open resolves where to start and to end, and returns a reader that is about to start there.
func (c *consumeCmd) open(in *invocation) (*reader, error) {
	r := &reader{consumeCmd: c, left: map[part]int64{}}
	var spans map[string]map[int32]span
	err := c.admin(in.ctx, func(ctx context.Context, adm *kadm.Client) (err error) {
		spans, err = c.spans(ctx, adm, in.now(), c.Topics)
		return err
	})
	if err != nil {
		return nil, err
	}
	starts := map[string]map[int32]kgo.Offset{}
	for topic, partitions := range spans {
		starts[topic] = map[int32]kgo.Offset{}
		for partition, s := range partitions {
			if len(c.Partition) > 0 && !slices.Contains(c.Partition, partition) {
				continue
			}
			starts[topic][partition] = kgo.NewOffset().At(s.at)
			if s.at < s.end || c.Group != "" && s.start < s.end {
				r.left[part{topic, partition}] = s.end
			}
		}
		if len(starts[topic]) == 0 {
			return nil, fmt.Errorf("topic %q has no partition %v", topic, c.Partition)
		}
	}
	opts := []kgo.Opt{kgo.KeepControlRecords()} // a log may end in control records, and --until-end has to see them
	if c.Group == "" {
		opts = append(opts, kgo.ConsumePartitions(starts), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	} else {
		opts = append(opts, kgo.ConsumeTopics(c.Topics...), kgo.ConsumerGroup(c.Group), kgo.AutoCommitMarks(), kgo.ConsumeResetOffset(c.groupStart()))
	}
	r.client, err = c.connect(in.ctx, opts...)
	return r, err
}

// groupStart is where a group starts in a partition that it has no offset for.
func (c *consumeCmd) groupStart() kgo.Offset {
	if c.From == "end" {
		return kgo.NewOffset().AtEnd()
	}
	return kgo.NewOffset().AtStart()
}

// run writes records out until ctx ends or a bound is reached. Ctrl-C is a normal end.
func (r *reader) run(in *invocation) error {
	out := bufio.NewWriterSize(in.stdout, 256<<10)
	err := r.poll(in.ctx, out)
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	if r.Group == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(in.ctx), r.Timeout)
	defer cancel()
	if committed := r.client.CommitMarkedOffsets(ctx); committed != nil && err == nil {
		return fmt.Errorf("commit the offsets of group %q: %w", r.Group, committed)
	}
	return err
}

func (r *reader) poll(ctx context.Context, out *bufio.Writer) error {
	for !r.done() {
		fetches, err := r.fetch(ctx)
		if err != nil || ctx.Err() != nil {
			return err
		}
		for it := fetches.RecordIter(); !it.Done() && !r.counted(); {
			if err := r.take(it.Next(), out); err != nil {
				return err
			}
		}
		if err := out.Flush(); err != nil {
			return fmt.Errorf("write to standard output: %w", err)
		}
		if fetches.NumRecords() == 0 && r.Group != "" && r.UntilEnd {
			if err := r.others(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetch waits for records; with --until-end in a group it looks up now and then, since other members read too.
func (r *reader) fetch(ctx context.Context) (kgo.Fetches, error) {
	wait := ctx
	if r.Group != "" && r.UntilEnd {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
	}
	fetches := r.client.PollFetches(wait)
	for _, e := range fetches.Errors() {
		if errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded) {
			continue
		}
		if e.Topic == "" {
			return nil, fmt.Errorf("consume: %w", e.Err)
		}
		return nil, fmt.Errorf("consume %s partition %d: %w", e.Topic, e.Partition, e.Err)
	}
	return fetches, nil
}

func (r *reader) take(rec *kgo.Record, out *bufio.Writer) error {
	p := part{rec.Topic, rec.Partition}
	end, bounded := r.left[p]
	if r.UntilEnd && (!bounded || rec.Offset >= end) {
		return nil // it came after the start
	}
	if !rec.Attrs.IsControl() {
		if err := r.write(out, rec); err != nil {
			return fmt.Errorf("write to standard output: %w", err)
		}
		r.written++
		r.meter.add(1, int64(len(rec.Key)+len(rec.Value)))
	}
	if r.Group != "" {
		r.client.MarkCommitRecords(rec)
	}
	if bounded && rec.Offset+1 >= end {
		delete(r.left, p)
	}
	return nil
}

// others strikes out what the group has committed, by whichever member.
func (r *reader) others(ctx context.Context) error {
	committed, err := kadm.NewClient(r.client).FetchOffsets(ctx, r.Group)
	if err != nil {
		return fmt.Errorf("read the offsets of group %q: %w", r.Group, err)
	}
	for p, end := range r.left {
		if o, ok := committed.Lookup(p.topic, p.partition); ok && o.At >= end {
			delete(r.left, p)
		}
	}
	return nil
}

func (r *reader) counted() bool { return r.Count > 0 && r.written >= r.Count }

func (r *reader) done() bool { return r.counted() || r.UntilEnd && len(r.left) == 0 }
