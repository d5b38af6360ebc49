package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A suite is another project's tests.
type suite struct {
	name    string
	module  module
	pkg     string // of the module, as go test names it
	tags    string
	depth   int // levels of subtests that the list names
	timeout time.Duration
	// slow is from when on a test is left to the full form; 0: none is.
	slow time.Duration
	// sources are the files whose tests are meant; empty: all of them.
	sources string
	// change makes the suite's source ready, if it cannot be built as it is: its folder is a copy.
	change func(dir string) error
	// settings of the agent, and the surroundings that the tests expect.
	settings []string
	arrange  func(ctx context.Context, kafka, dir string) (surroundings, error)
}

// surroundings are what the tests are told and what was started for them.
type surroundings struct {
	env  []string
	cwd  string // empty: the suite's own folder
	stop func() error
}

// module is a version of a Go module, and the checksum that go.sum would hold: it is built with its own go.mod and go.sum,
// so that none of its dependencies is one of ours.
type module struct{ path, version, sum string }

// download answers the folder of the module's source.
func (m module) download(ctx context.Context, temp string) (string, error) {
	out, err := goCommand(ctx, temp, "mod", "download", "-json", m.path+"@"+m.version)
	if err != nil {
		return "", err
	}
	var got struct{ Dir, Sum string }
	if err := json.Unmarshal(out, &got); err != nil {
		return "", fmt.Errorf("answer of go mod download: %w", err)
	}
	if got.Sum != m.sum {
		return "", fmt.Errorf("%s@%s has the checksum %s, want %s", m.path, m.version, got.Sum, m.sum)
	}
	return got.Dir, nil
}

// goCommand runs go in a folder and answers its standard output.
func goCommand(ctx context.Context, dir string, args ...string) ([]byte, error) {
	var out, problems bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &problems
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, problems.Bytes())
	}
	return out.Bytes(), nil
}

// build is a suite's test program.
type build struct {
	program string
	source  string // folder of the package, where its tests expect to run
	clean   func() error
}

func (s suite) build(ctx context.Context, dir string) (b build, err error) {
	source, err := s.module.download(ctx, dir)
	if err != nil {
		return b, err
	}
	b = build{program: filepath.Join(dir, s.name+".test"), clean: func() error { return nil }}
	if s.change != nil {
		copied := filepath.Join(dir, "source")
		if err := os.CopyFS(copied, os.DirFS(source)); err != nil {
			return b, fmt.Errorf("copy the suite: %w", err)
		}
		b.clean = func() error { return os.RemoveAll(copied) }
		if err := s.change(copied); err != nil {
			return b, errors.Join(err, b.clean())
		}
		source = copied
	}
	b.source = filepath.Join(source, s.pkg)
	if _, err := goCommand(ctx, source, "test", "-c", "-tags", s.tags, "-o", b.program, "./"+s.pkg); err != nil {
		return b, errors.Join(err, b.clean())
	}
	return b, nil
}
