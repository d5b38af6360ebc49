package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"varve.dev/localstack/agentserver"
)

// result is how a test ended.
type result struct {
	test    string
	action  string // pass, fail or skip
	seconds float64
}

// results are how all of them did.
type results struct {
	byTest map[string]result
	known  []string // top-level tests of the suite; nil: nobody asked
	output map[string][]string
}

// outputLines bounds what is kept of a test's output, from its end.
const outputLines = 40

func (r results) outputOf(test string) string {
	if len(r.output[test]) == 0 {
		return ""
	}
	return "    " + strings.Join(r.output[test], "    ")
}

// runTests runs a suite's tests against an agent of their own.
func (o options) runTests(ctx context.Context, s suite, b build, l list, dir string) (r results, err error) {
	args := []string{"dev", "--data", filepath.Join(dir, "data"), "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0"}
	for _, set := range s.settings {
		args = append(args, "--set", set)
	}
	a, err := agentserver.Start(ctx, agentserver.Config{Program: o.program, Args: args, Log: filepath.Join(dir, "agent.log")})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, a.Stop()) }()
	around, err := s.arrange(ctx, a.Kafka, dir)
	if err != nil {
		return r, err
	}
	if around.stop != nil {
		defer func() { err = errors.Join(err, around.stop()) }()
	}
	if around.cwd == "" {
		around.cwd = b.source
	}
	all, err := s.tests(ctx, b)
	if err != nil {
		return r, err
	}
	skipped := l.names(skip)
	if !o.full {
		skipped = append(skipped, l.names(slow)...)
	}
	run := pattern(all)
	if o.only != "" {
		run = o.only
	}
	cmd := exec.CommandContext(ctx, b.program, "-test.v=test2json", "-test.count=1", "-test.timeout="+s.timeout.String(), "-test.run="+run, "-test.skip="+pattern(skipped))
	cmd.Dir, cmd.Env = around.cwd, append(os.Environ(), around.env...)
	r, err = convert(ctx, cmd, filepath.Join(dir, "output"))
	r.known = all
	return r, err
}

// tests are the names of the suite's top-level tests that are meant.
func (s suite) tests(ctx context.Context, b build) ([]string, error) {
	if s.sources == "" {
		out, err := exec.CommandContext(ctx, b.program, "-test.list=^Test").Output()
		if err != nil {
			return nil, fmt.Errorf("list the tests: %w", err)
		}
		return strings.Fields(string(out)), nil
	}
	files, err := filepath.Glob(filepath.Join(b.source, s.sources))
	if err != nil {
		return nil, err
	}
	var tests []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			if name, ok := strings.CutPrefix(line, "func Test"); ok {
				if name, _, ok = strings.Cut(name, "(t *testing.T)"); ok {
					tests = append(tests, "Test"+name)
				}
			}
		}
	}
	return tests, nil
}

// convert runs a test program and reads how its tests ended, by way of Go's own converter. That some of them fail is no
// error.
func convert(ctx context.Context, tests *exec.Cmd, outputFile string) (r results, err error) {
	log, err := os.Create(outputFile)
	if err != nil {
		return r, err
	}
	defer log.Close()
	converter := exec.CommandContext(ctx, "go", "tool", "test2json", "-t") // -t: with times
	converter.Stderr = os.Stderr
	tests.Stderr = log
	if converter.Stdin, err = tests.StdoutPipe(); err != nil {
		return r, err
	}
	events, err := converter.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := converter.Start(); err != nil {
		return r, fmt.Errorf("start go tool test2json: %w", err)
	}
	if err := tests.Start(); err != nil {
		return r, errors.Join(fmt.Errorf("start the tests: %w", err), converter.Process.Kill(), converter.Wait())
	}
	r, err = readEvents(events, log)
	err = errors.Join(err, converter.Wait())
	var failed *exec.ExitError
	if ended := tests.Wait(); ended != nil && !errors.As(ended, &failed) {
		err = errors.Join(err, ended)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return r, err
}

func readEvents(events io.Reader, log io.Writer) (results, error) {
	r := results{byTest: map[string]result{}, output: map[string][]string{}}
	scan := bufio.NewScanner(events)
	const longestLine = 16 << 20 // a test may print a whole batch
	scan.Buffer(nil, longestLine)
	for scan.Scan() {
		var e struct {
			Action, Test, Output string
			Elapsed              float64
		}
		if err := json.Unmarshal(scan.Bytes(), &e); err != nil {
			return r, fmt.Errorf("event of a test: %w", err)
		}
		switch e.Action {
		case "output":
			if _, err := io.WriteString(log, e.Output); err != nil {
				return r, err
			}
			lines := append(r.output[e.Test], e.Output)
			r.output[e.Test] = lines[max(0, len(lines)-outputLines):]
		case "pass", "fail", "skip":
			if e.Test != "" {
				r.byTest[e.Test] = result{test: e.Test, action: e.Action, seconds: e.Elapsed}
			}
		}
	}
	return r, scan.Err()
}
