// Package agentserver runs one agent as a child process and knows where it answers.
package agentserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second // a first start migrates its database
	stopTimeout  = 60 * time.Second // the agent's own shutdown.timeout.ms is 30 s
)

// Config says what is run.
type Config struct {
	// Program is varve's file.
	Program string
	// Args are its subcommand and flags.
	Args []string
	// Env is added to this process's environment.
	Env []string
	// Log is the file that its standard error is appended to.
	Log string
}

// Endpoints are where an agent answers, as HOST:PORT.
type Endpoints struct{ Kafka, HTTP string }

// Agent is a running agent process. Whoever starts one calls Stop.
type Agent struct {
	Endpoints

	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the process has ended
	err  error         // how; readable then
}

// Start runs the program and waits for its ready line.
func Start(ctx context.Context, cfg Config) (*Agent, error) {
	log, err := os.OpenFile(cfg.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of the agent: %w", err)
	}
	defer log.Close() // the process has its own descriptor
	a := &Agent{cmd: exec.Command(cfg.Program, cfg.Args...), log: cfg.Log, done: make(chan struct{})}
	a.cmd.Env, a.cmd.Stderr, a.cmd.SysProcAttr = append(os.Environ(), cfg.Env...), log, processAttributes()
	stdout, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w (make build makes the program)", err)
	}
	ready := make(chan Endpoints, 1)
	go func() { // ends with the process; Stop waits for it
		read := watchReady(stdout, ready)
		a.err = errors.Join(a.cmd.Wait(), read)
		close(a.done)
	}()
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case a.Endpoints = <-ready:
		return a, nil
	case <-a.done:
		return nil, fmt.Errorf("the agent ended at its start: %w; %s", orClean(a.err), a.LastWords())
	case <-timer.C:
		err = fmt.Errorf("the agent is not ready after %v; %s", startTimeout, a.LastWords())
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, a.Stop())
}

func orClean(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// watchReady hands over what the ready line says and reads on until the end.
func watchReady(stdout io.Reader, ready chan<- Endpoints) error {
	scan := bufio.NewScanner(stdout)
	for scan.Scan() {
		if e, ok := parseReady(scan.Text()); ok {
			ready <- e
			break
		}
	}
	_, err := io.Copy(io.Discard, stdout)
	return err
}

// parseReady reads "ready kafka=HOST:PORT http=HOST:PORT".
func parseReady(line string) (e Endpoints, ok bool) {
	words := strings.Fields(line)
	if len(words) == 0 || words[0] != "ready" {
		return e, false
	}
	for _, word := range words[1:] {
		switch name, value, _ := strings.Cut(word, "="); name {
		case "kafka":
			e.Kafka = value
		case "http":
			e.HTTP = value
		}
	}
	return e, e.Kafka != "" && e.HTTP != ""
}

// Done is closed when the process has ended, for whatever reason.
func (a *Agent) Done() <-chan struct{} { return a.done }

// Stop asks the agent to end, and fails unless it does so in order.
func (a *Agent) Stop() error {
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the agent: %w", err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-a.done:
		if a.err != nil {
			return fmt.Errorf("the agent did not end in order: %w; %s", a.err, a.LastWords())
		}
		return nil
	case <-timer.C:
	}
	err := fmt.Errorf("the agent did not end within %v", stopTimeout)
	if killed := a.cmd.Process.Kill(); killed != nil {
		return errors.Join(err, killed)
	}
	<-a.done
	return err
}

// LastWords is the end of the agent's log, for an error.
func (a *Agent) LastWords() string {
	const most = 2 << 10
	f, err := os.Open(a.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err != nil || size > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return err.Error()
		}
	} else if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err.Error()
	}
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return err.Error()
	}
	return "its last words: " + strings.TrimSpace(string(text))
}
