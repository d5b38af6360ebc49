package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"varve.dev/localstack/e2e/apachekafka"
	"varve.dev/localstack/e2e/contract"
)

// patience bounds every wait for a real process; the usual wait is far below a second.
const patience = 90 * time.Second

// TestRealClients holds every client to the same expectations, all at once against one broker.
func TestRealClients(t *testing.T) {
	s := open(t)
	for _, c := range clients() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c := s.installed(t, c)
			t.Run("codecs", func(t *testing.T) { t.Parallel(); testCodecs(t, s, c) })
			t.Run("time", func(t *testing.T) { t.Parallel(); testTime(t, s, c) })
			if c.static {
				t.Run("static", func(t *testing.T) { t.Parallel(); testStatic(t, s, c) })
			}
			for _, assignor := range c.assignors {
				t.Run("group/"+assignor, func(t *testing.T) { t.Parallel(); testGroup(t, s, c, assignor) })
			}
		})
	}
	t.Run("java-tools", func(t *testing.T) { t.Parallel(); testTools(t, s) })
}

// suite is one broker and what the tests need to watch it.
type suite struct {
	root, cache, bin string // the repository, what localstack/e2e/install has laid down, what this run has built
	bootstrap        string
	client           *kgo.Client
	admin            *kadm.Client
}

// everyClient says that all clients are to run, not just the one that needs nothing but Go.
func everyClient() bool { return os.Getenv("VARVE_E2E") != "" || mustHaveAll() }

// mustHaveAll says that what is missing is a failure.
func mustHaveAll() bool { return os.Getenv("VARVE_TEST_ALL") != "" }

// missing skips, or fails where everything must be there.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if mustHaveAll() {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func open(t *testing.T) *suite {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{root: root, cache: filepath.Join(cacheDir(t), "e2e"), bin: t.TempDir()}
	s.bootstrap = s.broker(t)
	s.client, err = kgo.NewClient(kgo.SeedBrokers(s.bootstrap), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	s.admin = kadm.NewClient(s.client)
	return s
}

// cacheDir is where localstack/e2e/install puts things.
func cacheDir(t *testing.T) string {
	if dir := os.Getenv("VARVE_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "varve")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(home, ".cache", "varve")
}

// broker returns the address of the broker under test, started if there is none.
func (s *suite) broker(t *testing.T) string {
	if addr := os.Getenv("VARVE_E2E_BOOTSTRAP"); addr != "" {
		return addr
	}
	switch kind := os.Getenv("VARVE_E2E_BROKER"); kind {
	case "apache":
		return s.apacheKafka(t)
	case "":
		return s.agent(t)
	default:
		t.Fatalf("VARVE_E2E_BROKER=%q: want apache or nothing", kind)
		return ""
	}
}

func (s *suite) apacheKafka(t *testing.T) string {
	var log lockedBuffer
	b, err := apachekafka.Start(t.Context(), apachekafka.Config{Jars: filepath.Join(s.cache, "java"), Dir: t.TempDir(), Log: &log,
		Set: map[string]string{"group.initial.rebalance.delay.ms": "0", "auto.create.topics.enable": "false"}})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	})
	return b.Addr
}

// agent builds and starts `varve dev` on an empty folder; the test fails if it does not stop cleanly.
func (s *suite) agent(t *testing.T) string {
	if mains, _ := fs.Glob(os.DirFS(s.root), "agent/*.go"); len(mains) == 0 {
		missing(t, "there is no agent to build; VARVE_E2E_BOOTSTRAP or VARVE_E2E_BROKER names another broker")
	}
	varve := s.build(t, s.root, "./agent")
	cmd := exec.Command(varve, "dev", "--data", t.TempDir(), "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--set", "group.initial.rebalance.delay.ms=0")
	var log lockedBuffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, exited := make(chan string, 1), make(chan error, 1)
	go func() { // ends with the agent, which the cleanup below stops
		watchReady(out, ready)
		exited <- cmd.Wait()
	}()
	t.Cleanup(func() {
		stopAgent(t, cmd, exited)
		if t.Failed() {
			t.Logf("the agent's log:\n%s", log.tail(200))
		}
	})
	select {
	case addr := <-ready:
		return addr
	case err := <-exited:
		exited <- err
		t.Fatalf("the agent ended before it was ready: %v", err)
	case <-time.After(patience):
		t.Fatalf("the agent was not ready within %s", patience)
	}
	return ""
}

// watchReady hands over the Kafka address of "ready kafka=HOST:PORT http=HOST:PORT" and reads on until the end.
func watchReady(out io.Reader, ready chan<- string) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "ready kafka="); ok {
			addr, _, _ := strings.Cut(rest, " ")
			ready <- addr
			break
		}
	}
	_, _ = io.Copy(io.Discard, out)
}

func stopAgent(t *testing.T, cmd *exec.Cmd, exited <-chan error) {
	_ = cmd.Process.Signal(syscall.SIGTERM) // an error means it has ended, and exited says how
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("the agent ended with %v, want exit 0 after SIGTERM", err)
		}
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		t.Errorf("the agent did not stop within %s of SIGTERM: %v", patience, <-exited)
	}
}

// build compiles a main package of the module in dir into this run's folder.
func (s *suite) build(t *testing.T, dir, pkg string) string {
	t.Helper()
	target := filepath.Join(s.bin, filepath.Base(pkg))
	if pkg == "." {
		target = filepath.Join(s.bin, filepath.Base(dir))
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", target, pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return target
}

// topic creates one for this test and deletes it afterwards.
func (s *suite) topic(t *testing.T, partitions int32) string {
	t.Helper()
	name := fmt.Sprintf("e2e-%s-%d", strings.NewReplacer("/", "-", "TestRealClients", "t").Replace(t.Name()), time.Now().UnixNano())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := s.admin.CreateTopic(ctx, partitions, 1, nil, name); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := s.admin.DeleteTopic(ctx, name); err != nil {
			t.Errorf("delete topic %s: %v", name, err)
		}
	})
	return name
}

// produce writes records through the suite's own client, one produce request per call, and returns them with their offsets.
func (s *suite) produce(t *testing.T, topic string, records []contract.Record) []contract.Record {
	t.Helper()
	out := make([]*kgo.Record, len(records))
	for i, r := range records {
		out[i] = &kgo.Record{Topic: topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Timestamp: time.UnixMilli(r.Timestamp)}
		for _, h := range r.Headers {
			out[i].Headers = append(out[i].Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.client.ProduceSync(ctx, out...).FirstErr(); err != nil {
		t.Fatalf("produce to %s: %v", topic, err)
	}
	written := make([]contract.Record, len(records))
	for i, r := range out {
		written[i] = records[i]
		written[i].Offset = r.Offset
	}
	return written
}

// lockedBuffer collects what a process prints while the test may read it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// tail is the last n lines.
func (b *lockedBuffer) tail(n int) string {
	lines := strings.Split(b.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
