package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"varve.dev/localstack/e2e/contract"
)

// timelines are seconds since the topic's zero, by partition and batch: in order, out of order within and across
// batches, and one that ends early.
var timelines = [][][]int{
	{{0, 1, 2, 3}, {10, 20, 30}, {40, 50, 51, 52}, {60, 70}},
	{{50, 10, 20}, {5, 90, 60}, {30, 55, 54}},
	{{1, 2}, {3, 4, 5}},
}

// testTime asks c where a time begins, and lets it read from there.
func testTime(t *testing.T, s *suite, c client) {
	topic := s.topic(t, int32(len(timelines)))
	zero := time.Now().Add(-time.Hour).UnixMilli()
	logs := s.produceTimelines(t, topic, zero)
	for _, seconds := range []int{50, 53, 1000} {
		millis := zero + int64(seconds)*1000
		t.Run(fmt.Sprintf("%ds", seconds), func(t *testing.T) {
			checkSeek(t, c.run(t, nil, "read", topic, strconv.FormatInt(millis, 10)), logs, millis)
		})
	}
}

func (s *suite) produceTimelines(t *testing.T, topic string, zero int64) [][]contract.Record {
	logs := make([][]contract.Record, len(timelines))
	for p, batches := range timelines {
		for _, batch := range batches {
			var records []contract.Record
			for _, second := range batch {
				records = append(records, contract.Record{Partition: int32(p), Value: fmt.Append(nil, second),
					Timestamp: zero + int64(second)*1000})
			}
			logs[p] = append(logs[p], s.produce(t, topic, records)...)
		}
	}
	return logs
}

// checkSeek wants, for each partition, the first record at or after millis and everything behind it, whatever its time.
func checkSeek(t *testing.T, events []contract.Event, logs [][]contract.Record, millis int64) {
	t.Helper()
	var want []contract.Record
	starts := make([]int64, len(logs))
	for p, log := range logs {
		for starts[p] < int64(len(log)) && log[starts[p]].Timestamp < millis {
			starts[p]++
		}
		want = append(want, log[starts[p]:]...)
	}
	answered := 0
	for _, e := range events {
		if e.Event != "offset" {
			continue
		}
		answered++
		none := starts[e.Partition] == int64(len(logs[e.Partition]))
		if e.Offset != starts[e.Partition] && !(none && e.Offset == -1) {
			t.Errorf("partition %d: offset %d at %d, want %d", e.Partition, e.Offset, millis, starts[e.Partition])
		}
	}
	if answered != len(logs) {
		t.Errorf("%d answers, want one for each of %d partitions", answered, len(logs))
	}
	got := consumed(events)
	if len(got) != len(want) {
		t.Fatalf("read %d records from %d on, want %d", len(got), millis, len(want))
	}
	for i := range want {
		same(t, "read from a time on", got[i], want[i])
	}
}
