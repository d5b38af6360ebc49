// Package node is the composition root: it constructs one agent from its configuration, runs it, and drains it. It never
// decides. Tests run several in one process.
package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"varve.dev/agent/catalog"
	"varve.dev/agent/config"
	"varve.dev/agent/console"
	"varve.dev/agent/group"
	"varve.dev/agent/session"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/objectstore"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/gc"
	"varve.dev/tiering/journal"
	"varve.dev/tiering/object"
	"varve.dev/tiering/partition"
	"varve.dev/tiering/seal"
)

// Version is what this program calls itself; the build may set it.
var Version = "0.1.0"

// Outside is what an agent reaches beyond its own folder. What is nil is opened as the configuration says; tests, and a
// simulator of several agents in one process, put their own in its place, and close it themselves.
type Outside struct {
	Metadata metadata.Store
	// Objects stands below retries and metrics; history and tail share it.
	Objects objectstore.Store
	// Listen opens the sockets of listeners and http.listen.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// Disk holds the journal; the cache's files stay where data.dir is.
	Disk journal.Disk
	// Life ends the agent as the end of its process would: nothing is flushed, nothing is released.
	Life context.Context
}

// Run runs one agent until ctx ends, then drains it within shutdown.timeout.ms. When it serves it prints one line on
// stdout: ready kafka=HOST:PORT http=HOST:PORT. Its log goes to stderr.
func Run(ctx context.Context, cfg *config.Agent, stdout, stderr io.Writer) error {
	return RunIn(ctx, Outside{}, cfg, stdout, stderr)
}

// RunIn is Run with another outside.
func RunIn(ctx context.Context, out Outside, cfg *config.Agent, stdout, stderr io.Writer) error {
	log := newLogger(cfg, stderr)
	n, err := open(ctx, out, cfg, log)
	if err != nil {
		return err
	}
	defer n.close()
	return n.run(ctx, stdout)
}

func newLogger(cfg *config.Agent, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.String("log.level"))); err != nil {
		level = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.String("log.format") == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// node is one agent, put together. Its fields are in the order in which they are made; close goes the other way.
type node struct {
	out     Outside
	cfg     *config.Agent
	log     *slog.Logger
	metrics *prometheus.Registry

	journal   *journal.Journal
	meta      metadata.Store
	stores    stores
	cluster   metadata.Cluster
	listeners []*wire.Bound
	http      net.Listener
	me        metadata.Session
	ended     metadata.Ended

	cache   *cache.Cache
	reader  *fetch.Reader
	catalog *catalog.Catalog
	unseal  *seal.Log
	buffer  *flush.Buffer
	set     *session.Set
	keeper  *session.Keeper
	sealer  *seal.Sealer
	gc      *gc.Collector
	groups  *group.Coordinator
	server  *wire.Server

	closers []func() error

	holes      sync.Mutex
	holeLooked time.Time // when it was last asked whether an offset is missing; guarded by holes
}

// open makes everything up to the session's start; nothing runs yet.
func open(ctx context.Context, out Outside, cfg *config.Agent, log *slog.Logger) (*node, error) {
	n := &node{out: out, cfg: cfg, log: log, metrics: prometheus.NewRegistry()}
	openFiles(cfg.Int("max.connections"), log)
	n.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, step := range []func(context.Context) error{n.openJournal, n.openStores, n.listen, n.begin, n.build} {
		if err := step(ctx); err != nil {
			n.close()
			return nil, err
		}
	}
	return n, nil
}

func (n *node) close() {
	for i := len(n.closers) - 1; i >= 0; i-- {
		if err := n.closers[i](); err != nil && !errors.Is(err, net.ErrClosed) {
			n.log.Warn("close failed", "err", err)
		}
	}
	n.closers = nil
}

func (n *node) dir(name string) string { return filepath.Join(n.cfg.String("data.dir"), name) }

func (n *node) openJournal(context.Context) error {
	if err := os.MkdirAll(n.cfg.String("data.dir"), 0o700); err != nil {
		return fmt.Errorf("data.dir: %w", err)
	}
	j, err := journal.Open(n.dir("journal"), journal.Config{MaxBytes: n.cfg.Int("journal.bytes"), FileBytes: n.cfg.Int("journal.file.bytes"),
		Disk: n.out.Disk, Logger: n.log})
	if err != nil {
		return err
	}
	n.journal = j
	n.closers = append(n.closers, j.Close)
	return nil
}

// openStores opens both stores and holds them, and the folder, to one cluster.
func (n *node) openStores(ctx context.Context) error {
	meta, err := n.openMetadata(ctx)
	if err != nil {
		return err
	}
	n.meta = meta
	if n.stores, err = openStores(ctx, n.out.Objects, n.cfg, n.metrics, n.log); err != nil {
		return err
	}
	fresh := metadata.Cluster{ID: newUUID(), Incarnation: 1, Shards: int32(n.cfg.Int("cluster.shards")), Format: object.Version}
	if n.cluster, err = meta.Join(ctx, fresh); err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	if n.cluster.Format > object.Version {
		return &metadata.SetupError{Problem: fmt.Sprintf("the cluster writes objects of format %d, this program knows up to %d", n.cluster.Format, object.Version),
			Hint: "start a newer version of varve"}
	}
	empty := func() (bool, error) {
		known, err := meta.Catalog(ctx, unknownVersion)
		return len(known.Topics) == 0, err
	}
	if err := claim(ctx, n.stores.hot, n.cluster, empty, n.cfg.String("store.url")); err != nil {
		return err
	}
	return bindFolder(n.cfg.String("data.dir"), n.cluster)
}

// unknownVersion of the catalog is none that it has had.
const unknownVersion = -1

func (n *node) openMetadata(ctx context.Context) (metadata.Store, error) {
	if n.out.Metadata != nil {
		return n.out.Metadata, nil
	}
	meta, err := OpenMetadata(ctx, n.cfg.String("metadata.url"))
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, meta.Close)
	return meta, nil
}

