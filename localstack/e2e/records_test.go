package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"

	"varve.dev/localstack/e2e/contract"
)

// headerStretch is how many records in a row share their headers: kcat needs a run of its own for each set.
const headerStretch = 60

// makeRecords returns n records over all partitions: null keys, null and empty values, headers, values that compress
// and hold any byte. Timestamps lie an hour back, so that a broker that sets its own is seen.
func makeRecords(label string, n int, partitions int32, empties bool) []contract.Record {
	base := time.Now().Add(-time.Hour).UnixMilli()
	records := make([]contract.Record, n)
	for i := range records {
		r := contract.Record{Seq: i, Partition: int32(i) % partitions, Timestamp: base + int64(i)}
		if i%7 != 5 {
			r.Key = fmt.Appendf(nil, "%s-%d", label, i)
		}
		switch {
		case i%5 == 3: // null
		case i%11 == 7 && empties:
			r.Value = []byte{}
		default:
			r.Value = append(bytes.Repeat(fmt.Appendf(nil, "%s record %d, ", label, i), 12), 0, '\n', '\t', 0xff, byte(i))
		}
		if stretch := i / headerStretch; stretch > 0 {
			r.Headers = []contract.Header{{Key: "label", Value: []byte(label)}, {Key: "stretch", Value: fmt.Append(nil, stretch)}}
		}
		records[i] = r
	}
	return records
}

// same fails the test unless got is want, but for Seq, which no consumer knows. Null and empty are two things, except in
// the list of headers.
func same(t *testing.T, what string, got, want contract.Record) {
	t.Helper()
	got.Seq = want.Seq
	if len(got.Headers) == 0 && len(want.Headers) == 0 {
		got.Headers, want.Headers = nil, nil
	}
	if d := diff.Diff(want, got); d != "" {
		t.Fatalf("%s: partition %d offset %d (-want +got):\n%s", what, want.Partition, want.Offset, d)
	}
}

// consumed are the records among events, in the order of partition and then of arrival.
func consumed(events []contract.Event) []contract.Record {
	var out []contract.Record
	for _, e := range events {
		if e.Event == "record" {
			out = append(out, *e.Record)
		}
	}
	slices.SortStableFunc(out, func(a, b contract.Record) int { return cmp.Compare(a.Partition, b.Partition) })
	return out
}
