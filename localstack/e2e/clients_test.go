package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"varve.dev/localstack/e2e/contract"
)

// client is one program behind the contract, and what its library can do.
type client struct {
	name       string
	assignors  []string // group protocols it is tried with
	timestamps bool     // can set a record's timestamp
	empties    bool     // can tell an empty value from null
	static     bool     // knows static members
	acks       bool     // knows the offset of each record it produced

	// command says how to run it, or what is missing. It builds what has to be built.
	command func(t *testing.T, s *suite) (argv []string, err error)

	argv []string // what command said
}

// codecs every client has; a client without one of them fails.
var codecs = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

func clients() []client {
	eager, both := []string{"eager"}, []string{"eager", "cooperative"}
	return []client{
		{name: "kgo", assignors: both, timestamps: true, empties: true, static: true, acks: true, command: kgoCommand},
		{name: "java", assignors: both, timestamps: true, empties: true, static: true, acks: true, command: javaCommand},
		{name: "kafkajs", assignors: eager, timestamps: true, empties: true, acks: true, command: kafkajsCommand},
		{name: "python", assignors: both, timestamps: true, empties: true, static: true, acks: true, command: pythonCommand},
		{name: "librdkafka", assignors: both, timestamps: true, empties: true, static: true, acks: true,
			command: librdkafkaCommand},
		{name: "kcat", assignors: eager, static: true, command: kcatCommand},
	}
}

// installed returns c ready to run, or ends the test.
func (s *suite) installed(t *testing.T, c client) client {
	t.Helper()
	if c.name != "kgo" && !everyClient() {
		t.Skipf("only the client that needs nothing but Go runs by default: VARVE_E2E=1 runs all that are installed")
	}
	argv, err := c.command(t, s)
	if err != nil {
		missing(t, "%v: run localstack/e2e/install %s", err, c.name)
	}
	c.argv = append(argv, s.bootstrap)
	return c
}

func kgoCommand(t *testing.T, s *suite) ([]string, error) {
	return []string{s.build(t, s.root, "./localstack/e2e/clients/kgo")}, nil
}

func kcatCommand(t *testing.T, s *suite) ([]string, error) {
	if _, err := exec.LookPath("kcat"); err != nil {
		return nil, err
	}
	return []string{s.build(t, s.root, "./localstack/e2e/clients/kcat")}, nil
}

func librdkafkaCommand(t *testing.T, s *suite) ([]string, error) {
	if err := exists(s.cache, "librdkafka"); err != nil {
		return nil, err
	}
	return []string{s.build(t, filepath.Join(s.root, "localstack/e2e/librdkafka"), ".")}, nil
}

func pythonCommand(_ *testing.T, s *suite) ([]string, error) {
	script := filepath.Join(s.root, "localstack/e2e/clients/python/client.py")
	return []string{filepath.Join(s.cache, "python/bin/python"), script}, exists(s.cache, "python")
}

func kafkajsCommand(_ *testing.T, s *suite) ([]string, error) {
	if _, err := exec.LookPath("node"); err != nil {
		return nil, err
	}
	script := filepath.Join(s.root, "localstack/e2e/clients/kafkajs/client.js")
	modules := "NODE_PATH=" + filepath.Join(s.cache, "kafkajs/node_modules")
	return []string{"env", modules, "node", script}, exists(s.cache, "kafkajs")
}

func javaCommand(t *testing.T, s *suite) ([]string, error) {
	if _, err := exec.LookPath("javac"); err != nil {
		return nil, err
	}
	if err := exists(s.cache, "java"); err != nil {
		return nil, err
	}
	return s.java(t, "Client"), nil
}

// java compiles one of clients/java's programs and says how to run it: small and quick to start rather than fast.
func (s *suite) java(t *testing.T, class string) []string {
	t.Helper()
	classes, jars := filepath.Join(s.bin, "java-"+class), filepath.Join(s.cache, "java", "*")
	source := filepath.Join(s.root, "localstack/e2e/clients/java", class+".java")
	if out, err := exec.CommandContext(t.Context(), "javac", "-cp", jars, "-d", classes, source).CombinedOutput(); err != nil {
		t.Fatalf("javac %s: %v\n%s", source, err, out)
	}
	return []string{"java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classes + ":" + jars, class}
}

// exists says whether localstack/e2e/install finished this part.
func exists(cache, part string) error {
	_, err := os.Stat(filepath.Join(cache, part, ".made-from"))
	return err
}

// process is one running client program.
type process struct {
	stdin  io.WriteCloser
	stderr lockedBuffer
	exited chan struct{} // closed when it has ended and every event was handed over; err is set then
	err    error
}

// start runs c with args; each event is handed to emit from one goroutine. Whatever still runs when the test ends is killed.
func (c client) start(t *testing.T, emit func(contract.Event), args ...string) *process {
	t.Helper()
	p := &process{exited: make(chan struct{})}
	argv := append(c.argv[:len(c.argv):len(c.argv)], args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = &p.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that a program's own children can be killed with it
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	go func() { // ends with the program, which the cleanup kills
		defer close(p.exited)
		decoded := decode(out, emit)
		p.err = errors.Join(decoded, cmd.Wait())
	}()
	t.Cleanup(func() {
		select {
		case <-p.exited:
		default:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-p.exited
		}
		if t.Failed() {
			t.Logf("%s %s printed on standard error:\n%s", c.name, strings.Join(args, " "), p.stderr.tail(50))
		}
	})
	return p
}

// decode reads events until out ends; after an error it drains the rest, so that the program can end.
func decode(out io.Reader, emit func(contract.Event)) error {
	lines := json.NewDecoder(out)
	for {
		var e contract.Event
		if err := lines.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			_, _ = io.Copy(io.Discard, out)
			return fmt.Errorf("what the program printed: %w", err)
		}
		emit(e)
	}
}

// run feeds records to c and returns all its events; it must end by itself and without an error.
func (c client) run(t *testing.T, records []contract.Record, args ...string) []contract.Event {
	t.Helper()
	var events []contract.Event
	p := c.start(t, func(e contract.Event) { events = append(events, e) }, args...)
	lines := json.NewEncoder(p.stdin)
	for _, r := range records {
		if err := lines.Encode(r); err != nil {
			t.Fatalf("%s %v: standard input: %v", c.name, args, err)
		}
	}
	if err := p.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("%s %v did not end within %s; %d events so far", c.name, args, patience, len(events))
	}
	if p.err != nil {
		t.Fatalf("%s %v: %v", c.name, args, p.err)
	}
	if n := len(events); n == 0 || events[n-1].Event != "done" && events[n-1].Event != "produced" {
		t.Fatalf("%s %v ended without saying that it is done, after %d events", c.name, args, n)
	}
	return events
}
