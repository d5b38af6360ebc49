// Package pgserver runs a private PostgreSQL server: its own data, its own socket, never the machine's cluster.
package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"varve.dev/metadata/postgres"
)

// ErrNoServer means that no PostgreSQL programs were found.
var ErrNoServer = errors.New("no PostgreSQL server: install Debian's postgresql-15, or name a folder with initdb and " +
	"postgres in VARVE_PG_BIN")

// Config of a server. The zero value is a throw-away server on a socket.
type Config struct {
	// Dir keeps the data and the log between runs; `nobody` must be able to reach it when the caller is root. Empty: a
	// temporary folder, removed by Stop.
	Dir string
	// FsyncOff makes it fast, and what it acknowledged may not survive a power cut. Leave it off in crash tests.
	FsyncOff bool
	// TCP listens on a free port of the loopback interface as well.
	TCP bool
	// Settings of postgresql.conf.
	Settings map[string]string
}

// Server is a running server.
type Server struct {
	cfg       Config
	bin       string
	dir       string // data, log
	socketDir string // short: socket names end at 107 bytes
	port      int
	as        *syscall.Credential
	cmd       *exec.Cmd
	exited    chan struct{}
}

// startTimeout is how long a start may take, crash recovery included.
const startTimeout = 60 * time.Second

// Start makes the data folder if there is none, and starts a server on it.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	bin, err := findBin()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, bin: bin, dir: cfg.Dir, port: 5432}
	if s.as, err = credential(); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.clean())
	}
	if err := s.launch(ctx); err != nil {
		return nil, errors.Join(err, s.clean())
	}
	return s, nil
}

// findBin answers the folder of the server's programs.
func findBin() (string, error) {
	if dir := os.Getenv("VARVE_PG_BIN"); dir != "" {
		return dir, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", ErrNoServer
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return majorOf(a) - majorOf(b) })
	return filepath.Dir(newest), nil
}

// majorOf reads the version in /usr/lib/postgresql/15/bin/postgres.
func majorOf(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// credential is whom the server runs as: it refuses to be root.
func credential() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("find a user for PostgreSQL, which refuses to run as root: %w", err)
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("uid of nobody: %w", err)
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("gid of nobody: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (s *Server) dataDir() string { return filepath.Join(s.dir, "data") }

// prepare makes the folders and, in a new one, the database cluster.
func (s *Server) prepare(ctx context.Context) (err error) {
	if s.socketDir, err = os.MkdirTemp("", "vpg"); err != nil {
		return err
	}
	if s.dir == "" {
		s.dir = s.socketDir
	} else if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	for _, dir := range []string{s.socketDir, s.dir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if s.as != nil {
			if err := os.Chown(dir, int(s.as.Uid), int(s.as.Gid)); err != nil {
				return err
			}
		}
	}
	if s.cfg.TCP {
		if s.port, err = freePort(); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(s.dataDir(), "PG_VERSION")); err == nil {
		return nil
	}
	initdb := s.command(ctx, "initdb", "-D", s.dataDir(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// command is one of the server's programs, as the server's user, in a process group of its own: a Ctrl-C at the terminal
// is for our own process, which then stops this one in order.
func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Setpgid: true}
	return cmd
}

func (s *Server) launch(ctx context.Context) error {
	args := []string{"-D", s.dataDir(), "-k", s.socketDir, "-p", strconv.Itoa(s.port)}
	listen := ""
	if s.cfg.TCP {
		listen = "127.0.0.1"
	}
	args = append(args, "-c", "listen_addresses="+listen)
	if s.cfg.FsyncOff {
		args = append(args, "-c", "fsync=off")
	}
	for name, value := range s.cfg.Settings {
		args = append(args, "-c", name+"="+value)
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command(context.WithoutCancel(ctx), "postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	exited := make(chan struct{})
	go func() { // ends with the process; Stop and Kill wait for it
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	if err := s.awaitReady(ctx); err != nil {
		return errors.Join(err, s.halt(syscall.SIGKILL))
	}
	return nil
}

// awaitReady polls the file in which the server reports its state, as pg_ctl does.
func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		text, _ := os.ReadFile(filepath.Join(s.dataDir(), "postmaster.pid"))
		lines := strings.Split(string(text), "\n")
		const pidLine, stateLine = 0, 7
		if len(lines) > stateLine && lines[pidLine] == strconv.Itoa(s.cmd.Process.Pid) &&
			strings.TrimSpace(lines[stateLine]) == "ready" {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.exited:
			return fmt.Errorf("postgres ended at its start: %s", s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("postgres is not ready: %w: %s", ctx.Err(), s.logTail())
		}
	}
}

func (s *Server) logTail() string {
	const tail = 2048 // bytes
	text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(text[max(0, len(text)-tail):])
}

// URL leads to a database over the socket.
func (s *Server) URL(db string) string {
	q := url.Values{"host": {s.socketDir}, "port": {strconv.Itoa(s.port)}, "user": {"postgres"}}
	return "postgres:///" + url.PathEscape(db) + "?" + q.Encode()
}

// TCPURL leads to a database over the loopback interface, if Config.TCP was set.
func (s *Server) TCPURL(db string) string {
	return "postgres://postgres@" + s.Address() + "/" + url.PathEscape(db) + "?sslmode=disable"
}

// Address is where it listens, if Config.TCP was set.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// CreateDatabase creates an empty database and answers its URL.
func (s *Server) CreateDatabase(ctx context.Context, name string) (string, error) {
	if err := postgres.CreateDatabase(ctx, s.URL("postgres"), name); err != nil {
		return "", err
	}
	return s.URL(name), nil
}

// Stop ends the server in order, and removes what was temporary.
func (s *Server) Stop() error { return errors.Join(s.halt(syscall.SIGINT), s.clean()) }

// Kill ends the server as a crash does. Restart brings it back.
func (s *Server) Kill() error { return s.halt(syscall.SIGKILL) }

// Restart starts a server that was killed; it recovers first.
func (s *Server) Restart(ctx context.Context) error {
	select {
	case <-s.exited:
	default:
		return errors.New("postgres is running")
	}
	if err := s.awaitOrphans(ctx); err != nil {
		return err
	}
	return s.launch(ctx)
}

// stopTimeout is how long an orderly end may take before it is enforced.
const stopTimeout = 30 * time.Second

// halt sends a signal by pid and waits for the end.
func (s *Server) halt(sig syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	select {
	case <-s.exited:
		return nil
	default:
	}
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal postgres: %w", err)
	}
	patience := time.NewTimer(stopTimeout)
	defer patience.Stop()
	select {
	case <-s.exited:
		return nil
	case <-patience.C:
	}
	err := s.cmd.Process.Kill()
	<-s.exited
	return errors.Join(fmt.Errorf("postgres did not stop within %v and was killed", stopTimeout), err)
}

func (s *Server) clean() error {
	err := os.RemoveAll(s.socketDir)
	if err != nil { // children of a killed server may still be writing there
		err = os.RemoveAll(s.socketDir)
	}
	return err
}
