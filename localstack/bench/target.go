package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/localstack/e2e/apachekafka"
)

// kind of broker.
type kind string

const (
	varve kind = "varve"
	bare  kind = "floor"
	kafka kind = "kafka"
)

// target is one running broker process.
type target struct {
	kind        kind
	pid         int
	kafka, http string
	dir         string
	stub        *stub
	cmd         *exec.Cmd // nil: not ours to stop here
	stdin       io.Closer
	end         chan error
	args        []string
	broker      *apachekafka.Broker
	readyAfter  time.Duration
}

const (
	startWithin = 90 * time.Second
	stopWithin  = 60 * time.Second
)

// bench is what all runs share.
type bench struct {
	program  string // bin/varve
	self     string // this program, for the control
	jars     string // of Apache Kafka
	tmp      string
	driver   string // s3 or minio
	interval time.Duration
	scale    float64 // of all loads
	keep     bool
	profiles string // folder; empty: none are taken
	taken    int
	seconds  int // of a CPU profile: a load that ends sooner leaves it idle
	say      func(format string, a ...any)
}

// start runs a fresh broker. set is for the agent's configuration, or Kafka's.
func (b *bench) start(ctx context.Context, k kind, keepMost int64, set map[string]string) (*target, error) {
	dir, err := os.MkdirTemp(b.tmp, string(k)+"-")
	if err != nil {
		return nil, err
	}
	t := &target{kind: k, dir: dir}
	if k == kafka {
		return t, t.startKafka(ctx, b, set)
	}
	if t.stub, err = startStub(keepMost); err != nil {
		return nil, err
	}
	if k == bare {
		return t, t.run(ctx, b.self, "floor", "-url", t.stub.url+"/"+stubBucket, "-interval", b.interval.String(), "-again="+set["again"], "-keep="+cmp.Or(set["keep"], "false"))
	}
	t.args = []string{b.program, "dev", "--data", filepath.Join(dir, "data"), "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--set", fmt.Sprintf("store.url=%s://%s/p?endpoint=%s&region=us-east-1&path-style=true", b.driver, stubBucket, t.stub.url),
		"--set", fmt.Sprintf("flush.interval.ms=%d", b.interval.Milliseconds())}
	for key, value := range set {
		t.args = append(t.args, "--set", key+"="+value)
	}
	return t, t.run(ctx, t.args[0], t.args[1:]...)
}

