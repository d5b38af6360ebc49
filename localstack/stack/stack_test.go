package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestFlagsThatContradict(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-drop -data x", "not both"},
		{"-driver file", `no driver "file"`},
		{"up", `unexpected argument "up"`},
	} {
		if _, err := parse(strings.Fields(c.args), io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.args, err, c.want)
		}
	}
}

// page is what the stack prints, while it runs.
type page struct {
	mu   sync.Mutex
	text bytes.Buffer
	full chan struct{} // closed when all of it is there
	done sync.Once
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text.Write(b)
	if bytes.Contains(p.text.Bytes(), []byte("Ctrl-C stops everything")) {
		p.done.Do(func() { close(p.full) })
	}
	return len(b), nil
}

func (p *page) find(t *testing.T, pattern string) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	found := regexp.MustCompile(pattern).FindStringSubmatch(p.text.String())
	if found == nil {
		t.Fatalf("the page lacks %s:\n%s", pattern, p.text.String())
	}
	return found[1]
}

// up runs the stack until the returned function is called.
func up(t *testing.T, args ...string) (p *page, down func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p = &page{full: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, append(args, "-kafka", "127.0.0.1:0", "-http", "127.0.0.1:0"), p, io.Discard)
	}()
	select {
	case <-p.full:
	case err := <-ended:
		cancel()
		t.Fatalf("the stack did not start: %v", err)
	}
	return p, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestTheStackKeepsItsData(t *testing.T) {
	if os.Getenv("VARVE_TEST_ALL") != "1" {
		t.Skip("set VARVE_TEST_ALL=1 to start Postgres, an S3 server and an agent")
	}
	dir, err := os.MkdirTemp("", "varve-stack-test-") // Postgres's user cannot reach into t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, passable); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "varve")
	if out, err := exec.Command("go", "build", "-o", program, "varve.dev/agent").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	args := []string{"-varve", program, "-data", filepath.Join(dir, "kept")}
	p, down := up(t, args...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client := connect(t, p)
	if err := client.ProduceSync(ctx, kgo.StringRecord("laid down")).FirstErr(); err != nil {
		t.Error(err)
	}
	client.Close()
	down()

	p, down = up(t, append(args, "-driver", "minio")...) // both drivers read the same bucket
	defer down()
	client = connect(t, p)
	defer client.Close()
	fetches := client.PollFetches(ctx)
	if err := fetches.Err(); err != nil {
		t.Fatal(err)
	}
	if records := fetches.Records(); len(records) != 1 || string(records[0].Value) != "laid down" {
		t.Errorf("the second run read %v", records)
	}
	ls := exec.Command(program, "storage", "ls", "--config", p.find(t, `storage ls --config (\S+)`))
	ls.Env = append(os.Environ(), p.find(t, `export (AWS_ACCESS_KEY_ID=\S+)`), p.find(t, `(AWS_SECRET_ACCESS_KEY=\S+)`))
	if out, err := ls.CombinedOutput(); err != nil || !strings.Contains(string(out), "stack-test") {
		t.Errorf("%s, the command of the page: %v\n%s", ls, err, out)
	}
}

func connect(t *testing.T, p *page) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.find(t, `ready kafka=(\S+)`)), kgo.DefaultProduceTopic("stack-test"),
		kgo.ConsumeTopics("stack-test"), kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(-1))
	if err != nil {
		t.Fatal(err)
	}
	return client
}
