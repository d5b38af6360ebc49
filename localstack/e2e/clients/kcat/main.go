// Command kcat runs Debian's kcat (librdkafka) behind the suite's contract.
//
// kcat sends one set of headers per run and cannot set timestamps, so produce runs it once for each stretch of records
// with the same partition and headers, and prints no acks.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"varve.dev/localstack/e2e/contract"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "kcat:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bootstrap, command string, args []string) error {
	switch command {
	case "produce":
		return produce(ctx, bootstrap, args[0], args[1])
	case "group":
		return group(ctx, bootstrap, args[0], args[1], args[3], args[4:])
	case "read":
		return read(ctx, bootstrap, args[0], args[1])
	}
	return fmt.Errorf("unknown command %q", command)
}

// Delimiters between key and value, and between messages, that no record of the suite contains. -Z makes what is empty null.
const (
	keyDelimiter     = "<k-e-y>"
	messageDelimiter = "<e-n-d>"
)

func produce(ctx context.Context, bootstrap, topic, codec string) error {
	records, err := contract.Records(os.Stdin)
	if err != nil {
		return err
	}
	slices.SortStableFunc(records, func(a, b contract.Record) int { return int(a.Partition - b.Partition) })
	for rest := records; len(rest) > 0; {
		n := 1
		for n < len(rest) && sameRun(rest[0], rest[n]) {
			n++
		}
		if err := produceRun(ctx, bootstrap, topic, codec, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return contract.Print(os.Stdout, contract.Event{Event: "produced", Count: len(records)})
}

func sameRun(a, b contract.Record) bool {
	return a.Partition == b.Partition && slices.EqualFunc(a.Headers, b.Headers, func(x, y contract.Header) bool {
		return x.Key == y.Key && bytes.Equal(x.Value, y.Value)
	})
}

func produceRun(ctx context.Context, bootstrap, topic, codec string, records []contract.Record) error {
	args := []string{"-P", "-b", bootstrap, "-t", topic, "-p", strconv.Itoa(int(records[0].Partition)), "-z", codec,
		"-K", keyDelimiter, "-D", messageDelimiter, "-Z", "-X", "linger.ms=100", "-X", "acks=all"}
	for _, h := range records[0].Headers {
		args = append(args, "-H", h.Key+"="+string(h.Value))
	}
	var in bytes.Buffer
	for i, r := range records {
		if i > 0 {
			in.WriteString(messageDelimiter)
		}
		in.Write(r.Key)
		in.WriteString(keyDelimiter)
		in.Write(r.Value)
	}
	cmd := command(ctx, args...)
	cmd.Stdin = &in
	cmd.Stdout = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}

// command is a kcat in this program's process group, with which the suite kills it.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "kcat", args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// format prints the lengths before the bytes, so that keys and values may hold anything: partition, offset, timestamp,
// key length, value length (-1 is null), headers, then key and value.
const format = `%p %o %T %K %S %h\n%k%s\n`

// parse reads what format printed until in ends.
func parse(in io.Reader, each func(contract.Record) error) error {
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			return nil
		}
		if err != nil {
			return err
		}
		rec, keyLen, valueLen, err := parseHead(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return fmt.Errorf("kcat printed %q: %w", line, err)
		}
		if rec.Key, err = bytesOf(r, keyLen); err != nil {
			return err
		}
		if rec.Value, err = bytesOf(r, valueLen); err != nil {
			return err
		}
		if _, err := r.Discard(1); err != nil {
			return err
		}
		if err := each(rec); err != nil {
			return err
		}
	}
}

func parseHead(line string) (rec contract.Record, keyLen, valueLen int, err error) {
	head, list, ok := cutFields(line, 5)
	if !ok {
		return rec, 0, 0, errors.New("want six fields")
	}
	var n [5]int64
	for i, s := range head {
		if n[i], err = strconv.ParseInt(s, 10, 64); err != nil {
			return rec, 0, 0, err
		}
	}
	rec.Partition, rec.Offset, rec.Timestamp = int32(n[0]), n[1], n[2]
	for h := range strings.SplitSeq(list, ",") {
		if key, value, ok := strings.Cut(h, "="); ok {
			rec.Headers = append(rec.Headers, contract.Header{Key: key, Value: []byte(value)})
		}
	}
	return rec, int(n[3]), int(n[4]), nil
}

