// Package archive reads what a log is made of without a broker: it lists a partition's history and proves that index and
// bucket agree.
package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"slices"
	"strings"
	"time"

	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/tiering/object"
)

// Store is what is read of the bucket.
type Store interface {
	ReadAt(ctx context.Context, key string, dst []byte, off int64) error
	Stat(ctx context.Context, key string) (objectstore.Info, error)
	List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error]
}

// Index is what is read of the metadata.
type Index interface {
	Referenced(ctx context.Context) (metadata.Inventory, error)
}

// Part is one stretch of a partition's history.
type Part struct {
	Kind         string `json:"kind"` // segment, pack or wal
	Base         int64  `json:"base"`
	End          int64  `json:"end"`
	Bytes        int64  `json:"bytes"`
	MaxTimestamp int64  `json:"max_timestamp"`
	Key          string `json:"key"`
	Position     int64  `json:"position"`
	Gap          bool   `json:"gap,omitempty"`
}

// History is one partition, from its log start to its committed end.
type History struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	LogStart  int64  `json:"log_start"`
	SealedEnd int64  `json:"sealed_end"`
	End       int64  `json:"end"`
	Parts     []Part `json:"parts,omitempty"`
}

// Bytes sums the parts, those of segments alone first.
func (h *History) Bytes() (segments, all int64) {
	for _, p := range h.Parts {
		all += p.Bytes
		if p.Kind == "segment" {
			segments += p.Bytes
		}
	}
	return segments, all
}

// Histories puts an inventory in order: by topic and partition, each from its log start on. Problems are rows that cannot
// be read.
func Histories(inv metadata.Inventory) (all []History, problems []error) {
	names := map[int32]string{}
	for _, t := range inv.Topics {
		if !t.Deleting {
			names[t.Num] = t.Name
		}
	}
	at := map[metadata.PartitionID]int{}
	for _, p := range inv.Partitions {
		name, ok := names[p.ID.Topic]
		if !ok {
			continue
		}
		at[p.ID] = len(all)
		all = append(all, History{Topic: name, Partition: p.ID.Partition, LogStart: p.LogStart, SealedEnd: p.SealedEnd, End: max(p.SealedEnd, p.LogStart)})
	}
	for _, s := range inv.Segments {
		if i, ok := at[s.Partition]; ok {
			all[i].Parts = append(all[i].Parts, Part{"segment", s.Base, s.End, s.Len, s.MaxTimestamp, s.Object.Key, s.Pos, false})
		}
	}
	for _, o := range inv.Objects {
		if o.Kind == metadata.Sealed {
			continue
		}
		d, err := object.Decode(o.Directory)
		if err != nil {
			problems = append(problems, fmt.Errorf("row of %s: %w", o.Key, err))
			continue
		}
		kind := map[metadata.Kind]string{metadata.WAL: "wal", metadata.Pack: "pack"}[o.Kind]
		for k := range d.Ranges {
			r := &d.Ranges[k]
			if i, ok := at[r.Partition]; ok && r.End > all[i].SealedEnd {
				all[i].Parts = append(all[i].Parts, Part{kind, r.Base, r.End, r.Len, r.MaxTimestamp, o.Key, r.Pos, r.Gap})
				all[i].End = max(all[i].End, r.End)
			}
		}
	}
	for i := range all {
		slices.SortFunc(all[i].Parts, func(a, b Part) int { return cmp.Compare(a.Base, b.Base) })
	}
	slices.SortFunc(all, func(a, b History) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return all, problems
}

// Tiles says where the parts do not cover [log start, end) exactly once.
func (h *History) Tiles() (problems []error) {
	next := h.LogStart
	for _, p := range h.Parts {
		switch {
		case p.End <= h.LogStart:
			continue // dead, not yet collected
		case p.Base > next:
			problems = append(problems, fmt.Errorf("%s/%d: no object holds [%d, %d)", h.Topic, h.Partition, next, p.Base))
		case p.Base < next && next > h.LogStart:
			problems = append(problems, fmt.Errorf("%s/%d: [%d, %d) is held twice, the second time by %s", h.Topic, h.Partition, p.Base, min(next, p.End), p.Key))
		}
		next = max(next, p.End)
	}
	if next < h.End {
		problems = append(problems, fmt.Errorf("%s/%d: no object holds [%d, %d)", h.Topic, h.Partition, next, h.End))
	}
	return problems
}

// Report is what a verification found. It is good if Problems is empty.
type Report struct {
	Partitions, Objects, Segments, Tombstones, Intents int
	Bytes                                              int64 // of all objects that rows name
	Read                                               int64 // bytes that were read and hashed
	Problems                                           []error
}

// Options of Verify.
type Options struct {
	// Whole reads every object and hashes it; otherwise its length and checksum are asked for and its directory is read.
	Whole bool
	// Doomed names what the last life of an agent may have uploaded and not committed: its next start tombstones that.
	Doomed func(metadata.Ended) []string
	// Settle is how long an object that nothing names may take to be committed: a running agent is uploading it.
	Settle time.Duration
	// Progress is called after each object.
	Progress func(done, total int)
}

// Verify proves that index and bucket agree: every row's object is there with its length and checksum and holds what the
// index says, the ranges of every partition tile from log start to end, and the bucket holds nothing that no row, intent or
// tombstone names, but for what the last life of an agent left on its way.
func Verify(ctx context.Context, s Store, i Index, o Options) (Report, error) {
	present := map[string]int64{}
	for info, err := range s.List(ctx, "") {
		if err != nil {
			return Report{}, fmt.Errorf("list the bucket: %w", err)
		}
		present[info.Key] = info.Size
	}
	inv, err := i.Referenced(ctx)
	if err != nil {
		return Report{}, err
	}
	r := Report{Partitions: len(inv.Partitions), Objects: len(inv.Objects), Segments: len(inv.Segments), Tombstones: len(inv.Tombstones), Intents: len(inv.Intents)}
	histories, problems := Histories(inv)
	r.Problems = problems
	for k := range histories {
		r.Problems = append(r.Problems, histories[k].Tiles()...)
	}
	if err := r.objects(ctx, s, inv, o); err != nil {
		return r, err
	}
	return r, r.strangers(ctx, i, present, inv, o)
}

// objects holds every row to its object.
func (r *Report) objects(ctx context.Context, s Store, inv metadata.Inventory, o Options) error {
	segments := map[string][]metadata.Segment{}
	for _, g := range inv.Segments {
		segments[g.Object.Key] = append(segments[g.Object.Key], g)
	}
	for n := range inv.Objects {
		row := &inv.Objects[n]
		r.Bytes += row.Length
		if err := r.object(ctx, s, row, segments[row.Key], o.Whole); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.Problems = append(r.Problems, fmt.Errorf("object %s: %w", row.Key, err))
		}
		if o.Progress != nil {
			o.Progress(n+1, len(inv.Objects))
		}
	}
	return nil
}

