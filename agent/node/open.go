package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"varve.dev/agent/config"
	"varve.dev/metadata"
	"varve.dev/metadata/postgres"
	"varve.dev/metadata/sqlite"
	"varve.dev/objectstore"
	"varve.dev/objectstore/file"
	"varve.dev/objectstore/memory"
	"varve.dev/objectstore/minio"
	"varve.dev/objectstore/s3"
	"varve.dev/objectstore/s3api"
	"varve.dev/tiering/flush"
)

// OpenMetadata opens the store that metadata.url names.
func OpenMetadata(ctx context.Context, url string) (metadata.Store, error) {
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("metadata.url: %w", err)
		}
		return sqlite.Open(ctx, path, sqlite.Config{})
	}
	return postgres.Open(ctx, url, postgres.Config{AllowFsyncOff: os.Getenv("VARVE_TEST_FSYNC_OFF") == "1"})
}

// OpenStore opens the driver that store.url names, without decorators. verify: it hashes what it sends.
func OpenStore(ctx context.Context, raw string, verify bool) (objectstore.Store, objectstore.URL, error) {
	u, err := objectstore.ParseURL(raw)
	if err != nil {
		return nil, u, err
	}
	cfg := s3api.Config{URL: u, VerifyLocally: verify}
	var s objectstore.Store
	switch u.Scheme {
	case objectstore.Memory:
		s, err = memory.Open(ctx, memory.Config{})
	case objectstore.File:
		s, err = file.Open(ctx, file.Config{Dir: u.Dir})
	case objectstore.S3:
		s, err = s3.Open(ctx, cfg)
	case objectstore.MinIO:
		s, err = minio.Open(ctx, cfg)
	}
	return s, u, err
}

// stores is the object store twice over: history has its own connections, so that a backfill cannot slow the tail.
type stores struct {
	hot, cold objectstore.Store
}

// openStores decorates what store.url names, or given in its place.
func openStores(ctx context.Context, given objectstore.Store, cfg *config.Agent, reg prometheus.Registerer, log *slog.Logger) (stores, error) {
	hot, cold := given, given
	if given == nil {
		var err error
		if hot, cold, err = openDrivers(ctx, cfg.String("store.url"), fmt.Sprintf("probe/%d-", cfg.Int("agent.id")), log); err != nil {
			return stores{}, err
		}
	}
	metrics, err := objectstore.NewMetrics(reg)
	if err != nil {
		return stores{}, err
	}
	return stores{
		hot:  objectstore.NewRetry(metrics.Wrap(hot, "hot"), objectstore.RetryConfig{}),
		cold: objectstore.NewRetry(metrics.Wrap(cold, "cold"), objectstore.RetryConfig{}),
	}, nil
}

// openDrivers opens the driver that raw names, twice where it has connections, and finds out what the store does not do. It
// tries that under a prefix of this agent's own, where its next start finds what it may leave.
func openDrivers(ctx context.Context, raw, prefix string, log *slog.Logger) (hot, cold objectstore.Store, err error) {
	hot, u, err := OpenStore(ctx, raw, false)
	if err != nil || u.Scheme != objectstore.S3 && u.Scheme != objectstore.MinIO {
		return hot, hot, err
	}
	found, err := probe(ctx, hot, prefix)
	if err != nil {
		return nil, nil, fmt.Errorf("probe the object store: %w", err)
	}
	if !found.ConditionalPut {
		log.Warn("the object store ignores conditional puts; keys are unique without them, but a second guard is missing")
	}
	if !found.ChecksumOnPut {
		log.Warn("the object store ignores checksums; uploads are hashed here instead")
	}
	if hot, _, err = OpenStore(ctx, raw, !found.ChecksumOnPut); err != nil {
		return nil, nil, err
	}
	cold, _, err = OpenStore(ctx, raw, false)
	return hot, cold, err
}

const (
	// probes bounds how often a store is probed that is away or throttles for a moment; with firstProbePause, doubled each
	// time, some three seconds.
	probes          = 5
	firstProbePause = 200 * time.Millisecond
)

// probe finds out what a store does not do. Retries are for what is known to work, so it has its own: all of it again.
func probe(ctx context.Context, s objectstore.Store, prefix string) (found objectstore.Findings, err error) {
	pause := firstProbePause
	for n := 1; ; n++ {
		found, err = objectstore.Probe(ctx, s, prefix)
		if !errors.Is(err, objectstore.ErrUnavailable) && !errors.Is(err, objectstore.ErrThrottled) || n == probes {
			return found, err
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return found, err
		}
		pause *= 2
	}
}

