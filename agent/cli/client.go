package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// broker says which cluster a command talks to. Its commands are ordinary Kafka clients and work with any broker.
type broker struct {
	Brokers string        `env:"VARVE_BROKERS" default:"127.0.0.1:9092" placeholder:"HOST:PORT,…" help:"Where the cluster answers (${env}). Default: ${default}."`
	Timeout time.Duration `default:"15s" help:"How long to wait for an answer."`
}

// connect returns a client of brokers that have answered, so that a wrong address is one clear sentence and not a long wait.
func (b *broker) connect(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	seeds := strings.Split(b.Brokers, ",")
	opts = append([]kgo.Opt{kgo.SeedBrokers(seeds...), kgo.ClientID("varve-cli"), kgo.RetryTimeout(b.Timeout), kgo.DialTimeout(b.Timeout)}, opts...)
	if err := b.ping(ctx); err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, usageError{err}
	}
	return client, nil
}

// ping asks for once, without the retries that a client makes of right.
func (b *broker) ping(ctx context.Context) error {
	probe, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(b.Brokers, ",")...), kgo.RequestRetries(0))
	if err != nil {
		return usagef("--brokers: %w", err)
	}
	defer probe.Close()
	limited, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	err = probe.Ping(limited)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errors.New("interrupted")
	}
	return fmt.Errorf("no broker answers at %s (%w); is the agent running, and is --brokers or VARVE_BROKERS right?", b.Brokers, err)
}

// admin runs do with an admin client, under the command's timeout.
func (b *broker) admin(ctx context.Context, do func(context.Context, *kadm.Client) error) error {
	client, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	adm := kadm.NewClient(client)
	adm.SetTimeoutMillis(int32(b.Timeout.Milliseconds()))
	err = do(ctx, adm)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v: %w", b.Timeout, err)
	}
	return err
}

// explain joins an error with the sentence that the broker sent along.
func explain(err error, message string) error {
	if err == nil || message == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, message)
}

// parseTime reads RFC 3339, milliseconds since 1970, or a duration before now such as -1h or -7d.
func parseTime(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if strings.HasPrefix(text, "-") {
		if d, err := parseDuration(text[1:]); err == nil {
			return now.Add(-d), nil
		}
	} else if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.UnixMilli(ms), nil
	}
	return time.Time{}, usagef("--time: got %q, want 2026-01-31T08:00:00Z, milliseconds since 1970, or a time ago such as -1h or -7d", text)
}

// parseDuration adds days to what time.ParseDuration reads.
func parseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}

// position is where in a log to go; at most one of its flags is given.
type position struct {
	From   string `enum:"beginning,end,stored," default:"" placeholder:"WHERE" help:"beginning, end, or stored (the group's committed offset, else the beginning)."`
	Offset *int64 `placeholder:"N" help:"This offset in each partition; a negative one counts from the end."`
	Time   string `placeholder:"TIME" help:"The first record at or after this time: 2026-01-31T08:00:00Z, milliseconds, or a time ago such as -1h."`
}

// Validate is called by kong.
func (p *position) Validate() error {
	given := 0
	for _, is := range []bool{p.From != "", p.Offset != nil, p.Time != ""} {
		if is {
			given++
		}
	}
	if given > 1 {
		return errors.New("--from, --offset and --time exclude each other")
	}
	return nil
}

// span is one partition's log and where to go in it.
type span struct {
	start, end, at int64
}

// spans resolves the position in every partition of topics, within what each log holds.
func (p *position) spans(ctx context.Context, adm *kadm.Client, now time.Time, topics []string) (map[string]map[int32]span, error) {
	if err := exist(ctx, adm, topics); err != nil {
		return nil, err
	}
	starts, err := listed(adm.ListStartOffsets(ctx, topics...))
	if err != nil {
		return nil, err
	}
	ends, err := listed(adm.ListEndOffsets(ctx, topics...))
	if err != nil {
		return nil, err
	}
	times := ends
	if p.Time != "" {
		t, err := parseTime(p.Time, now)
		if err != nil {
			return nil, err
		}
		if times, err = listed(adm.ListOffsetsAfterMilli(ctx, t.UnixMilli(), topics...)); err != nil {
			return nil, err
		}
	}
	out := map[string]map[int32]span{}
	starts.Each(func(o kadm.ListedOffset) {
		end, _ := ends.Lookup(o.Topic, o.Partition)
		byTime, _ := times.Lookup(o.Topic, o.Partition)
		s := span{start: o.Offset, end: max(o.Offset, end.Offset)}
		s.at = min(max(p.choose(s, byTime.Offset), s.start), s.end)
		if out[o.Topic] == nil {
			out[o.Topic] = map[int32]span{}
		}
		out[o.Topic][o.Partition] = s
	})
	return out, nil
}

func (p *position) choose(s span, byTime int64) int64 {
	switch {
	case p.Time != "" && byTime < 0, p.From == "end":
		return s.end // nothing is as late as the time asked for
	case p.Time != "":
		return byTime
	case p.Offset != nil && *p.Offset < 0:
		return s.end + *p.Offset
	case p.Offset != nil:
		return *p.Offset
	}
	return s.start
}

func listed(offsets kadm.ListedOffsets, err error) (kadm.ListedOffsets, error) {
	if err == nil {
		err = offsets.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	return offsets, nil
}

// exist fails for the first of topics that the cluster does not have.
func exist(ctx context.Context, adm *kadm.Client, topics []string) error {
	details, err := adm.ListTopicsWithInternal(ctx, topics...)
	if err != nil {
		return fmt.Errorf("look up topics: %w", err)
	}
	for _, topic := range topics {
		if err := missing(topic, details); err != nil {
			return err
		}
	}
	return nil
}
