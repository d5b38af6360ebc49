package chaos

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for a real process; the usual wait is far below a second. It outlasts an outage of a minute.
const patience = 2 * time.Minute

// built is the program, compiled once for all tests that want it.
var built struct {
	once   sync.Once
	folder string
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.folder != "" {
		if err := os.RemoveAll(built.folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// build compiles the program, and answers where it is.
func build(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.folder, built.err = os.MkdirTemp("", "varve-chaos"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(built.folder, "varve"), "varve.dev/agent")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.folder, "varve")
}

// process is a running program. Whoever starts one kills or stops it.
type process struct {
	kafka, http string
	cmd         *exec.Cmd
	log         *tail
	exited      chan struct{}
	err         error // once exited is closed
}

// launch starts a program without waiting for it to be ready.
func launch(program string, environ []string, args ...string) (p *process, ready <-chan struct{}, err error) {
	p = &process{cmd: exec.Command(program, args...), log: new(tail), exited: make(chan struct{})}
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), environ...), p.log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, nil, err
	}
	is := make(chan struct{})
	go func() { // ends with the process
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if _, err := fmt.Sscanf(lines.Text(), "ready kafka=%s http=%s", &p.kafka, &p.http); err == nil {
				close(is)
				break
			}
		}
		_, _ = io.Copy(io.Discard, stdout)
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, is, nil
}

var errNotReady = errors.New("the agent is not ready")

// start is launch, and the ready line.
func start(program string, environ []string, args ...string) (*process, error) {
	p, ready, err := launch(program, environ, args...)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ready:
		return p, nil
	case <-p.exited:
		return p, fmt.Errorf("%w, it ended: %w\n%s", errNotReady, p.err, p.log)
	case <-timer.C:
		p.kill()
		return p, fmt.Errorf("%w after %s\n%s", errNotReady, patience, p.log)
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error means that it has ended
	<-p.exited
}

// stop is SIGTERM; the answer is how the process ended.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait()
}

// wait answers how the process ended, or kills it.
func (p *process) wait() error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.exited:
		return p.err
	case <-timer.C:
		p.kill()
		return fmt.Errorf("the process did not end within %s\n%s", patience, p.log)
	}
}

func (p *process) call(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.http+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, body)
	}
	return string(body), err
}

// freeAddress is one that clients can keep over restarts.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// tail keeps the end of what a process prints.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 256 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > tailBytes {
		t.buf = append([]byte(nil), t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// has says whether every word stands in one line.
func (t *tail) has(words ...string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range bytes.Lines(t.buf) {
		n := 0
		for _, w := range words {
			if strings.Contains(string(line), w) {
				n++
			}
		}
		if n == len(words) {
			return true
		}
	}
	return false
}

// count is how many lines hold a word.
func (t *tail) count(word string) (n int) {
	for line := range strings.Lines(t.String()) {
		if strings.Contains(line, word) {
			n++
		}
	}
	return n
}

// says waits for a line with every word: what a process prints arrives a little later than what it answers.
func (p *process) says(t *testing.T, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("a line with %q", words), func() error {
		if !p.log.has(words...) {
			return errors.New(p.log.String())
		}
		return nil
	})
}

// pause waits, or ends early with ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// eventually polls a condition of another process.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		pause(ctx, 20*time.Millisecond)
	}
}