// markerKey holds who owns a bucket: one small object for each incarnation of a cluster.
func markerKey(incarnation int32) string { return fmt.Sprintf("incarnation/%d", incarnation) }

func marker(c metadata.Cluster) objectstore.Bytes {
	return objectstore.NewBytes(fmt.Appendf(nil, "varve cluster %s incarnation %d\n", c.ID, c.Incarnation))
}

// maxMarker bounds what is read of a foreign bucket.
const maxMarker = 256

// claim makes sure that bucket and metadata belong together: the bucket names the cluster from its first start on. empty
// says that the metadata know of no records yet, so that any bucket will do.
func claim(ctx context.Context, s objectstore.Store, c metadata.Cluster, empty func() (bool, error), where string) error {
	key, want := markerKey(c.Incarnation), marker(c)
	info, err := s.Stat(ctx, key)
	if errors.Is(err, objectstore.ErrNotFound) {
		if free, err := empty(); err != nil {
			return err
		} else if !free {
			return &objectstore.SetupError{Problem: fmt.Sprintf("%s does not hold the objects of cluster %s", where, c.ID),
				Hint: "store.url points to another place than when the cluster was made; set it back"}
		}
		if err = s.Put(ctx, key, want); !errors.Is(err, objectstore.ErrExists) {
			if err != nil {
				err = fmt.Errorf("name the cluster in the object store: %w", err)
			}
			return err
		}
		info, err = s.Stat(ctx, key) // another agent was first
	}
	if err != nil {
		return fmt.Errorf("read the cluster's name in the object store: %w", err)
	}
	if info.HasCRC32C && info.CRC32C == want.CRC32C() && info.Size == want.Size() {
		return nil
	}
	got := make([]byte, min(info.Size, maxMarker))
	for range 2 { // nothing else checks these bytes: they may have been damaged on the way
		if err := s.ReadAt(ctx, key, got, 0); err != nil {
			return fmt.Errorf("read the cluster's name in the object store: %w", err)
		}
		if objectstore.NewBytes(got).CRC32C() == want.CRC32C() && info.Size == want.Size() {
			return nil
		}
	}
	return &objectstore.SetupError{Problem: fmt.Sprintf("%s belongs to another cluster: it says %q, the metadata say cluster %s", where, strings.TrimSpace(string(got)), c.ID),
		Hint: "use the metadata store that belongs to it, or another bucket or prefix"}
}

// bindFolder makes sure that data.dir belongs to the cluster: its journal's positions mean nothing to another.
func bindFolder(dir string, c metadata.Cluster) error {
	path := filepath.Join(dir, "cluster")
	want := c.ID.String() + "\n"
	got, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return os.WriteFile(path, []byte(want), 0o600)
	case err != nil:
		return fmt.Errorf("data.dir: %w", err)
	case string(got) != want:
		return fmt.Errorf("data.dir %s belongs to cluster %s, the metadata say cluster %s: use the data.dir, or the metadata.url, that belongs to the other",
			dir, strings.TrimSpace(string(got)), c.ID)
	}
	return nil
}

// key spreads objects over prefixes by two hexadecimal digits: stores scale by prefix.
func key(kind string, c metadata.Session, name string) string {
	return fmt.Sprintf("%s/%s/%d-%016x/%s", kind, spread(c, name), c.Incarnation, c.Nonce, name)
}

func spread(c metadata.Session, name string) string {
	h := uint32(2166136261)
	for _, b := range fmt.Appendf(nil, "%x/%s", c.Nonce, name) {
		h = (h ^ uint32(b)) * 16777619
	}
	return hex.EncodeToString([]byte{byte(h >> 24)})
}

// walKey names the object of a session's window.
func walKey(s metadata.Session, number int64, try int32) string {
	return key("wal", s, fmt.Sprintf("%d.%d", number, try))
}

// doomed names what a life that is over may have uploaded without a commit.
func doomed(e metadata.Ended) []string {
	return flush.Doomed(e.Seq, func(seq int64, try int32) string { return walKey(e.Session, seq, try) })
}

// sealKey names what a merge makes.
func sealKey(s metadata.Session, kind metadata.Kind, n int64) string {
	if kind == metadata.Pack {
		return key("pack", s, fmt.Sprint(n))
	}
	return key("seg", s, fmt.Sprint(n))
}