func newUUID() (id metadata.UUID) {
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// listen binds every address, so that the session can say where it is; nothing is accepted yet.
func (n *node) listen(ctx context.Context) error {
	socket := n.out.Listen
	if socket == nil {
		socket = new(net.ListenConfig).Listen
	}
	for _, l := range n.cfg.Listeners() {
		s, err := socket(ctx, "tcp", net.JoinHostPort(l.Host, strconv.Itoa(l.Port)))
		if err != nil {
			return fmt.Errorf("listener %s: %w", l.Name, err)
		}
		n.closers = append(n.closers, s.Close)
		b, err := wire.Listener{Name: l.Name, Host: l.Host, Port: l.Port, AdvertisedHost: l.AdvertisedHost, AdvertisedPort: l.AdvertisedPort}.On(s)
		if err != nil {
			return err
		}
		n.listeners = append(n.listeners, b)
	}
	h, err := socket(ctx, "tcp", n.cfg.String("http.listen"))
	if err != nil {
		return fmt.Errorf("http.listen: %w", err)
	}
	n.http = h
	n.closers = append(n.closers, h.Close)
	return nil
}

// begin starts the session: from here on, an earlier life of this agent commits nothing more.
func (n *node) begin(ctx context.Context) (err error) {
	var nonce [8]byte
	rand.Read(nonce[:])
	agent := metadata.Agent{ID: int32(n.cfg.Int("agent.id")), Journal: n.journal.ID(), Address: wire.Advertise(n.listeners...),
		Rack: n.cfg.String("broker.rack"), Version: Version}
	n.me, n.ended, err = n.meta.Start(ctx, agent, binary.BigEndian.Uint64(nonce[:]), doomed, grace(n.cfg))
	if err != nil {
		return fmt.Errorf("start a session: %w", err)
	}
	return nil
}

// run starts the loops, takes the tail back, serves, and drains.
func (n *node) run(ctx context.Context, stdout io.Writer) error {
	// The loops outlive ctx: draining needs them.
	life := n.out.Life
	if life == nil {
		life = context.WithoutCancel(ctx)
	}
	g, work := errgroup.WithContext(life)
	ground, beats, upkeep, front := newStage(work), newStage(work), newStage(work), newStage(work)
	ground.run(g, n.buffer.Run, n.runJournal, n.cache.Run)
	beats.run(g, n.keeper.Run)
	err := n.start(ctx)
	if err == nil {
		ground.run(g, n.serveHTTP)
		upkeep.run(g, n.catalog.Run, n.reconcile, n.sealer.Run, n.gc.Run)
		front.run(g, n.groups.Run)
		for _, l := range n.listeners {
			front.run(g, func(ctx context.Context) error { return n.server.Serve(ctx, l) })
		}
		fmt.Fprintf(stdout, "ready kafka=%s http=%s\n", n.listeners[0].Addr(), n.http.Addr())
		select {
		case <-ctx.Done():
			n.log.Info("stopping: draining, flushing, releasing")
		case <-work.Done():
		}
	}
	front.end()
	if work.Err() == nil && err == nil {
		err = n.drain(work, front, upkeep, beats)
	}
	n.set.Close(fmt.Errorf("%w: the agent stops", partition.ErrNotLeader))
	for _, s := range []*stage{upkeep, beats, ground} {
		s.end()
	}
	return n.ending(errors.Join(err, g.Wait()))
}

// ending is err in one sentence, whoever noticed first that another process has taken over.
func (n *node) ending(err error) error {
	if errors.Is(err, metadata.ErrFenced) {
		return fmt.Errorf("another process has started as agent %d and taken over; this one acknowledges nothing more: %w", n.me.Agent, metadata.ErrFenced)
	}
	return err
}

// start takes the tail back and leads; when it returns every partition is open.
func (n *node) start(ctx context.Context) error {
	if err := n.catalog.Refresh(ctx); err != nil {
		return err
	}
	synced := int64(0)
	if n.ended.Journal == n.journal.ID() {
		synced = n.ended.JournalSynced
	}
	report, err := n.set.Start(ctx, n.journal, synced)
	if err != nil {
		return errors.Join(err, n.buffer.Err())
	}
	if err := n.journal.Release(report.LastWindow); err != nil {
		return err
	}
	n.log.Info("serving", "agent", n.me.Agent, "epoch", n.me.Epoch, "partitions", len(n.set.All()), "journal_frames", report.Frames,
		"torn_bytes", report.Torn, "cluster", n.cluster.ID.String())
	for _, q := range report.Quarantined {
		n.log.Error("a damaged journal stands quarantined; look at it and remove it", "folder", q)
	}
	return nil
}

// runJournal ends the agent when the journal breaks, but not before what memory holds is in the object store.
func (n *node) runJournal(ctx context.Context) error {
	err := n.journal.Run(ctx)
	if err != nil && ctx.Err() == nil {
		n.log.Error("the journal is broken: flushing what memory holds, then stopping", "err", err)
		err = errors.Join(err, n.buffer.Drain(ctx))
	}
	return err
}

// reconcile follows changes of the catalog that came from elsewhere.
func (n *node) reconcile(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	n.catalog.Subscribe(func(*catalog.Image) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	retry := time.NewTicker(n.cfg.Duration("catalog.poll.ms"))
	defer retry.Stop()
	failed := true // the catalog may have changed since the start
	for {
		select {
		case <-changed:
		case <-retry.C:
			if !failed && !n.set.Unsettled() {
				continue
			}
		case <-ctx.Done():
			return nil
		}
		err := n.set.Reconcile(ctx)
		if failed = err != nil; failed && ctx.Err() == nil {
			n.log.Warn("not yet leading all that this agent should", "err", err)
		}
	}
}

// drain flushes everything and gives the partitions up, for whoever comes next. Whatever writes under the session ends
// before the session does: it would take its own end for another process.
func (n *node) drain(ctx context.Context, front, upkeep, beats *stage) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Duration("shutdown.timeout.ms"))
	defer cancel()
	upkeep.stop()
	if err := n.buffer.Drain(ctx); err != nil {
		return fmt.Errorf("flush before stopping: %w; what was not flushed stays in the journal", err)
	}
	if err := n.set.Release(ctx); err != nil {
		return fmt.Errorf("release partitions: %w", err)
	}
	front.stop() // the release has woken the fetches that wait
	beats.stop()
	return n.meta.Stop(ctx, n.me)
}

