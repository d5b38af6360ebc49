package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// maxRecordBytes bounds one record from standard input. Agents accept 1 MiB unless told otherwise, and 100 MiB at most.
	maxRecordBytes = 100 << 20

	// maxBufferedBytes bounds what waits for the broker's answers: a few flushes of an agent.
	maxBufferedBytes = 64 << 20
)

// produceCmd is varve produce.
type produceCmd struct {
	broker
	Topic        string        `arg:"" help:"Name of the topic."`
	KeySeparator string        `placeholder:"TEXT" help:"Takes what stands before TEXT in a line as the record's key. Escapes such as \\t are read."`
	Header       []string      `sep:"none" placeholder:"KEY=VALUE" help:"Add a header to each record; can be repeated."`
	JSON         bool          `name:"json" help:"Read lines of JSON as consume --json writes them, and print the result as JSON."`
	Partition    int32         `default:"-1" help:"Write to this partition; -1 chooses by the key."`
	Codec        string        `enum:"none,gzip,snappy,lz4,zstd" default:"none" help:"Compression: none, gzip, snappy, lz4 or zstd."`
	Acks         string        `enum:"all,1,0" default:"all" help:"What to wait for: all, 1 or 0."`
	Delivery     time.Duration `default:"2m" help:"Give up when the broker has accepted nothing for this long."`
}

func (produceCmd) Help() string {
	return `Each line of standard input is a record. Nothing goes on after a record that cannot be written.

Example:

    printf 'a:1\nb:2\n' | varve produce orders --key-separator : --codec zstd`
}