func (r *Report) object(ctx context.Context, s Store, row *metadata.InventoryObject, segments []metadata.Segment, whole bool) error {
	info, err := s.Stat(ctx, row.Key)
	switch {
	case err != nil:
		return err
	case info.Size != row.Length:
		return fmt.Errorf("has %d bytes, the index says %d", info.Size, row.Length)
	case info.HasCRC32C && info.CRC32C != row.CRC32C:
		return fmt.Errorf("has CRC32C %#x, the index says %#x", info.CRC32C, row.CRC32C)
	}
	if whole {
		sum, err := r.hash(ctx, s, row.Key, row.Length)
		if err != nil {
			return err
		}
		if sum != row.CRC32C {
			return fmt.Errorf("its bytes have CRC32C %#x, the index says %#x", sum, row.CRC32C)
		}
	}
	if row.DirectoryLength <= 0 || int64(row.DirectoryLength) > row.Length || row.DirectoryLength > object.MaxDirectory {
		return fmt.Errorf("the index says that its directory has %d of %d bytes", row.DirectoryLength, row.Length)
	}
	b := make([]byte, row.DirectoryLength)
	if err := s.ReadAt(ctx, row.Key, b, row.Length-int64(len(b))); err != nil {
		return err
	}
	r.Read += int64(len(b))
	d, err := object.Decode(b)
	if err != nil {
		return err
	}
	if row.Kind != metadata.Sealed && !slices.Equal(b, row.Directory) {
		return errors.New("its directory is not the one in the index")
	}
	if row.Kind == metadata.Sealed && row.Live != len(segments) {
		return fmt.Errorf("the index counts %d live extents, %d segments name it", row.Live, len(segments))
	}
	for _, g := range segments {
		x := d.Find(g.Partition, g.Base)
		if x == nil || x.Base != g.Base || x.End != g.End || x.Pos != g.Pos || x.Len != g.Len || x.Records != g.Records {
			return fmt.Errorf("its directory lacks [%d, %d) of partition %s at %d, which the index names", g.Base, g.End, g.Partition, g.Pos)
		}
	}
	return nil
}

// hashBytes is what one read of a whole object brings.
const hashBytes = 4 << 20

func (r *Report) hash(ctx context.Context, s Store, key string, size int64) (sum uint32, err error) {
	table := crc32.MakeTable(crc32.Castagnoli)
	buf := make([]byte, min(size, hashBytes))
	for off := int64(0); off < size; {
		n := min(size-off, hashBytes)
		if err := s.ReadAt(ctx, key, buf[:n], off); err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, table, buf[:n])
		off, r.Read = off+n, r.Read+n
	}
	return sum, nil
}

// strangers finds objects that nothing names. A running agent may be uploading one, so they get some time to be committed.
func (r *Report) strangers(ctx context.Context, i Index, present map[string]int64, inv metadata.Inventory, o Options) error {
	unknown := unnamed(present, inv, o.Doomed)
	if len(unknown) > 0 && o.Settle > 0 {
		t := time.NewTimer(o.Settle)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		later, err := i.Referenced(ctx)
		if err != nil {
			return err
		}
		unknown = slices.DeleteFunc(unnamed(present, later, o.Doomed), func(k string) bool { return !slices.Contains(unknown, k) })
	}
	for _, key := range unknown {
		r.Problems = append(r.Problems, fmt.Errorf("object %s, %d bytes: nothing in the index names it", key, present[key]))
	}
	return nil
}

// ofTheCluster: the bucket's own name, and what a start that was killed has left of its probe of the store: five bytes.
func ofTheCluster(key string) bool {
	return strings.HasPrefix(key, "incarnation/") || strings.HasPrefix(key, "probe/")
}

func unnamed(present map[string]int64, inv metadata.Inventory, doomed func(metadata.Ended) []string) (keys []string) {
	named := map[string]bool{}
	for _, o := range inv.Objects {
		named[o.Key] = true
	}
	for _, k := range inv.Intents {
		named[k] = true
	}
	for _, t := range inv.Tombstones {
		named[t.Key] = true
	}
	for _, life := range inv.Lives {
		if doomed != nil {
			for _, k := range doomed(life) {
				named[k] = true
			}
		}
	}
	for k := range present {
		if !named[k] && !ofTheCluster(k) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}
