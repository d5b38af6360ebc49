package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"varve.dev/agent/cli"
	"varve.dev/agent/config"
	"varve.dev/metadata"
	"varve.dev/metadata/sqlite"
	"varve.dev/objectstore"
	"varve.dev/tiering/archive"
)

// settle is how long a verification waits for uploads that a running agent has not committed yet.
const settle = 3 * time.Second

// problemsFound ends a verification that found something.
type problemsFound int

func (p problemsFound) Error() string {
	return fmt.Sprintf("%d problems: index and bucket do not agree", int(p))
}

// Storage shows what the index and the bucket hold, and proves that they agree. It needs no running agent, and disturbs
// none.
func Storage(ctx context.Context, cfg *config.Agent, what string, args cli.StorageArgs, stdout io.Writer) error {
	meta, err := readMetadata(ctx, cfg.String("metadata.url"))
	if err != nil {
		return err
	}
	defer meta.Close()
	if what == "verify" {
		return verify(ctx, cfg, meta, args, stdout)
	}
	inv, err := meta.Referenced(ctx)
	if err != nil {
		return err
	}
	histories, problems := archive.Histories(inv)
	if len(problems) > 0 {
		return problems[0]
	}
	histories = slices.DeleteFunc(histories, func(h archive.History) bool {
		return args.Topic != "" && h.Topic != args.Topic || args.Partition >= 0 && h.Partition != args.Partition
	})
	if len(histories) == 0 && args.Topic != "" {
		return fmt.Errorf("topic %s has no such partition in the index; varve storage ls lists what there is", args.Topic)
	}
	if what == "describe" {
		return describe(histories, args, stdout)
	}
	return list(histories, args, stdout)
}

// reader is what storage reads of the metadata.
type reader interface {
	archive.Index
	Close() error
}

// readMetadata opens the metadata beside a running agent, which holds an SQLite file for itself.
func readMetadata(ctx context.Context, url string) (reader, error) {
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		return sqlite.OpenReader(ctx, path)
	}
	return OpenMetadata(ctx, url)
}

// row is one line of storage ls.
type row struct {
	archive.History
	Segments     int   `json:"segments"`
	SegmentBytes int64 `json:"segment_bytes"`
	Bytes        int64 `json:"bytes"`
}

func list(histories []archive.History, args cli.StorageArgs, stdout io.Writer) error {
	rows := make([]row, len(histories))
	for i, h := range histories {
		rows[i].SegmentBytes, rows[i].Bytes = h.Bytes()
		for _, p := range h.Parts {
			if p.Kind == "segment" {
				rows[i].Segments++
			}
		}
		h.Parts = nil
		rows[i].History = h
	}
	if args.JSON {
		return writeJSON(stdout, rows)
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOPIC\tPARTITION\tLOG START\tSEALED END\tEND\tSEGMENTS\tSEGMENT BYTES\tBYTES")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", r.Topic, r.Partition, r.LogStart, r.SealedEnd, r.End, r.Segments, r.SegmentBytes, r.Bytes)
	}
	return w.Flush()
}

func describe(histories []archive.History, args cli.StorageArgs, stdout io.Writer) error {
	if args.JSON {
		return writeJSON(stdout, histories)
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOPIC\tPARTITION\tKIND\tBASE\tEND\tBYTES\tNEWEST\tPOSITION\tOBJECT")
	for _, h := range histories {
		for _, p := range h.Parts {
			kind := p.Kind
			if p.Gap {
				kind = "gap"
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%d\t%s\t%d\t%s\n", h.Topic, h.Partition, kind, p.Base, p.End, p.Bytes,
				time.UnixMilli(p.MaxTimestamp).UTC().Format(time.RFC3339), p.Position, p.Key)
		}
	}
	return w.Flush()
}

// verified is the outcome of storage verify as JSON.
type verified struct {
	archive.Report
	Problems []string
}

func verify(ctx context.Context, cfg *config.Agent, meta archive.Index, args cli.StorageArgs, stdout io.Writer) error {
	store, _, err := OpenStore(ctx, cfg.String("store.url"), false)
	if err != nil {
		return err
	}
	metrics, err := objectstore.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		return err
	}
	r, err := archive.Verify(ctx, objectstore.NewRetry(metrics.Wrap(store, "verify"), objectstore.RetryConfig{}), meta,
		archive.Options{Whole: args.Bytes, Doomed: doomed, Settle: settle})
	if err != nil {
		return err
	}
	out := verified{Report: r, Problems: []string{}}
	for _, p := range r.Problems {
		out.Problems = append(out.Problems, p.Error())
	}
	if args.JSON {
		err = writeJSON(stdout, out)
	} else {
		for _, p := range out.Problems {
			fmt.Fprintln(stdout, "PROBLEM", p)
		}
		fmt.Fprintf(stdout, "%d partitions, %d objects of %d bytes, %d segments, %d tombstones, %d intents; %d bytes read: %d problems\n",
			r.Partitions, r.Objects, r.Bytes, r.Segments, r.Tombstones, r.Intents, r.Read, len(r.Problems))
	}
	if err == nil && len(out.Problems) > 0 {
		err = problemsFound(len(out.Problems))
	}
	return err
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

var _ archive.Index = metadata.Store(nil)
