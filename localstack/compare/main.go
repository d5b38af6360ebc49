// Command compare asks Varve and Apache Kafka the same raw questions and holds each field of Varve's answers to Kafka's.
//
// A case is a conversation, named by the item of the protocol checklist that it holds us to. Both brokers start empty and
// with the same settings, each case has topics and groups of its own. What differs by nature is replaced before it is
// compared: see normal.go. What differs for a reason is written down in reasons.go; anything else is a defect, and so is
// a reason that explains nothing any more.
//
// It writes DIFFERENCES.md, and Kafka's answers to testdata, to which the package's test holds Varve without Java.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	only := flag.String("run", "", "run only the cases whose name contains this, and write nothing")
	dir := flag.String("dir", "localstack/compare", "folder that DIFFERENCES.md and testdata are written to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *dir, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, only string) error {
	began := time.Now()
	work, err := os.MkdirTemp("", "varve-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	both, err := askBoth(ctx, work, only)
	if err != nil {
		return err
	}
	found := compare(both.kafka, both.varve, reasons())
	if only == "" {
		if err := writeAnswers(filepath.Join(dir, goldenFile), both.kafka); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, tableFile), found.table(both.kafka), 0o644); err != nil {
			return err
		}
	}
	if only != "" {
		for _, d := range found.differences {
			fmt.Println(d)
		}
	}
	fmt.Printf("%d cases, %d requests, %d differences in %s\n", len(both.kafka), both.kafka.requests(), len(found.differences),
		time.Since(began).Round(time.Second))
	if only != "" {
		found.unused = nil
	}
	return found.err()
}

// pair is the answers of both brokers.
type pair struct{ kafka, varve answers }

// askBoth starts both brokers at once, lets them answer, and stops them.
func askBoth(ctx context.Context, dir, only string) (both pair, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	varve, err := startVarve(ctx, filepath.Join(dir, "varve"))
	if err != nil {
		return both, err
	}
	defer func() { err = errors.Join(err, varve.stop()) }()
	kafka, err := startKafka(ctx, filepath.Join(dir, "kafka"))
	if err != nil {
		return both, err
	}
	defer func() { err = errors.Join(err, kafka.stop()) }()
	versions, err := advertised(ctx, varve.addr)
	if err != nil {
		return both, err
	}
	done := make(chan error, 1)
	go func() { // waited for below
		var err error
		both.varve, err = askAll(ctx, varve.addr, versions, only)
		done <- err
	}()
	both.kafka, err = askAll(ctx, kafka.addr, versions, only)
	return both, errors.Join(named("Kafka", err), named("Varve", <-done))
}

func named(who string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", who, err)
	}
	return nil
}
