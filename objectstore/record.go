package objectstore

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
)

// RecorderConfig is optional in all its fields.
type RecorderConfig struct {
	// Name rewrites a key before it is recorded: golden files replace what is random in it.
	Name func(key string) string
	// Log gets one debug line for each request.
	Log *slog.Logger
}

// Recorder is a Store that writes down every request, in the order in which they began. Its lines are golden files:
//
//	put wal/aa/1 4096        get wal/aa/1 512+100        head wal/aa/1        delete 2 wal/aa/1 wal/aa/2        list wal/
//
// A request that did not end with success has " → " and its outcome behind it. It grows until Take: tests only.
type Recorder struct {
	next Store
	cfg  RecorderConfig

	mu    sync.Mutex // guards calls and what they point to
	calls []*recorded
}

type recorded struct {
	kind          Kind
	line, outcome string
}

func NewRecorder(next Store, cfg RecorderConfig) *Recorder {
	if cfg.Name == nil {
		cfg.Name = func(key string) string { return key }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Recorder{next: next, cfg: cfg}
}

// Take returns the lines since the last Take and forgets them. No request should be running.
func (r *Recorder) Take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := make([]string, len(r.calls))
	for i, c := range r.calls {
		if lines[i] = c.line; c.outcome != "ok" {
			lines[i] += " → " + c.outcome
		}
	}
	r.calls = nil
	return lines
}

// Count is the number of requests of a kind since the last Take.
func (r *Recorder) Count(kind Kind) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, c := range r.calls {
		if c.kind == kind {
			n++
		}
	}
	return n
}

func (r *Recorder) Put(ctx context.Context, key string, body Body) error {
	end := r.begin(KindPut, fmt.Sprintf("put %s %d", r.cfg.Name(key), body.Size()))
	err := r.next.Put(ctx, key, body)
	end(ctx, err)
	return err
}

func (r *Recorder) ReadAt(ctx context.Context, key string, dst []byte, off int64) error {
	end := r.begin(KindGet, fmt.Sprintf("get %s %d+%d", r.cfg.Name(key), off, len(dst)))
	err := r.next.ReadAt(ctx, key, dst, off)
	end(ctx, err)
	return err
}

func (r *Recorder) Stat(ctx context.Context, key string) (Info, error) {
	end := r.begin(KindHead, "head "+r.cfg.Name(key))
	info, err := r.next.Stat(ctx, key)
	end(ctx, err)
	return info, err
}

func (r *Recorder) Delete(ctx context.Context, keys []string) error {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = r.cfg.Name(key)
	}
	end := r.begin(KindDelete, fmt.Sprintf("delete %d %s", len(keys), strings.Join(names, " ")))
	err := r.next.Delete(ctx, keys)
	end(ctx, err)
	return err
}

func (r *Recorder) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		end := r.begin(KindList, "list "+r.cfg.Name(prefix))
		var last error
		for info, err := range r.next.List(ctx, prefix) {
			if last = err; !yield(info, err) {
				break
			}
		}
		end(ctx, last)
	}
}

func (r *Recorder) begin(kind Kind, line string) (end func(context.Context, error)) {
	call := &recorded{kind: kind, line: line, outcome: "running"}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
	return func(ctx context.Context, err error) {
		r.cfg.Log.DebugContext(ctx, "object store request", "request", line, "outcome", Outcome(err))
		r.mu.Lock()
		defer r.mu.Unlock()
		call.outcome = Outcome(err)
	}
}