func cutFields(s string, n int) (fields []string, rest string, ok bool) {
	for range n {
		var f string
		if f, s, ok = strings.Cut(s, " "); !ok {
			return nil, "", false
		}
		fields = append(fields, f)
	}
	return fields, s, true
}

func bytesOf(r io.Reader, n int) ([]byte, error) {
	if n < 0 {
		return nil, nil
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

func printRecord(rec contract.Record) error {
	return contract.Print(os.Stdout, contract.Event{Event: "record", Record: &rec})
}

func group(ctx context.Context, bootstrap, topic, name, limit string, instance []string) error {
	args := []string{"-b", bootstrap, "-u", "-f", format, "-X", "auto.offset.reset=earliest",
		"-X", "session.timeout.ms=6000", "-X", "heartbeat.interval.ms=300", "-X", "fetch.wait.max.ms=100"}
	if limit != "0" {
		args = append(args, "-c", limit)
	}
	for _, id := range instance {
		args = append(args, "-X", "group.instance.id="+id)
	}
	cmd := command(ctx, append(args, "-G", name, topic)...)
	cmd.Stderr = nil
	log, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := contract.StdinEnds()
	go func() { // ends with the program at the latest: standard input ends then
		<-ended
		_ = cmd.Process.Signal(syscall.SIGTERM) // kcat commits and leaves on it
	}()
	watching := make(chan error, 1)
	go func() { watching <- watch(log) }()
	err = errors.Join(parse(out, printRecord), <-watching, cmd.Wait())
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return contract.Print(os.Stdout, contract.Event{Event: "done"})
}

// partitionInList finds the partitions of "assigned: topic [0], topic [1]".
var partitionInList = regexp.MustCompile(`\[(\d+)\]`)

// watch turns kcat's own lines about rebalances into events, and passes everything on.
func watch(log io.Reader) error {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		line := lines.Text()
		fmt.Fprintln(os.Stderr, line)
		if !strings.Contains(line, " rebalanced ") {
			continue
		}
		_, list, assigned := strings.Cut(line, "): assigned: ")
		e := contract.Event{Event: "assignment"}
		if assigned { // otherwise revoked: all of it, kcat's protocol is the eager one
			for _, m := range partitionInList.FindAllStringSubmatch(list, -1) {
				p, err := strconv.ParseInt(m[1], 10, 32)
				if err != nil {
					return err
				}
				e.Partitions = append(e.Partitions, int32(p))
			}
		}
		if err := contract.Print(os.Stdout, e); err != nil {
			return err
		}
	}
	return lines.Err()
}

var (
	partitionInListing = regexp.MustCompile(`(?m)^\s+partition (\d+), leader`)
	offsetInAnswer     = regexp.MustCompile(`(?m)\[(\d+)\] offset (-?\d+)`)
)

func read(ctx context.Context, bootstrap, topic, millis string) error {
	listing, err := command(ctx, "-L", "-b", bootstrap, "-t", topic).Output()
	if err != nil {
		return fmt.Errorf("list %s: %w", topic, err)
	}
	query := []string{"-Q", "-b", bootstrap}
	for _, m := range partitionInListing.FindAllSubmatch(listing, -1) {
		query = append(query, "-t", fmt.Sprintf("%s:%s:%s", topic, m[1], millis))
	}
	answer, err := command(ctx, query...).Output()
	if err != nil {
		return fmt.Errorf("offsets at %s: %w", millis, err)
	}
	for _, m := range offsetInAnswer.FindAllSubmatch(answer, -1) {
		p, _ := strconv.ParseInt(string(m[1]), 10, 32) // digits, by the expression
		o, err := strconv.ParseInt(string(m[2]), 10, 64)
		if err != nil {
			return err
		}
		if err := contract.Print(os.Stdout, contract.Event{Event: "offset", Partition: int32(p), Offset: o}); err != nil {
			return err
		}
	}
	if err := readFrom(ctx, bootstrap, topic, millis); err != nil {
		return err
	}
	return contract.Print(os.Stdout, contract.Event{Event: "done"})
}

func readFrom(ctx context.Context, bootstrap, topic, millis string) error {
	cmd := command(ctx, "-C", "-b", bootstrap, "-t", topic, "-o", "s@"+millis, "-e", "-q", "-u", "-f", format,
		"-X", "fetch.wait.max.ms=100")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := errors.Join(parse(out, printRecord), cmd.Wait()); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}
