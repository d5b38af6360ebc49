// Command suites runs other projects' own test suites against an agent, and holds them to the lists of what passes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "suites:", err)
		os.Exit(1)
	}
}

type options struct {
	program string
	full    bool
	only    string
	update  bool
	suites  []suite
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("suites", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: suites [flags] [%s]…\n", strings.Join(names(suites), "|"))
		flags.PrintDefaults()
	}
	flags.StringVar(&o.program, "varve", filepath.Join("bin", "varve"), "the program under test")
	flags.BoolVar(&o.full, "full", false, "the slow tests too")
	flags.StringVar(&o.only, "run", "", "only tests that this pattern of go test names; the list is not checked for others")
	flags.BoolVar(&o.update, "update", false, "bring the lists in localstack/suites up to date: add what passes, mark what is slow; never takes a test off")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() == 0 {
		o.suites = suites
	}
	for _, name := range flags.Args() {
		i := slices.IndexFunc(suites, func(s suite) bool { return s.name == name })
		if i < 0 {
			return o, fmt.Errorf("there is no suite %q, want one of %v", name, names(suites))
		}
		o.suites = append(o.suites, suites[i])
	}
	if o.program, err = filepath.Abs(o.program); err != nil {
		return o, err
	}
	return o, nil
}

func names(of []suite) (out []string) {
	for _, s := range of {
		out = append(out, s.name)
	}
	return out
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	var errs error
	for _, s := range o.suites {
		if err := o.runSuite(ctx, s, stdout, stderr); err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errs
}

// runSuite runs one suite in a folder of its own, which stays only if something failed.
func (o options) runSuite(ctx context.Context, s suite, stdout, stderr io.Writer) (err error) {
	listed, err := readList(s.name)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "varve-suites-"+s.name+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			fmt.Fprintf(stderr, "%s: its output and the agent's log are in %s\n", s.name, dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	start := time.Now()
	b, err := s.build(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.clean()) }()
	built := time.Now()
	results, err := o.runTests(ctx, s, b, listed, dir)
	if err != nil {
		return err
	}
	v := judge(s, listed, results, selection{full: o.full, only: o.only != ""})
	v.print(stdout, s, built.Sub(start), time.Since(built))
	if o.update {
		if err := listed.add(slices.Concat(v.passed, v.unlisted), s.slow).write(filepath.Join("localstack", "suites", s.name+".list")); err != nil {
			return err
		}
	}
	for _, f := range v.failures {
		fmt.Fprintf(stderr, "\n%s: %s\n%s", s.name, f, results.outputOf(f.test))
	}
	if len(v.failures) > 0 {
		return fmt.Errorf("%d tests are not as %s.list says", len(v.failures), s.name)
	}
	return nil
}