// run starts a process and waits for its ready line.
func (t *target) run(ctx context.Context, program string, args ...string) error {
	logFile, err := os.OpenFile(filepath.Join(t.dir, "out.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close() // the process has its own descriptor
	t.cmd, t.end = exec.Command(program, args...), make(chan error, 1)
	t.cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=BENCH", "AWS_SECRET_ACCESS_KEY=made-up", "AWS_EC2_METADATA_DISABLED=true")
	t.cmd.Stderr = logFile
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the one who started us
	stdout, err := t.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if t.stdin, err = t.cmd.StdinPipe(); err != nil {
		return err
	}
	began := time.Now()
	if err := t.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w (make build makes the agent)", program, err)
	}
	t.pid = t.cmd.Process.Pid
	ready := make(chan [2]string, 1)
	go func() { // ends with the process
		scan := bufio.NewScanner(stdout)
		for scan.Scan() {
			if at, ok := parseReady(scan.Text()); ok {
				ready <- at
				break
			}
		}
		_, copied := io.Copy(io.Discard, stdout)
		t.end <- errors.Join(t.cmd.Wait(), copied)
	}()
	late := time.NewTimer(startWithin)
	defer late.Stop()
	select {
	case at := <-ready:
		t.kafka, t.http, t.readyAfter = at[0], at[1], time.Since(began)
		return nil
	case err = <-t.end:
		t.cmd = nil
		return fmt.Errorf("%s ended at its start: %w: %s", t.kind, err, t.lastWords())
	case <-late.C:
		err = fmt.Errorf("%s is not ready after %s: %s", t.kind, startWithin, t.lastWords())
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, t.kill())
}

// parseReady reads "ready kafka=HOST:PORT http=HOST:PORT".
func parseReady(line string) (at [2]string, ok bool) {
	words := strings.Fields(line)
	if len(words) == 0 || words[0] != "ready" {
		return at, false
	}
	for _, word := range words[1:] {
		switch name, value, _ := strings.Cut(word, "="); name {
		case "kafka":
			at[0] = value
		case "http":
			at[1] = value
		}
	}
	return at, at[0] != ""
}

func (t *target) lastWords() string {
	b, err := os.ReadFile(filepath.Join(t.dir, "out.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2<<10):])
}

// startKafka runs Apache Kafka as an operator would: the JVM's own compiler and collector, 1 GiB of heap.
func (t *target) startKafka(ctx context.Context, b *bench, set map[string]string) error {
	began := time.Now()
	logFile, err := os.Create(filepath.Join(t.dir, "out.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	t.broker, err = apachekafka.Start(ctx, apachekafka.Config{Jars: b.jars, Dir: t.dir, Set: set, Log: logFile,
		JVM: []string{"-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"}})
	if err != nil {
		return fmt.Errorf("%w: %s", err, t.lastWords())
	}
	t.kafka, t.pid, t.readyAfter = t.broker.Addr, t.broker.PID(), time.Since(began)
	return nil
}

// kill ends the process at once, as a crash does.
func (t *target) kill() error {
	if t.cmd == nil {
		return nil
	}
	err := t.cmd.Process.Kill()
	<-t.end
	t.cmd = nil
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// stop ends everything that belongs to the target, and removes what it wrote.
func (t *target) stop(keep bool) error {
	var err error
	switch {
	case t.broker != nil:
		err = t.broker.Stop()
	case t.cmd != nil:
		t.stdin.Close()
		_ = t.cmd.Process.Signal(syscall.SIGTERM) // an error means it has ended
		late := time.AfterFunc(stopWithin, func() { _ = t.cmd.Process.Kill() })
		if end := <-t.end; end != nil && t.kind == varve {
			err = fmt.Errorf("%s did not end in order: %w: %s", t.kind, end, t.lastWords())
		}
		late.Stop()
	}
	if t.stub != nil {
		t.stub.close()
	}
	if keep {
		return err
	}
	return errors.Join(err, os.RemoveAll(t.dir))
}

// create makes a topic, and returns when every partition answers. The control has none.
func (t *target) create(ctx context.Context, topics []string, partitions int, config map[string]string) error {
	if t.kind == bare {
		return nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(t.kafka))
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 120_000
	for _, name := range topics {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, int32(partitions), 1
		for key, value := range config {
			c := kmsg.NewCreateTopicsRequestTopicConfig()
			c.Name, c.Value = key, &value
			topic.Configs = append(topic.Configs, c)
		}
		req.Topics = append(req.Topics, topic)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	for _, made := range resp.Topics {
		if err := kerr.ErrorForCode(made.ErrorCode); err != nil {
			return fmt.Errorf("create %s: %w", made.Topic, err)
		}
	}
	for _, name := range topics {
		if _, err := t.ends(ctx, name, partitions); err != nil {
			return err
		}
	}
	return nil
}

// ends asks every partition for its end until all answer.
func (t *target) ends(ctx context.Context, topic string, partitions int) ([]int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(t.kafka))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version = 5
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for p := range partitions {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = int32(p), -1, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	out := make([]int64, partitions)
	var last error
	for ctx.Err() == nil {
		answer, err := cl.Broker(1).Request(ctx, req)
		if last = err; err == nil {
			for _, p := range answer.(*kmsg.ListOffsetsResponse).Topics[0].Partitions {
				last = errors.Join(last, kerr.ErrorForCode(p.ErrorCode))
				out[p.Partition] = p.Offset
			}
			if last == nil {
				return out, nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, errors.Join(ctx.Err(), last)
}

// evict drops the agent's local copies of what is in the object store.
func (t *target) evict(ctx context.Context) error {
	_, err := t.call(ctx, http.MethodPost, "/debug/evict")
	return err
}

func (t *target) call(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+t.http+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return string(body), err
}

// profile takes profiles of the agent until the function that it returns is called: of its CPU, and of all it allocated,
// before and after. A run that is profiled costs a little more, and its figures are for the profile's reader only.
func (b *bench) profile(ctx context.Context, t *target) (end func()) {
	if b.profiles == "" || t.kind != varve {
		return func() {}
	}
	b.taken++
	save := func(name, path string) {
		body, err := t.call(ctx, http.MethodGet, path)
		if err == nil {
			err = os.WriteFile(filepath.Join(b.profiles, fmt.Sprintf("%d-%s.pprof", b.taken, name)), []byte(body), 0o644)
		}
		if err != nil {
			b.say("profile: %v", err)
		}
	}
	save("allocs-before", "/debug/pprof/allocs")
	done := make(chan struct{})
	go func() {
		defer close(done)
		save("cpu", "/debug/pprof/profile?seconds="+fmt.Sprint(b.seconds))
	}()
	return func() {
		save("allocs-after", "/debug/pprof/allocs")
		<-done
	}
}

// counts are the agent's own: the sums of its metrics by name, and by name and kind.
type counts map[string]float64

func (t *target) counts(ctx context.Context) (counts, error) {
	if t.kind != varve {
		return counts{}, nil
	}
	page, err := t.call(ctx, http.MethodGet, "/metrics")
	if err != nil {
		return nil, err
	}
	return parseCounts(page), nil
}

func parseCounts(page string) counts {
	c := counts{}
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			continue
		}
		name, labels, _ := strings.Cut(line[:at], "{")
		c[name] += value
		if _, rest, ok := strings.Cut(labels, `kind="`); ok {
			kind, _, _ := strings.Cut(rest, `"`)
			c[name+" "+kind] += value
		}
	}
	return c
}

// usage is what a process has used so far.
type usage struct {
	user, sys time.Duration
	written   int64 // bytes that reached the disk's layer
	reads     int64 // system calls
	writes    int64
	rss, peak int64 // bytes
}

func (u usage) cpu() time.Duration { return u.user + u.sys }

func (u usage) since(o usage) usage {
	return usage{u.user - o.user, u.sys - o.sys, u.written - o.written, u.reads - o.reads, u.writes - o.writes, u.rss, u.peak}
}

// tick is the unit of /proc/PID/stat on every Linux that Go runs on.
const tick = 10 * time.Millisecond

func (t *target) usage() (u usage, err error) { return usageOf(t.pid) }

func usageOf(pid int) (u usage, err error) {
	read := func(name string) string {
		b, e := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		err = errors.Join(err, e)
		return string(b)
	}
	stat := read("stat")
	if at := strings.LastIndexByte(stat, ')'); at >= 0 {
		if f := strings.Fields(stat[at+1:]); len(f) > 12 { // from the state, field 3, on
			user, e1 := strconv.ParseInt(f[11], 10, 64)
			sys, e2 := strconv.ParseInt(f[12], 10, 64)
			err = errors.Join(err, e1, e2)
			u.user, u.sys = time.Duration(user)*tick, time.Duration(sys)*tick
		}
	}
	page := read("io") + read("status")
	for line := range strings.Lines(page) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "write_bytes:":
			u.written = n
		case "syscr:":
			u.reads = n
		case "syscw:":
			u.writes = n
		case "VmRSS:":
			u.rss = n << 10
		case "VmHWM:":
			u.peak = n << 10
		}
	}
	return u, err
}