// stage is loops that end together.
type stage struct {
	ctx  context.Context
	end  context.CancelFunc
	busy sync.WaitGroup
}

func newStage(ctx context.Context) *stage {
	s := new(stage)
	s.ctx, s.end = context.WithCancel(ctx)
	return s
}

// run starts loops in g.
func (s *stage) run(g *errgroup.Group, loops ...func(context.Context) error) {
	for _, loop := range loops {
		s.busy.Add(1)
		g.Go(func() error {
			defer s.busy.Done()
			return loop(s.ctx)
		})
	}
}

// stop ends the loops and waits for them.
func (s *stage) stop() {
	s.end()
	s.busy.Wait()
}

func (n *node) serveHTTP(ctx context.Context) error {
	srv := &http.Server{Handler: console.New(n.metrics, console.Checks{Healthy: n.buffer.Err, Ready: n.ready, Evict: n.evict}),
		ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(n.http); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

func (n *node) ready() error {
	switch {
	case n.buffer.Err() != nil:
		return n.buffer.Err()
	case !n.keeper.Live():
		return errors.New("the metadata store has not confirmed this agent's session for longer than session.ttl.ms")
	case !n.groups.Ready():
		return errors.New("group offsets are being loaded")
	}
	return nil
}

func (n *node) evict() error { return n.cache.Evict() }
