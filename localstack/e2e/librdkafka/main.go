// Command librdkafka is confluent-kafka-go behind the suite's contract: see localstack/e2e/contract.
//
// It needs cgo and brings librdkafka as a static library, so it is a module of its own, which users never download; that
// is why it states the contract's few types once more.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// timeout bounds each blocking call.
const timeout = 30 * time.Second

type record struct {
	Seq       int      `json:"seq"`
	Partition int32    `json:"partition"`
	Offset    int64    `json:"offset"`
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []header `json:"headers"`
	Timestamp int64    `json:"timestamp"`
}

type header struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

type event struct {
	Event      string  `json:"event"`
	Seq        int     `json:"seq,omitempty"`
	Partition  int32   `json:"partition,omitempty"`
	Offset     int64   `json:"offset,omitempty"`
	Count      int     `json:"count,omitempty"`
	Partitions []int32 `json:"partitions,omitempty"`
	Record     *record `json:"record,omitempty"`
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "librdkafka:", err)
		os.Exit(1)
	}
}

func run(bootstrap, command string, args []string) error {
	switch command {
	case "produce":
		return produce(bootstrap, args[0], args[1])
	case "group":
		limit, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		return group(bootstrap, args[0], args[1], args[2], limit, args[4:])
	case "read":
		millis, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		return read(bootstrap, args[0], millis)
	}
	return fmt.Errorf("unknown command %q", command)
}

func emit(e event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(line, '\n'))
	return err
}

func emitRecord(m *kafka.Message) error {
	r := record{Partition: m.TopicPartition.Partition, Offset: int64(m.TopicPartition.Offset), Key: m.Key, Value: m.Value,
		Timestamp: m.Timestamp.UnixMilli()}
	for _, h := range m.Headers {
		r.Headers = append(r.Headers, header{h.Key, h.Value})
	}
	return emit(event{Event: "record", Record: &r})
}

func produce(bootstrap, topic, codec string) error {
	records, err := readRecords()
	if err != nil {
		return err
	}
	p, err := kafka.NewProducer(&kafka.ConfigMap{"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 100,
		"enable.idempotence": true})
	if err != nil {
		return err
	}
	defer p.Close()
	acks := make(chan kafka.Event, len(records))
	for _, r := range records {
		m := kafka.Message{TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: r.Partition}, Key: r.Key, Value: r.Value,
			Timestamp: time.UnixMilli(r.Timestamp), Opaque: r.Seq}
		for _, h := range r.Headers {
			m.Headers = append(m.Headers, kafka.Header{Key: h.Key, Value: h.Value})
		}
		if err := p.Produce(&m, acks); err != nil {
			return fmt.Errorf("produce record %d: %w", r.Seq, err)
		}
	}
	for range records {
		m := (<-acks).(*kafka.Message)
		if err := m.TopicPartition.Error; err != nil {
			return fmt.Errorf("record %d: %w", m.Opaque, err)
		}
		e := event{Event: "ack", Seq: m.Opaque.(int), Partition: m.TopicPartition.Partition, Offset: int64(m.TopicPartition.Offset)}
		if err := emit(e); err != nil {
			return err
		}
	}
	return emit(event{Event: "produced", Count: len(records)})
}

func readRecords() ([]record, error) {
	var records []record
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, lines.Err()
}

// member is one group member; call-backs run in the goroutine that polls.
type member struct {
	topic     string
	consumer  *kafka.Consumer
	owned     []int32
	positions map[int32]kafka.Offset // printed, not yet committed
}

func group(bootstrap, topic, name, assignor string, limit int, instance []string) error {
	strategy := "range"
	if assignor == "cooperative" {
		strategy = "cooperative-sticky"
	}
	config := kafka.ConfigMap{"bootstrap.servers": bootstrap, "group.id": name,
		"auto.offset.reset": "earliest", "enable.auto.commit": false, "partition.assignment.strategy": strategy,
		"session.timeout.ms": 6000, "heartbeat.interval.ms": 300, "fetch.wait.max.ms": 100}
	for _, id := range instance {
		config["group.instance.id"] = id
	}
	c, err := kafka.NewConsumer(&config)
	if err != nil {
		return err
	}
	m := member{topic: topic, consumer: c, positions: map[int32]kafka.Offset{}}
	if err := c.SubscribeTopics([]string{topic}, m.rebalance); err != nil {
		return err
	}
	if err := m.consume(stdinEnds(), limit); err != nil {
		return err
	}
	if err := m.commit(m.owned); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return emit(event{Event: "done"})
}

// stdinEnds is closed when standard input ends, the sign to leave; its goroutine lives as long as the program.
func stdinEnds() <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	return ended
}