type produceResult struct {
	Topic   string  `json:"topic"`
	Records int64   `json:"records"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

func (c *produceCmd) Run(in *invocation) error {
	decode, err := c.decoder()
	if err != nil {
		return err
	}
	client, err := c.connect(in.ctx, c.options()...)
	if err != nil {
		return err
	}
	defer client.Close()
	meter := newProgress(in, "produced", isTerminal(in.stderr))
	err = c.produce(in, client, decode, meter)
	meter.end()
	if err != nil {
		records, _, _ := meter.total()
		return fmt.Errorf("%w (%s written before)", err, count(records, "record"))
	}
	if c.JSON {
		records, bytes, seconds := meter.total()
		return writeJSON(in.stdout, produceResult{c.Topic, records, bytes, seconds})
	}
	_, err = fmt.Fprintf(in.stderr, "%s\n", meter.line())
	return err
}

func (c *produceCmd) options() []kgo.Opt {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	opts := []kgo.Opt{
		kgo.DefaultProduceTopic(c.Topic), kgo.AllowAutoTopicCreation(), kgo.ProducerBatchCompression(codecs[c.Codec]),
		kgo.MaxBufferedBytes(maxBufferedBytes), kgo.ProducerBatchMaxBytes(1_000_000),
		kgo.RecordPartitioner(partitioner{kgo.StickyKeyPartitioner(nil)}),
	}
	switch c.Acks {
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	}
	return opts
}

// partitioner takes a record's partition where it names one (0 and up), and chooses by its key as Kafka's clients do
// where it does not.
type partitioner struct{ kgo.Partitioner }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return topicPartitioner{p.Partitioner.ForTopic(topic)}
}

type topicPartitioner struct{ kgo.TopicPartitioner }

func (p topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition >= 0 || p.TopicPartitioner.RequiresConsistency(r)
}

func (p topicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Partition >= 0 {
		return int(r.Partition)
	}
	return p.TopicPartitioner.Partition(r, n)
}

func (p topicPartitioner) OnNewBatch() {
	if b, ok := p.TopicPartitioner.(kgo.TopicPartitionerOnNewBatch); ok {
		b.OnNewBatch()
	}
}

// decoder turns a line into a record.
func (c *produceCmd) decoder() (func(line []byte) (*kgo.Record, error), error) {
	headers, err := parseHeaders(c.Header)
	if err != nil {
		return nil, err
	}
	separator, err := unescape(c.KeySeparator)
	if err != nil {
		return nil, usageError{err}
	}
	return func(line []byte) (*kgo.Record, error) {
		r := &kgo.Record{Partition: -1}
		switch {
		case c.JSON:
			if r, err = fromJSON(line); err != nil {
				return nil, err
			}
		case separator == "":
			r.Value = line
		default:
			key, value, ok := bytes.Cut(line, []byte(separator))
			if !ok {
				return nil, fmt.Errorf("the separator %q is not in it", separator)
			}
			r.Key, r.Value = key, value
		}
		if c.Partition >= 0 {
			r.Partition = c.Partition
		}
		r.Headers = append(r.Headers, headers...)
		return r, nil
	}, nil
}

func parseHeaders(pairs []string) (headers []kgo.RecordHeader, err error) {
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, usagef("--header: got %q, want KEY=VALUE", pair)
		}
		headers = append(headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	return headers, nil
}

// produce writes every line, then waits for the answers. The first record that cannot be written ends it. Ctrl-C ends
// the reading: what was read is still written.
func (c *produceCmd) produce(in *invocation, client *kgo.Client, decode func([]byte) (*kgo.Record, error), meter *progress) error {
	ctx, stop := context.WithCancelCause(context.WithoutCancel(in.ctx))
	defer stop(nil)
	lines := make(chan []byte)
	read := make(chan error, 1)
	// Reading cannot be interrupted, so it is not waited for when ctx ends: the process is about to.
	go func() { read <- readLines(ctx, in.stdin, lines) }()

	alarm := c.watch(client, stop)
	defer alarm.Stop()
	answered := func(r *kgo.Record, err error) {
		if err != nil {
			stop(fmt.Errorf("write to %s: %w", c.Topic, err))
			return
		}
		alarm.Reset(c.Delivery)
		meter.add(1, int64(len(r.Key)+len(r.Value)))
	}
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return c.finish(ctx, client, <-read)
			}
			r, err := decode(line)
			if err != nil {
				return c.finish(ctx, client, fmt.Errorf("line %q cannot be read as a record: %w", cut(line), err))
			}
			client.Produce(ctx, r, answered)
		case <-in.ctx.Done():
			return c.finish(ctx, client, errors.New("interrupted: what was read is written"))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// watch ends the command when records wait and the broker has accepted none for long. The client's own limit counts
// from a record's timestamp, which may be years ago.
func (c *produceCmd) watch(client *kgo.Client, stop context.CancelCauseFunc) *time.Timer {
	var alarm *time.Timer
	ready := make(chan struct{})
	alarm = time.AfterFunc(c.Delivery, func() {
		<-ready
		if client.BufferedProduceRecords() == 0 {
			alarm.Reset(c.Delivery)
			return
		}
		stop(fmt.Errorf("write to %s: the broker has accepted nothing for %v", c.Topic, c.Delivery))
	})
	close(ready)
	return alarm
}

// finish waits for the answers that are due, and then reports err.
func (c *produceCmd) finish(ctx context.Context, client *kgo.Client, err error) error {
	flushed := client.Flush(ctx)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return errors.Join(err, flushed)
}

// readLines sends each line on, without its line end. It closes lines when there are no more.
func readLines(ctx context.Context, r io.Reader, lines chan<- []byte) error {
	defer close(lines)
	scan := bufio.NewScanner(r)
	scan.Buffer(make([]byte, 0, 64<<10), encodedLen(maxRecordBytes))
	for scan.Scan() {
		select {
		case lines <- bytes.Clone(scan.Bytes()):
		case <-ctx.Done():
			return nil
		}
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	return nil
}

// cut keeps an error's quotation short.
func cut(line []byte) []byte {
	const shown = 60
	if len(line) <= shown {
		return line
	}
	return append(bytes.Clone(line[:shown]), "…"...)
}
