// Package contract is what the suite and its client programs say to each other: commands, records and events.
//
// A program is called as PROGRAM BOOTSTRAP COMMAND ARGS… and prints one JSON event per line:
//
//	produce TOPIC CODEC                 records come on standard input, one JSON record per line. Sends each to the
//	                                    partition it names, acks=all, CODEC one of none gzip snappy lz4 zstd. Prints
//	                                    an ack per record where the client knows its offset, then produced.
//	group TOPIC GROUP ASSIGNOR LIMIT [INSTANCE]
//	                                    joins GROUP, from the earliest offset where nothing is committed; ASSIGNOR is
//	                                    eager or cooperative; with INSTANCE it is that static member, which stays in
//	                                    the group when its process ends. Prints assignment whenever what it owns changes, and
//	                                    each record. Commits exactly what it printed: before it gives a partition up,
//	                                    and before it leaves, which it does when standard input ends or after LIMIT
//	                                    records (0: no limit). Prints done when it has left.
//	read TOPIC MILLIS                   finds the first offset at or after MILLIS in each partition of TOPIC, prints
//	                                    each as offset (-1 or the end where there is none), and all records from
//	                                    there to the end. Prints done.
//
// Any failure is a line on standard error and a non-zero exit. Keys, values and header values travel as base64.
package contract

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Record is one record, as it is to be produced or as it was consumed. A nil Key or Value is Kafka's null.
type Record struct {
	Seq       int      `json:"seq"` // position on produce's standard input
	Partition int32    `json:"partition"`
	Offset    int64    `json:"offset"`
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []Header `json:"headers"`
	Timestamp int64    `json:"timestamp"` // milliseconds since 1970
}

// Header is one record header; their order is part of a record.
type Header struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// Event is one line that a program prints.
type Event struct {
	Event      string  `json:"event"` // ack, produced, assignment, record, offset, done
	Seq        int     `json:"seq,omitempty"`
	Partition  int32   `json:"partition,omitempty"`
	Offset     int64   `json:"offset,omitempty"`
	Count      int     `json:"count,omitempty"`
	Partitions []int32 `json:"partitions,omitempty"`
	Record     *Record `json:"record,omitempty"`
}

// maxLine bounds one JSON line: the suite's records are below 2 KiB.
const maxLine = 1 << 20

// Records reads one JSON record per line until in ends.
func Records(in io.Reader) ([]Record, error) {
	var records []Record
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var r Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("record %d on standard input: %w", len(records), err)
		}
		records = append(records, r)
	}
	return records, lines.Err()
}

// Print writes e as one line. One call is one write, so that events of several goroutines do not mix.
func Print(out io.Writer, e Event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = out.Write(append(line, '\n'))
	return err
}

// StdinEnds returns a channel that is closed when standard input ends, the sign to leave. The goroutine behind it lives
// as long as the program.
func StdinEnds() <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	return ended
}
