// Command bench measures the agent against the least that a process must do, and against Apache Kafka, in one run.
//
// It steers by what neighbours on the machine cannot change: CPU-seconds of the broker's process alone, requests counted
// at the store, system calls, allocations. Throughput and latency stand beside the same figures of the others from the
// same run, and are worth no more than that. The client sends prebuilt batches, so that it costs little.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	bench
	kinds  []kind
	runs   int
	only   *regexp.Regexp
	write  string
	list   bool
	within time.Duration
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	kinds, only, cache := "", "", ""
	flags.StringVar(&o.program, "varve", "", "the program under test; default: built from ./agent")
	flags.StringVar(&kinds, "brokers", "varve,floor", "what to measure: varve, floor (the control), kafka")
	flags.IntVar(&o.runs, "runs", 3, "runs of each, interleaved")
	flags.StringVar(&only, "only", "", "regular expression on TABLE: CASE; see -list")
	flags.StringVar(&o.write, "write", "", "file whose generated part the tables replace, such as localstack/bench/RESULTS.md")
	flags.BoolVar(&o.list, "list", false, "print the cases and stop")
	flags.StringVar(&o.driver, "driver", "s3", "driver of the agent's store: s3 or minio")
	flags.DurationVar(&o.interval, "interval", 20*time.Millisecond, "flush.interval.ms of agent and control")
	flags.Float64Var(&o.scale, "scale", 1, "of all loads")
	flags.DurationVar(&o.within, "within", 10*time.Minute, "bound of one run")
	flags.StringVar(&o.profiles, "profiles", "", "folder for profiles of the agent, one set for each measured load")
	flags.IntVar(&o.seconds, "profile-seconds", 5, "length of each CPU profile")
	flags.BoolVar(&o.keep, "keep", false, "keep what the brokers wrote")
	flags.StringVar(&cache, "cache", "", "folder of Kafka's jars; default: where localstack/e2e/install puts them")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	for _, k := range strings.Split(kinds, ",") {
		if !slices.Contains([]kind{varve, bare, kafka}, kind(k)) {
			return o, fmt.Errorf("-brokers %q: want varve, floor or kafka", k)
		}
		o.kinds = append(o.kinds, kind(k))
	}
	if o.driver != "s3" && o.driver != "minio" {
		return o, fmt.Errorf("-driver %q: want s3 or minio", o.driver)
	}
	if o.only, err = regexp.Compile(only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	if cache == "" {
		cache = defaultCache()
	}
	o.jars = filepath.Join(cache, "e2e", "java")
	return o, nil
}

func defaultCache() string {
	if dir := os.Getenv("VARVE_CACHE"); dir != "" {
		return dir
	}
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "varve")
	}
	return filepath.Join(os.TempDir(), "varve")
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	if len(args) > 0 && args[0] == "floor" {
		return runFloor(args[1:], stdout, stderr)
	}
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	o.say = func(format string, a ...any) { fmt.Fprintf(stderr, format+"\n", a...) }
	var chosen []scenario
	for _, s := range o.scenarios() {
		if o.only.MatchString(s.table + ": " + s.name) {
			chosen = append(chosen, s)
		}
	}
	if o.list {
		for _, s := range chosen {
			fmt.Fprintf(stdout, "%s: %s\n", s.table, s.name)
		}
		return nil
	}
	if len(chosen) == 0 {
		return errors.New("no case matches -only; -list prints them")
	}
	if o.tmp, err = os.MkdirTemp("", "varve-bench-"); err != nil {
		return err
	}
	if !o.keep {
		defer func() { err = errors.Join(err, os.RemoveAll(o.tmp)) }()
	}
	if err := o.build(ctx, stderr); err != nil {
		return err
	}
	r := &report{}
	if r.before, err = lookAround(o.tmp); err != nil {
		return err
	}
	for round := range o.runs {
		if err := o.round(ctx, chosen, r, round); err != nil {
			return err
		}
		if r.after, err = lookAround(o.tmp); err != nil {
			return err
		}
		// After each round, so that a run that is cut short has something to show.
		if err := o.save(o.preamble(args, r, round+1) + r.markdown()); err != nil {
			return err
		}
	}
	fmt.Fprintln(stdout, o.preamble(args, r, o.runs)+r.markdown())
	return r.failures()
}

