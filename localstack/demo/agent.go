package main

import (
	"bufio"
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
)

const (
	startTimeout = 60 * time.Second // a first start migrates its database
	stopTimeout  = 60 * time.Second // the agent's own shutdown.timeout.ms is 30 s
)

// endpoints are where an agent answers.
type endpoints struct{ kafka, http string }

// agent is a running agent process. Whoever starts one stops it.
type agent struct {
	endpoints
	cmd *exec.Cmd
	log string // file of its standard error
	end chan error
}

// startAgent runs the program and waits for its ready line.
func startAgent(ctx context.Context, program, dir string, environ []string, args ...string) (*agent, error) {
	logFile, err := os.Create(filepath.Join(dir, "agent.log"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close() // the process has its own descriptor
	a := &agent{cmd: exec.Command(program, args...), log: logFile.Name(), end: make(chan error, 1)}
	a.cmd.Env, a.cmd.Stderr = append(os.Environ(), environ...), logFile
	stdout, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w (make build makes the program)", err)
	}
	ready := make(chan endpoints, 1)
	go func() { // ends with the process
		scan := bufio.NewScanner(stdout)
		for scan.Scan() {
			if e, ok := parseReady(scan.Text()); ok {
				ready <- e
				break
			}
		}
		_, copied := io.Copy(io.Discard, stdout)
		a.end <- errors.Join(a.cmd.Wait(), copied)
	}()
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case a.endpoints = <-ready:
		return a, nil
	case err := <-a.end:
		return nil, fmt.Errorf("the agent ended at its start: %w; %s", err, a.lastWords())
	case <-timer.C:
		err = fmt.Errorf("the agent is not ready after %v; %s", startTimeout, a.lastWords())
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, a.stop())
}

// parseReady reads "ready kafka=HOST:PORT http=HOST:PORT".
func parseReady(line string) (e endpoints, ok bool) {
	words := strings.Fields(line)
	if len(words) == 0 || words[0] != "ready" {
		return e, false
	}
	for _, word := range words[1:] {
		switch name, value, _ := strings.Cut(word, "="); name {
		case "kafka":
			e.kafka = value
		case "http":
			e.http = value
		}
	}
	return e, e.kafka != "" && e.http != ""
}

// stop asks the agent to end, and fails unless it does so in order.
func (a *agent) stop() error {
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the agent: %w", err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case err := <-a.end:
		if err != nil {
			return fmt.Errorf("the agent did not end in order: %w; %s", err, a.lastWords())
		}
		return nil
	case <-timer.C:
	}
	err := fmt.Errorf("the agent did not end within %v", stopTimeout)
	if killed := a.cmd.Process.Kill(); killed != nil {
		return errors.Join(err, killed)
	}
	<-a.end
	return err
}

// lastWords is the end of the agent's log, for an error.
func (a *agent) lastWords() string {
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

// figures are what the agent counts of itself.
type figures struct {
	puts, gets, walObjects, segments, unsealedObjects, unsealedBytes float64
}

// metric is a name of the agent's /metrics page, and the kind where it is counted by kind.
type metric struct{ name, kind string }

// places says which figure each metric is.
func (f *figures) places() map[metric]*float64 {
	return map[metric]*float64{
		{"varve_objectstore_requests_total", "put"}: &f.puts,
		{"varve_objectstore_requests_total", "get"}: &f.gets,
		{"varve_wal_objects_total", ""}:             &f.walObjects,
		{"varve_segments_total", ""}:                &f.segments,
		{"varve_unsealed_objects", ""}:              &f.unsealedObjects,
		{"varve_unsealed_bytes", ""}:                &f.unsealedBytes,
	}
}

// parseFigures reads Prometheus's text format, as much of it as the agent writes. Every figure must be there: one that
// is missing would read as zero, which is what this waits for.
func parseFigures(page io.Reader) (f figures, err error) {
	places := f.places()
	missing := f.places()
	scan := bufio.NewScanner(page)
	for scan.Scan() {
		m, value, ok := parseSample(scan.Text())
		if !ok {
			continue
		}
		if place := places[m]; place != nil {
			*place += value
			delete(missing, m)
		}
	}
	for m := range missing {
		err = errors.Join(err, fmt.Errorf("the agent's metrics lack %s %s", m.name, m.kind))
	}
	return f, errors.Join(scan.Err(), err)
}

// parseSample reads NAME{LABELS} VALUE.
func parseSample(line string) (m metric, value float64, ok bool) {
	series, number, ok := cutLast(line, ' ')
	if !ok || strings.HasPrefix(line, "#") {
		return m, 0, false
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return m, 0, false
	}
	name, labels, _ := strings.Cut(series, "{")
	m.name = name
	for _, label := range strings.Split(strings.TrimSuffix(labels, "}"), ",") {
		if kind, ok := strings.CutPrefix(label, `kind="`); ok {
			m.kind = strings.TrimSuffix(kind, `"`)
		}
	}
	return m, value, true
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func (e endpoints) figures(ctx context.Context) (figures, error) {
	body, err := e.call(ctx, http.MethodGet, "/metrics")
	if err != nil {
		return figures{}, err
	}
	return parseFigures(strings.NewReader(body))
}

// evict drops the agent's local copies of what is in the object store.
func (e endpoints) evict(ctx context.Context) error {
	_, err := e.call(ctx, http.MethodPost, "/debug/evict")
	return err
}

func (e endpoints) call(ctx context.Context, method, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+e.http+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	const maxPage = 16 << 20
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		return "", fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, lastLine(body))
	}
	return string(body), nil
}
