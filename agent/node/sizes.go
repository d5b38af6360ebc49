package node

import (
	"context"
	"sync"
	"syscall"
	"time"

	"varve.dev/metadata"
)

// sizes answers what partitions take in the object store. The sealed part is read from the index once for each state of a
// partition.
type sizes struct {
	n  *node
	mu sync.Mutex
	at map[metadata.PartitionID]sealedSize
}

type sealedSize struct {
	logStart, sealedEnd int64
	bytes               int64
}

func newSizes(n *node) *sizes { return &sizes{n: n, at: map[metadata.PartitionID]sealedSize{}} }

const (
	sizeTimeout = 5 * time.Second
	sizePage    = 1000
)

// Size is the bytes of a partition, sealed and not.
func (s *sizes) Size(id metadata.PartitionID) int64 {
	p, err := s.n.set.Get(id)
	if err != nil {
		return 0
	}
	at := p.Offsets()
	s.mu.Lock()
	known := s.at[id]
	s.mu.Unlock()
	if known.logStart != at.LogStart || known.sealedEnd != at.SealedEnd {
		known = sealedSize{at.LogStart, at.SealedEnd, s.read(id, at.LogStart, at.SealedEnd)}
		s.mu.Lock()
		s.at[id] = known
		s.mu.Unlock()
	}
	return known.bytes + p.Bytes()
}

func (s *sizes) read(id metadata.PartitionID, from, end int64) (bytes int64) {
	ctx, cancel := context.WithTimeout(context.Background(), sizeTimeout)
	defer cancel()
	for from < end {
		segments, err := s.n.meta.Find(ctx, id, from, sizePage)
		if err != nil || len(segments) == 0 {
			return bytes
		}
		for i := range segments {
			bytes += segments[i].Len
		}
		from = segments[len(segments)-1].End
	}
	return bytes
}

// Disk is the room where the journal lies.
func (s *sizes) Disk() (total, usable int64) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.n.cfg.String("data.dir"), &st); err != nil {
		return -1, -1
	}
	return int64(st.Blocks) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize)
}
