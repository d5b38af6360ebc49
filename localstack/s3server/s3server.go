// Package s3server runs versitygw, a real S3 server over a folder, as a child process on a free loopback port.
package s3server

import (
	"bytes"
	"context"
	"crypto/rand"
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
	"time"
)

// Config says where the server keeps its data and what it is.
type Config struct {
	// Dir holds one folder for each bucket. Its filesystem needs extended attributes. It is made if it is missing, and
	// stays after Stop.
	Dir string
	// Binary is the server's program; "" takes VARVE_VERSITYGW, else builds it.
	Binary string
	// AccessKey and SecretKey are made up if they are empty.
	AccessKey, SecretKey string
	// Log gets the server's output; nil keeps its end for error messages only.
	Log io.Writer
}

// Region is what the server calls itself.
const Region = "us-east-1"

const (
	// startTimeout is long for a server that answers after 0.05 s on a quiet machine.
	startTimeout = 30 * time.Second
	// stopTimeout is given to requests that are running; then the process is killed.
	stopTimeout = 5 * time.Second
	// portTries bounds how often another process may take the free port between our look and the server's bind.
	portTries = 3
	pollEvery = 20 * time.Millisecond
)

// Server is a running server. Whoever starts one calls Stop.
type Server struct {
	Endpoint, AccessKey, SecretKey string

	cmd    *exec.Cmd
	client *http.Client
	tail   *tail
	done   chan struct{} // closed when the process has ended
	err    error         // how; readable then
}

// Start returns when the server answers, and has proved to be the one that was started: it knows a secret path and our
// credentials.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	binary, err := findBinary(ctx, cfg.Binary)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("folder of the S3 server: %w", err)
	}
	if cfg.AccessKey == "" || cfg.SecretKey == "" {
		cfg.AccessKey, cfg.SecretKey = rand.Text()[:20], rand.Text()
	}
	var failures []error
	for range portTries {
		s, err := start(ctx, binary, cfg)
		if err == nil {
			return s, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failures...)
}

func start(ctx context.Context, binary string, cfg Config) (*Server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	health := "/health-" + rand.Text()
	s := &Server{
		Endpoint:  "http://" + address,
		AccessKey: cfg.AccessKey,
		SecretKey: cfg.SecretKey,
		client:    &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
		tail:      &tail{next: cfg.Log},
		done:      make(chan struct{}),
	}
	s.cmd = exec.Command(binary, "--port", address, "--region", Region, "--quiet", "--keep-alive", "--health", health, "posix", cfg.Dir)
	// Not as arguments, which every user of the machine can read.
	s.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(),
		"ROOT_ACCESS_KEY_ID=" + cfg.AccessKey, "ROOT_SECRET_ACCESS_KEY=" + cfg.SecretKey,
	}
	s.cmd.Stdout, s.cmd.Stderr = s.tail, s.tail
	s.cmd.SysProcAttr = processAttributes()
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the S3 server: %w", err)
	}
	go func() { // ends with the process; Stop waits for it
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	if err := s.awaitReady(ctx, health); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (s *Server) awaitReady(ctx context.Context, health string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		err := s.proveOurs(ctx, health)
		if err == nil {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("the S3 server ended at its start: %w; its last words: %s", orNil(s.err), s.tail)
		case <-ctx.Done():
			return fmt.Errorf("the S3 server at %s does not answer: %w; its last words: %s", s.Endpoint, err, s.tail)
		case <-ticker.C:
		}
	}
}

func orNil(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func (s *Server) proveOurs(ctx context.Context, health string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+health, nil)
	if err != nil {
		return err
	}
	if err := s.expect(req, http.StatusOK); err != nil {
		return err
	}
	return s.request(ctx, http.MethodGet, "/", http.StatusOK)
}

// CreateBucket makes a bucket; one that is there already is no error.
func (s *Server) CreateBucket(ctx context.Context, name string) error {
	if err := s.request(ctx, http.MethodPut, "/"+name, http.StatusOK, http.StatusConflict); err != nil {
		return fmt.Errorf("create bucket %s: %w", name, err)
	}
	return nil
}

func (s *Server) request(ctx context.Context, method, path string, allowed ...int) error {
	req, err := http.NewRequestWithContext(ctx, method, s.Endpoint+path, nil)
	if err != nil {
		return err
	}
	sign(req, s.AccessKey, s.SecretKey, time.Now().UTC())
	return s.expect(req, allowed...)
}

func (s *Server) expect(req *http.Request, allowed ...int) error {
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for _, status := range allowed {
		if resp.StatusCode == status {
			return nil
		}
	}
	const maxMessage = 1 << 10
	message, _ := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	return fmt.Errorf("%s %s: got %s, want %d: %s", req.Method, req.URL.Path, resp.Status, allowed, message)
}

// Done is closed when the process has ended, for whatever reason.
func (s *Server) Done() <-chan struct{} { return s.done }

// Pid is the process, for chaos tests.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Stop ends the process, gently at first, and waits for it. The data stays.
func (s *Server) Stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the S3 server: %w", err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-s.done:
		return nil
	case <-timer.C:
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the S3 server: %w", err)
	}
	<-s.done
	return nil
}

// findBinary builds the server where none is given: minutes the first time, then the Go build cache has it.
func findBinary(ctx context.Context, binary string) (string, error) {
	if binary == "" {
		binary = os.Getenv("VARVE_VERSITYGW")
	}
	if binary != "" {
		return binary, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	var out, problems bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "tool", "-n", "-modfile="+filepath.Join(root, "localstack", "tools", "go.mod"), "versitygw")
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build versitygw (or set VARVE_VERSITYGW to its program): %w: %s", err, problems.Bytes())
	}
	return strings.TrimSpace(out.String()), nil
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "localstack", "tools", "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s is not inside Varve's source tree, from which versitygw is built; set VARVE_VERSITYGW to its program", dir)
		}
	}
}

// tail passes output on and keeps its end.
type tail struct {
	next io.Writer

	mu  sync.Mutex // guards end
	end []byte
}

const tailBytes = 4 << 10 // some forty lines, enough for a reason

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.end = append(t.end, p...)
	if n := len(t.end) - tailBytes; n > 0 {
		t.end = append(t.end[:0], t.end[n:]...)
	}
	t.mu.Unlock()
	if t.next != nil {
		return t.next.Write(p)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.end))
}
