package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints aligned columns below a heading.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, heading ...string) *table {
	t := &table{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	t.row(anys(heading)...)
	return t
}

func anys(words []string) []any {
	out := make([]any, len(words))
	for i, w := range words {
		out[i] = w
	}
	return out
}

func (t *table) row(cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = fmt.Sprint(c)
	}
	fmt.Fprintln(t.w, strings.TrimRight(strings.Join(text, "\t"), "\t"))
}

func (t *table) flush() error { return t.w.Flush() }

// progress keeps one line up to date on a terminal; on anything else it says nothing until the end.
type progress struct {
	w     io.Writer // nil: no terminal
	verb  string
	start time.Time
	now   func() time.Time

	mu             sync.Mutex // guards what follows: answers come from a client's goroutines
	shown          time.Time
	records, bytes int64
}

func newProgress(in *invocation, verb string, visible bool) *progress {
	p := &progress{verb: verb, start: in.now(), now: in.now}
	if visible {
		p.w = in.stderr
	}
	return p
}

// isTerminal says whether somebody is looking at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (p *progress) add(records, bytes int64) {
	const often = 200 * time.Millisecond
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records += records
	p.bytes += bytes
	if p.w == nil || p.now().Sub(p.shown) < often {
		return
	}
	p.shown = p.now()
	fmt.Fprintf(p.w, "\r\x1b[K%s", p.text())
}

// total is what was added up so far, and in how many seconds.
func (p *progress) total() (records, bytes int64, seconds float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.records, p.bytes, p.now().Sub(p.start).Seconds()
}

func (p *progress) line() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text()
}

// text is called under mu.
func (p *progress) text() string {
	seconds := p.now().Sub(p.start).Seconds()
	rate := ""
	if seconds > 0.1 {
		rate = fmt.Sprintf(", %s/s", size(int64(float64(p.bytes)/seconds)))
	}
	return fmt.Sprintf("%s %s, %s in %.1f s%s", p.verb, count(p.records, "record"), size(p.bytes), seconds, rate)
}

// end wipes the line that was kept up to date.
func (p *progress) end() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// size is a number of bytes for people.
func size(bytes int64) string {
	value, units := float64(bytes), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for value >= 1024 && i < len(units)-1 {
		value /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}
