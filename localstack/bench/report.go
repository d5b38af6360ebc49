package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

type figure struct {
	name  string
	value float64
}

// figures of one run, in the order in which they are printed.
type figures []figure

func (f figures) get(name string) float64 {
	for _, x := range f {
		if x.name == name {
			return x.value
		}
	}
	return 0
}

// row is all runs of one scenario with one kind of broker.
type row struct {
	scenario
	kind   kind
	runs   []figures
	failed error
}

// report collects rows in the order of their scenarios.
type report struct {
	rows   []*row
	before machine
	after  machine
}

func (r *report) row(s scenario, k kind) *row {
	for _, x := range r.rows {
		if x.table == s.table && x.name == s.name && x.kind == k {
			return x
		}
	}
	x := &row{scenario: s, kind: k}
	r.rows = append(r.rows, x)
	return x
}

// spread is the median of the runs, and what lies around it.
type spread struct{ median, least, most float64 }

func (r *row) spread(name string) (s spread, ok bool) {
	var values []float64
	for _, f := range r.runs {
		for _, x := range f {
			if x.name == name {
				values = append(values, x.value)
			}
		}
	}
	if len(values) == 0 {
		return s, false
	}
	slices.Sort(values)
	middle := (values[(len(values)-1)/2] + values[len(values)/2]) / 2
	return spread{middle, values[0], values[len(values)-1]}, true
}

func number(v float64) string {
	switch {
	case v == float64(int64(v)) && v < 1e6, v >= 100, v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10, v <= -10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1, v <= -0.1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func (s spread) String() string {
	if s.least == s.most {
		return number(s.median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.least), number(s.most))
}

// markdown prints one table for each kind of scenario: medians, and the least and the most of all runs.
func (r *report) markdown() string {
	var out strings.Builder
	var tables []string
	for _, x := range r.rows {
		if !slices.Contains(tables, x.table) {
			tables = append(tables, x.table)
		}
	}
	for _, table := range tables {
		var rows []*row
		var columns []string
		for _, x := range r.rows {
			if x.table == table {
				rows = append(rows, x)
				columns = merge(columns, x.runs)
			}
		}
		fmt.Fprintf(&out, "\n### %s\n\n| case | broker | %s |\n|---|---|%s\n", table, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
		for _, x := range rows {
			fmt.Fprintf(&out, "| %s | %s |", x.name, x.kind)
			for _, c := range columns {
				text := "–"
				if s, ok := x.spread(c); ok {
					text = s.String()
				}
				fmt.Fprintf(&out, " %s |", text)
			}
			fmt.Fprintln(&out)
			if x.failed != nil {
				fmt.Fprintf(&out, "| failed: %v |\n", strings.ReplaceAll(x.failed.Error(), "\n", " "))
			}
		}
		r.ratios(&out, rows)
	}
	return out.String()
}

// merge adds the names of figures that are new, each behind the one that it follows.
func merge(columns []string, runs []figures) []string {
	for _, f := range runs {
		at := 0
		for _, x := range f {
			if i := slices.Index(columns, x.name); i >= 0 {
				at = i + 1
				continue
			}
			columns = slices.Insert(columns, at, x.name)
			at++
		}
	}
	return columns
}

// ratios sets the agent against the others of the same case.
func (r *report) ratios(out *strings.Builder, rows []*row) {
	compared := []string{"CPU-s/GiB to ack", "CPU-s/GiB to rest", "CPU-s/GiB", "CPU-s/GiB of reading", "MiB/s", "p99 ms", "seconds", "s to first ack", "RSS MiB"}
	first := true
	for _, x := range rows {
		for _, y := range rows {
			if x.kind != varve || y.kind == varve || x.name != y.name {
				continue
			}
			var parts []string
			for _, c := range compared {
				a, ok1 := x.spread(c)
				b, ok2 := y.spread(c)
				if ok1 && ok2 && b.median > 0 {
					parts = append(parts, fmt.Sprintf("%s %.2f ×", c, a.median/b.median))
				}
			}
			if len(parts) == 0 {
				continue
			}
			if first {
				fmt.Fprintln(out)
			}
			first = false
			fmt.Fprintf(out, "- varve against %s, %s: %s\n", y.kind, x.name, strings.Join(parts, ", "))
		}
	}
}

// machine is what else the machine does, at one moment.
type machine struct {
	load  string
	steal float64 // seconds since boot
	fsync time.Duration
	cpu   string
	kern  string
}

// fsyncs is how many of 4 KiB are timed.
const fsyncs = 32

func lookAround(dir string) (m machine, err error) {
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.load = strings.Join(strings.Fields(string(b))[:3], " ")
	}
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 8 {
			fmt.Sscan(f[8], &m.steal)
			m.steal /= float64(time.Second / tick)
		}
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.cpu = strings.TrimSpace(value)
			}
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.kern = strings.TrimSpace(string(b))
	}
	f, err := os.CreateTemp(dir, "fsync-")
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, 4<<10)
	took := make([]time.Duration, fsyncs)
	for i := range took {
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return m, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return m, err
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	m.fsync = took[fsyncs/2]
	return m, nil
}

// The generated part of RESULTS.md lies between these lines; what people write around it stays.
const (
	generatedFrom = "<!-- generated: from here -->"
	generatedTo   = "<!-- generated: to here -->"
)

// splice puts text into the generated part of a document, or behind it where there is none.
func splice(document, text string) string {
	from, to := strings.Index(document, generatedFrom), strings.Index(document, generatedTo)
	if from < 0 || to < from {
		return strings.TrimRight(document, "\n") + "\n\n" + generatedFrom + "\n" + text + "\n" + generatedTo + "\n"
	}
	return document[:from] + generatedFrom + "\n" + text + "\n" + document[to:]
}