// save replaces the generated part of the document that was asked for.
func (o *options) save(text string) error {
	if o.write == "" {
		return nil
	}
	document, err := os.ReadFile(o.write)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(o.write, []byte(splice(string(document), text)), 0o644)
}

func runFloor(args []string, stdout, stderr io.Writer) error {
	var cfg floorConfig
	flags := flag.NewFlagSet("floor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&cfg.url, "url", "", "bucket to PUT to")
	flags.DurationVar(&cfg.interval, "interval", 20*time.Millisecond, "least time between two windows")
	flags.IntVar(&cfg.bytes, "bytes", 8<<20, "of a window")
	flags.BoolVar(&cfg.again, "again", false, "PUT every byte a second time, as sealing does")
	flags.BoolVar(&cfg.keep, "keep", false, "keep what was stored, and answer fetches with it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return floorMain(cfg, os.Stdin, stdout)
}

// build makes the programs that are measured.
func (o *options) build(ctx context.Context, stderr io.Writer) (err error) {
	if o.self, err = os.Executable(); err != nil || o.program != "" {
		return err
	}
	o.program = filepath.Join(o.tmp, "varve")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", o.program, "varve.dev/agent")
	cmd.Env, cmd.Stderr = append(os.Environ(), "CGO_ENABLED=0"), stderr
	return cmd.Run()
}

// round is one run of each: case after case, and within it one broker after the other, in turning order.
func (o *options) round(ctx context.Context, chosen []scenario, r *report, round int) error {
	for _, s := range chosen {
		kinds := slices.DeleteFunc(slices.Clone(s.kinds), func(k kind) bool { return !slices.Contains(o.kinds, k) })
		for _, k := range kinds {
			r.row(s, k)
		}
		if round%2 == 1 {
			slices.Reverse(kinds)
		}
		for _, k := range kinds {
			o.one(ctx, r.row(s, k), round)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

func (o *options) one(ctx context.Context, x *row, round int) {
	ctx, cancel := context.WithTimeout(ctx, o.within)
	defer cancel()
	f, err := x.run(ctx, &o.bench, x.kind)
	if err != nil {
		x.failed = fmt.Errorf("run %d: %w", round+1, err)
		o.say("%d %-6s %s: %s: FAILED: %v", round+1, x.kind, x.table, x.name, err)
		return
	}
	x.runs = append(x.runs, f)
	var parts []string
	for _, v := range f {
		parts = append(parts, v.name+" "+number(v.value))
	}
	o.say("%d %-6s %s: %s: %s", round+1, x.kind, x.table, x.name, strings.Join(parts, ", "))
}

func (r *report) failures() error {
	var errs []error
	for _, x := range r.rows {
		if x.failed != nil {
			errs = append(errs, fmt.Errorf("%s, %s, %s: %w", x.table, x.name, x.kind, x.failed))
		}
	}
	return errors.Join(errs...)
}

func (o *options) preamble(args []string, r *report, runs int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "`go run ./localstack/bench %s`, %s, %d runs of each, interleaved; median (least–most).\n\n",
		strings.Join(quoted(args), " "), time.Now().UTC().Format("2006-01-02"), runs)
	fmt.Fprintf(&b, "Machine: %s, %d processors, Linux %s, %s. Load averages %s before and %s after, %.1f s stolen meanwhile, fdatasync of 4 KiB in %s and %s (median of %d). "+
		"Client, store stub and broker share the processors; CPU is of the broker's process alone.\n",
		r.before.cpu, runtime.NumCPU(), r.before.kern, runtime.Version(), r.before.load, r.after.load, r.after.steal-r.before.steal,
		r.before.fsync.Round(10*time.Microsecond), r.after.fsync.Round(10*time.Microsecond), fsyncs)
	return b.String()
}

// quoted is args as a shell takes them.
func quoted(args []string) []string {
	out := slices.Clone(args)
	for i, a := range out {
		if strings.ContainsAny(a, " ()|*?$;&<>") {
			out[i] = "'" + a + "'"
		}
	}
	return out
}