func (m *member) consume(leave <-chan struct{}, limit int) error {
	for n := 0; limit == 0 || n < limit; {
		select {
		case <-leave:
			return nil
		default:
		}
		switch e := m.consumer.Poll(100).(type) {
		case *kafka.Message:
			if err := errors.Join(e.TopicPartition.Error, emitRecord(e)); err != nil {
				return err
			}
			m.positions[e.TopicPartition.Partition] = e.TopicPartition.Offset + 1
			n++
		case kafka.Error:
			return e
		}
	}
	return nil
}

func (m *member) rebalance(_ *kafka.Consumer, e kafka.Event) error {
	switch e := e.(type) {
	case kafka.AssignedPartitions:
		m.owned = append(m.owned, numbers(e.Partitions)...)
	case kafka.RevokedPartitions:
		gone := numbers(e.Partitions)
		if err := m.commit(gone); err != nil && !m.consumer.AssignmentLost() {
			return err
		}
		m.owned = slices.DeleteFunc(m.owned, func(p int32) bool { return slices.Contains(gone, p) })
	}
	return emit(event{Event: "assignment", Partitions: m.owned})
}

func numbers(tps []kafka.TopicPartition) (out []int32) {
	for _, tp := range tps {
		out = append(out, tp.Partition)
	}
	return out
}

func (m *member) commit(partitions []int32) error {
	var offsets []kafka.TopicPartition
	for _, p := range partitions {
		if o, ok := m.positions[p]; ok {
			offsets = append(offsets, kafka.TopicPartition{Topic: &m.topic, Partition: p, Offset: o})
			delete(m.positions, p)
		}
	}
	if len(offsets) == 0 {
		return nil
	}
	_, err := m.consumer.CommitOffsets(offsets)
	return err
}

func read(bootstrap, topic string, millis int64) error {
	c, err := kafka.NewConsumer(&kafka.ConfigMap{"bootstrap.servers": bootstrap, "group.id": "unused",
		"enable.auto.commit": false, "fetch.wait.max.ms": 100})
	if err != nil {
		return err
	}
	closing := sync.OnceValue(c.Close)
	defer closing()
	starts, ends, err := bounds(c, topic, millis)
	if err != nil {
		return err
	}
	for _, s := range starts {
		if err := emit(event{Event: "offset", Partition: s.Partition, Offset: int64(s.Offset)}); err != nil {
			return err
		}
	}
	if err := readTo(c, starts, ends); err != nil {
		return err
	}
	if err := closing(); err != nil {
		return err
	}
	return emit(event{Event: "done"})
}

// bounds finds where each partition starts at or after millis, or its end, and that end.
func bounds(c *kafka.Consumer, topic string, millis int64) ([]kafka.TopicPartition, map[int32]kafka.Offset, error) {
	meta, err := c.GetMetadata(&topic, false, int(timeout.Milliseconds()))
	if err != nil {
		return nil, nil, err
	}
	var query []kafka.TopicPartition
	ends := map[int32]kafka.Offset{}
	for _, p := range meta.Topics[topic].Partitions {
		query = append(query, kafka.TopicPartition{Topic: &topic, Partition: p.ID, Offset: kafka.Offset(millis)})
		_, end, err := c.QueryWatermarkOffsets(topic, p.ID, int(timeout.Milliseconds()))
		if err != nil {
			return nil, nil, fmt.Errorf("end of %s/%d: %w", topic, p.ID, err)
		}
		ends[p.ID] = kafka.Offset(end)
	}
	starts, err := c.OffsetsForTimes(query, int(timeout.Milliseconds()))
	if err != nil {
		return nil, nil, fmt.Errorf("offsets at %d: %w", millis, err)
	}
	for i, s := range starts {
		if s.Error != nil {
			return nil, nil, fmt.Errorf("offset of %s: %w", s, s.Error)
		}
		if s.Offset < 0 {
			starts[i].Offset = ends[s.Partition]
		}
	}
	return starts, ends, nil
}

func readTo(c *kafka.Consumer, starts []kafka.TopicPartition, ends map[int32]kafka.Offset) error {
	if err := c.Assign(starts); err != nil {
		return err
	}
	left := map[int32]bool{}
	for _, s := range starts {
		if s.Offset < ends[s.Partition] {
			left[s.Partition] = true
		}
	}
	for len(left) > 0 {
		m, err := c.ReadMessage(timeout)
		if err != nil {
			return err
		}
		if err := emitRecord(m); err != nil {
			return err
		}
		if p := m.TopicPartition; p.Offset+1 >= ends[p.Partition] {
			delete(left, p.Partition)
		}
	}
	return nil
}
