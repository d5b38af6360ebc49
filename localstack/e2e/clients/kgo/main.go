// Command kgo is the franz-go client behind the suite's contract.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"varve.dev/localstack/e2e/contract"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "kgo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bootstrap, command string, args []string) error {
	switch command {
	case "produce":
		return produce(ctx, bootstrap, args[0], args[1])
	case "group":
		limit, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		return group(ctx, bootstrap, args[0], args[1], args[2], limit, args[4:])
	case "read":
		millis, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		return read(ctx, bootstrap, args[0], millis)
	}
	return fmt.Errorf("unknown command %q", command)
}

func codec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.CompressionCodec{}, fmt.Errorf("unknown codec %q", name)
}

func produce(ctx context.Context, bootstrap, topic, codecName string) error {
	records, err := contract.Records(os.Stdin)
	if err != nil {
		return err
	}
	c, err := codec(codecName)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ProducerBatchCompression(c),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(100*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	out := make([]*kgo.Record, len(records))
	for i, r := range records {
		out[i] = &kgo.Record{Topic: topic, Partition: r.Partition, Key: r.Key, Value: r.Value,
			Timestamp: time.UnixMilli(r.Timestamp), Headers: headers(r.Headers)}
	}
	if err := cl.ProduceSync(ctx, out...).FirstErr(); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	for i, r := range out {
		e := contract.Event{Event: "ack", Seq: records[i].Seq, Partition: r.Partition, Offset: r.Offset}
		if err := contract.Print(os.Stdout, e); err != nil {
			return err
		}
	}
	return contract.Print(os.Stdout, contract.Event{Event: "produced", Count: len(out)})
}

func headers(in []contract.Header) []kgo.RecordHeader {
	var out []kgo.RecordHeader
	for _, h := range in {
		out = append(out, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return out
}

func printRecord(r *kgo.Record) error {
	out := contract.Record{Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value,
		Timestamp: r.Timestamp.UnixMilli()}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, contract.Header{Key: h.Key, Value: h.Value})
	}
	return contract.Print(os.Stdout, contract.Event{Event: "record", Record: &out})
}

// owned is what the member owns now; the client calls back from goroutines of its own.
type owned struct {
	mu         sync.Mutex
	partitions []int32
}

func (o *owned) change(add, remove []int32) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.partitions = slices.DeleteFunc(append(o.partitions, add...), func(p int32) bool { return slices.Contains(remove, p) })
	return contract.Print(os.Stdout, contract.Event{Event: "assignment", Partitions: o.partitions})
}

func group(ctx context.Context, bootstrap, topic, name, assignor string, limit int, instance []string) error {
	balancer := kgo.GroupBalancer(kgo.CooperativeStickyBalancer())
	if assignor == "eager" {
		balancer = kgo.RangeBalancer()
	}
	var own owned
	taken := func(_ context.Context, _ *kgo.Client, m map[string][]int32) { report(own.change(m[topic], nil)) }
	given := func(ctx context.Context, cl *kgo.Client, m map[string][]int32) {
		report(cl.CommitMarkedOffsets(ctx))
		report(own.change(nil, m[topic]))
	}
	opts := []kgo.Opt{kgo.SeedBrokers(bootstrap), kgo.ConsumeTopics(topic), kgo.ConsumerGroup(name),
		kgo.Balancers(balancer), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitMarks(),
		kgo.BlockRebalanceOnPoll(), kgo.OnPartitionsAssigned(taken), kgo.OnPartitionsRevoked(given),
		kgo.OnPartitionsLost(given), kgo.HeartbeatInterval(300 * time.Millisecond), kgo.SessionTimeout(6 * time.Second)}
	for _, id := range instance {
		opts = append(opts, kgo.InstanceID(id))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.CloseAllowingRebalance()
	leave, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := contract.StdinEnds()
	go func() { // ends with the program at the latest: standard input ends then
		<-ended
		cancel()
	}()
	if err := consume(leave, cl, limit); err != nil {
		return err
	}
	if err := cl.CommitMarkedOffsets(ctx); err != nil {
		return fmt.Errorf("commit before leaving: %w", err)
	}
	cl.AllowRebalance()
	if err := cl.LeaveGroupContext(ctx); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return contract.Print(os.Stdout, contract.Event{Event: "done"})
}

// consume prints and marks records until ctx ends or limit is reached.
func consume(ctx context.Context, cl *kgo.Client, limit int) error {
	for n := 0; ; {
		cl.AllowRebalance()
		fetches := cl.PollRecords(ctx, remaining(limit, n))
		if err := fetches.Err0(); errors.Is(err, context.Canceled) {
			return nil
		}
		for _, e := range fetches.Errors() {
			return fmt.Errorf("fetch %s/%d: %w", e.Topic, e.Partition, e.Err)
		}
		for _, r := range fetches.Records() {
			if err := printRecord(r); err != nil {
				return err
			}
			cl.MarkCommitRecords(r)
			n++
		}
		if limit > 0 && n >= limit {
			return nil
		}
	}
}

func remaining(limit, n int) int {
	if limit == 0 {
		return 1000 // one poll's bound; any will do
	}
	return limit - n
}

// report is for call-backs, which have nobody to return an error to: the process ends, and the suite shows the line.
func report(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "kgo: in a rebalance:", err)
		os.Exit(1)
	}
}

func read(ctx context.Context, bootstrap, topic string, millis int64) error {
	adm, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		return err
	}
	defer adm.Close()
	starts, err := kadm.NewClient(adm).ListOffsetsAfterMilli(ctx, millis, topic)
	if err = errors.Join(err, starts.Error()); err != nil {
		return fmt.Errorf("offsets at %d: %w", millis, err)
	}
	ends, err := kadm.NewClient(adm).ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return fmt.Errorf("end offsets: %w", err)
	}
	from, left := map[int32]kgo.Offset{}, map[int32]int64{}
	starts.Each(func(o kadm.ListedOffset) {
		end, _ := ends.Lookup(topic, o.Partition)
		report(contract.Print(os.Stdout, contract.Event{Event: "offset", Partition: o.Partition, Offset: o.Offset}))
		if o.Offset >= 0 && o.Offset < end.Offset {
			from[o.Partition], left[o.Partition] = kgo.NewOffset().At(o.Offset), end.Offset
		}
	})
	if err := readTo(ctx, bootstrap, topic, from, left); err != nil {
		return err
	}
	return contract.Print(os.Stdout, contract.Event{Event: "done"})
}

func readTo(ctx context.Context, bootstrap, topic string, from map[int32]kgo.Offset, left map[int32]int64) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	if err != nil {
		return err
	}
	defer cl.Close()
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			return fmt.Errorf("fetch %s/%d: %w", e.Topic, e.Partition, e.Err)
		}
		for _, r := range fetches.Records() {
			if err := printRecord(r); err != nil {
				return err
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		}
	}
	return nil
}
