// Command demo is the main job on real input: a public data set goes in through an ordinary client, settles into the
// object store, the local copy is evicted, and a consumer group replays it, byte for byte.
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
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

type options struct {
	program    string
	data       string
	only       bool
	stores     []string
	cache      string
	partitions int
	keep       bool
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	stores := ""
	flags.StringVar(&o.program, "varve", filepath.Join("bin", "varve"), "the program under test")
	flags.StringVar(&o.data, "data", "nycflights13", "flights-3m, nycflights13 or go-source; the next one is taken where it cannot be had")
	flags.BoolVar(&o.only, "only", false, "fail where the data set cannot be had")
	flags.StringVar(&stores, "stores", "file", "one run for each of file, s3, minio, separated by commas; the last two bring Postgres and an S3 server")
	flags.StringVar(&o.cache, "cache", "", "folder for data sets; default: $VARVE_CACHE, else varve in the user's cache folder")
	flags.IntVar(&o.partitions, "partitions", 6, "partitions of the topic")
	flags.BoolVar(&o.keep, "keep", false, "keep what the agent wrote")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	o.stores = strings.Split(stores, ",")
	if o.cache == "" {
		o.cache = os.Getenv("VARVE_CACHE")
	}
	if o.cache == "" {
		home, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("no cache folder is known here: give -cache DIR (%w)", err)
		}
		o.cache = filepath.Join(home, "varve")
	}
	o.cache = filepath.Join(o.cache, "demo")
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	show := newReporter(stderr)
	data, err := openDataset(ctx, o.data, o.cache, !o.only, show.say)
	if err != nil {
		return err
	}
	for _, store := range o.stores {
		if err := runOn(ctx, store, o, data, show, stdout); err != nil {
			return fmt.Errorf("%s: %w", store, err)
		}
	}
	return nil
}

// runOn is one run on one kind of store, in a folder of its own.
func runOn(ctx context.Context, store string, o options, data dataset, show reporter, stdout io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "varve-demo-")
	if err != nil {
		return err
	}
	defer func() {
		if o.keep {
			show.say("kept " + dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	show.say(fmt.Sprintf("%s (%s) on %s", data.name, data.about, store))
	a, stop, err := start(ctx, store, o.program, dir)
	if err != nil {
		return err
	}
	d := demo{at: endpoints{a.Kafka, a.HTTP}, data: data, partitions: int32(o.partitions), show: show}
	result, err := d.run(ctx)
	if err != nil && result.in != nil {
		err = fmt.Errorf("%w; %s", err, a.LastWords())
	}
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	return result.print(stdout, store, data)
}

// print writes the table. It comes only after everything was found equal.
func (o outcome) print(w io.Writer, store string, data dataset) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(t, "%s\t%v\n", name, value) }
	row("data", data.name+", "+data.about)
	row("store", store)
	row("records", o.out.records)
	row("bytes", o.out.bytes)
	row("keys, partitions", fmt.Sprintf("%d, %d", len(o.out.keys), o.partitions))
	row("WAL objects", o.replayedAt.walObjects-o.before.walObjects)
	row("segments", o.sealedAt.segments-o.before.segments)
	row("PUTs", o.sealedAt.puts-o.before.puts)
	row("GETs", fmt.Sprintf("%v, of which the replay %v", o.replayedAt.gets-o.before.gets, o.replayedAt.gets-o.sealedAt.gets))
	row("seconds", fmt.Sprintf("%.1f to produce, %.1f until sealed, %.1f to replay", o.produced.Seconds(), o.sealed.Seconds(), o.replayed.Seconds()))
	row("SHA-256 in", o.in.digest())
	row("SHA-256 out", o.out.digest())
	row("result", "identical: every byte, every key's order")
	return t.Flush()
}

func newReporter(stderr io.Writer) reporter {
	if f, ok := stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return terminal{f}
	}
	return plain{func(line string) { fmt.Fprintln(stderr, line) }}
}

// terminal reports by a bar that moves.
type terminal struct{ w io.Writer }

func (t terminal) say(line string) { fmt.Fprintln(t.w, line) }

func (t terminal) bar(what string, total int64) meter {
	return terminalMeter{progressbar.NewOptions64(total, progressbar.OptionSetWriter(t.w), progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("records"),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetWidth(30))}
}

type terminalMeter struct{ *progressbar.ProgressBar }

// add and end ignore that the bar cannot be drawn: it is no part of the job.
func (m terminalMeter) add(n int) { _ = m.Add(n) }

func (m terminalMeter) end() {
	_ = m.Finish()
	_ = m.Close()
}
