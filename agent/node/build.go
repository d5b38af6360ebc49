package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"varve.dev/agent/broker"
	"varve.dev/agent/catalog"
	"varve.dev/agent/group"
	"varve.dev/agent/session"
	"varve.dev/agent/wire"
	"varve.dev/metadata"
	"varve.dev/objectstore/cache"
	"varve.dev/tiering/fetch"
	"varve.dev/tiering/flush"
	"varve.dev/tiering/gc"
	"varve.dev/tiering/journal"
	"varve.dev/tiering/object"
	"varve.dev/tiering/seal"
)

const (
	// idleFlush is the least time between flushes that nobody waits for: larger objects cost less.
	idleFlush = time.Second
	// leastLate is how long nothing may be committed before the stores count as away, however impatient produce is: what
	// healthy ones may take now and then. Otherwise it is half as long as a producer waits for room: what is appended until
	// then is in doubt when its client gives up.
	leastLate = time.Second
	// directoryBytes is the memory for directories of sealed objects: some 3,000 of one large extent each.
	directoryBytes = 64 << 20
	// findSegments is how many rows one look into the index brings: 16 GiB of history at 256 MiB each.
	findSegments = 64
	// concurrentPlans bounds the partitions of one fetch that are read at once.
	concurrentPlans = 16
	// maxRecordBytes bounds what a seek by time opens of one batch.
	maxRecordBytes = 128 << 20
)

const (
	// holeLook bounds the question whether what a reader misses was deleted: its fetch waits for it.
	holeLook = 2 * time.Second
	// holeEvery is how often it is asked at most: readers of a true hole come again at once.
	holeEvery = time.Second
)

// hole alarms when an offset is missing. A look-up that fails alarms nobody: the next fetch of the offset asks again.
func (n *node) hole(p metadata.PartitionID, offset int64) {
	n.holes.Lock()
	soon := time.Since(n.holeLooked) < holeEvery
	if !soon {
		n.holeLooked = time.Now()
	}
	n.holes.Unlock()
	if soon {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), holeLook)
	defer cancel()
	if missing, err := n.set.Hole(ctx, p, offset); err != nil {
		n.log.Warn("an offset is missing; whether it was deleted is not known", "partition", p.String(), "offset", offset, "err", err)
	} else if missing {
		n.log.Error("the index has a hole: run varve storage verify", "partition", p.String(), "offset", offset)
	}
}

// build constructs what runs under the session.
func (n *node) build(context.Context) (err error) {
	cfg := n.cfg
	n.cache, err = cache.New(n.stores.cold, cache.Config{Dir: n.dir("cache"), MemoryBytes: cfg.Int("cache.memory.bytes"),
		DiskBytes: cfg.Int("cache.disk.bytes"), FreeBytes: cfg.Int("cache.disk.free.bytes"), ColdBytes: cfg.Int("cache.cold.bytes"),
		ColdRequests: bounded(cfg.Int("fetch.cold.concurrency")), Logger: n.log, Registry: n.metrics})
	if err != nil {
		return err
	}
	n.closers = append(n.closers, func() error { n.cache.Close(); return nil })
	n.reader, err = fetch.New(n.cache, n.meta, n.stores.cold, fetch.Config{Directories: directoryBytes, ReadAhead: cfg.Int("fetch.readahead.bytes"),
		FindLimit: findSegments, RecordBytes: maxRecordBytes, Logger: n.log, ConcurrentMax: concurrentPlans,
		HoleDetected: n.hole})
	if err != nil {
		return err
	}
	n.closers = append(n.closers, func() error { n.reader.Close(); return nil })
	n.catalog = catalog.New(n.meta, cfg, n.me.Agent, n.log, catalog.Config{Interval: cfg.Duration("catalog.poll.ms")})
	n.unseal = seal.NewLog()
	flushing := flush.Config{Interval: cfg.Duration("flush.interval.ms"), IdleInterval: max(idleFlush, cfg.Duration("flush.interval.ms")),
		WindowBytes: cfg.Int("flush.bytes"), BufferBytes: max(cfg.Int("produce.buffer.bytes"), cfg.Int("flush.bytes")),
		Late:     max(leastLate, cfg.Duration("produce.wait.ms")/2),
		InFlight: min(bounded(cfg.Int("flush.inflight")), flush.MaxInFlight), MaxTries: flush.MaxTries, Cluster: n.cluster.ID,
		Prefix: func(seq int64, try int32) string { return walKey(n.me, seq, try) }, Logger: n.log, Metrics: flush.NewMetrics(n.metrics)}
	if err := flushing.Validate(); err != nil {
		return err
	}
	n.buffer = flush.New(n.journal, n.stores.hot, n.meta, flushed{n.cache, n.unseal}, n.me, flushing)
	n.set = session.NewSet(n.me, n.journal.ID(), n.meta, n.buffer, n.reader, n.unseal, wanted{n.catalog},
		session.Config{Grace: grace(cfg), SetAside: n.setAside, Logger: n.log})
	n.keeper = session.NewKeeper(n.meta, n.me, n.journal.SyncedPosition, cfg.Duration("session.beat.ms"), cfg.Duration("session.ttl.ms"), n.log)
	n.sealer = seal.New(n.unseal, n.set, n.cache, n.stores.hot, n.meta, n.reader, n.me, seal.Config{
		UnsealedBytes: cfg.Int("seal.bytes"), UnsealedObjects: bounded(cfg.Int("seal.objects")), DirectoryBytes: cfg.Int("seal.directory.bytes"),
		MemoryBytes: cfg.Int("cache.memory.bytes") / 2,
		Age:         cfg.Duration("seal.age.ms"), MinExtent: cfg.Int("seal.extent.min.bytes"), MaxObject: cfg.Int("seal.object.bytes"),
		Check: cfg.Duration("seal.check.interval.ms"), Grace: grace(cfg).Superseded, Cluster: n.cluster.ID,
		Key:         func(kind metadata.Kind, i int64) string { return sealKey(n.me, kind, i) },
		DoomedTries: earlierTries, Logger: n.log, Metrics: seal.NewMetrics(n.metrics)})
	var moved atomic.Int64
	n.gc = gc.New(n.set, n.meta, n.reader, n.cache, n.stores.hot, n.me, gc.Config{Retention: cfg.Duration("log.retention.check.interval.ms"),
		Interval: cfg.Duration("gc.interval.ms"), Grace: grace(cfg),
		Key:    func() string { return key("seg", n.me, fmt.Sprintf("m%d", moved.Add(1))) },
		Logger: n.log, Metrics: gc.NewMetrics(n.metrics)})
	if err := n.buildGroups(); err != nil {
		return err
	}
	n.catalog.Subscribe(func(image *catalog.Image) {
		for _, t := range image.Deleting {
			n.groups.TopicDeleted(t.Num)
		}
	})
	n.gauges()
	table := n.table()
	n.server = wire.New(table, n.log, n.metrics, wire.Config{FrameCap: table.FrameCap, Weight: table.Weight,
		MaxInFlightBytes: max(cfg.Int("queued.max.request.bytes"), wire.MaxFrame), MaxConnections: bounded(cfg.Int("max.connections")),
		IdleTimeout: cfg.Duration("connections.max.idle.ms"), DrainTimeout: min(cfg.Duration("shutdown.timeout.ms")/3, 10*time.Second)})
	return nil
}

// flushed hands stored windows to who keeps their bytes and to who will seal them.
type flushed struct {
	cache *cache.Cache
	log   *seal.Log
}

func (f flushed) Keep(o *object.Stored, im *object.Image) { f.cache.AddImage(o.Object.Key, im) }
func (f flushed) Flushed(o *object.Stored)                { f.log.Add(o) }

// earlierTries are the keys that a WAL object's upload may have left behind before the one that was committed.
func earlierTries(o *object.Stored) (keys []string) {
	h := o.Dir.Header
	for try := range o.Tries - 1 {
		keys = append(keys, walKey(metadata.Session{Incarnation: h.Incarnation, Nonce: h.Nonce}, o.First, try))
	}
	return keys
}

// setAside keeps a recovered batch that belongs to no partition that this agent leads.
func (n *node) setAside(f journal.Frame) error {
	dir := n.dir("set-aside")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name := fmt.Sprintf("%s-topic%d-partition%d.batches", n.journal.ID(), f.Partition.Topic, f.Partition.Partition)
	w, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(f.Batch)
	return errors.Join(err, w.Sync(), w.Close())
}

func (n *node) buildGroups() (err error) {
	cfg := n.cfg
	n.groups, err = group.New(n.meta, n.me, func(num int32) (string, bool) {
		t := n.catalog.Image().ByNum(num)
		if t == nil {
			return "", false
		}
		return t.Name, true
	}, n.log, group.NewMetrics(n.metrics), group.Config{
		Rules: group.Rules{InitialDelay: cfg.Duration("group.initial.rebalance.delay.ms"), MaxSize: bounded(cfg.Int("group.max.size")),
			MaxBytes: maxGroupBytes, StoreTimeout: storeTimeout, OffsetsRetention: cfg.Duration("offsets.retention.minutes")},
		Shards: n.cluster.Shards, MinSession: cfg.Duration("group.min.session.timeout.ms"), MaxSession: cfg.Duration("group.max.session.timeout.ms"),
		ExpiryInterval: cfg.Duration("offsets.retention.check.interval.ms"), MaxGroups: 100_000, MaxQueued: 1_000_000, WindowOffsets: 10_000,
		WriteTimeout: 10 * time.Second, RetryMin: 50 * time.Millisecond, RetryMax: time.Second, DrainTimeout: 5 * time.Second})
	return err
}

const (
	// maxGroupBytes bounds what the members of one group make us remember.
	maxGroupBytes = 64 << 20
	// storeTimeout is how long a group's request waits for the store (Kafka's offsets.commit.timeout.ms).
	storeTimeout = 5 * time.Second
)

// table gives every API its handler.
func (n *node) table() *broker.Broker {
	cfg := n.cfg
	self := broker.Self{ID: n.me.Agent, Cluster: n.cluster.ID.String(), Rack: cfg.String("broker.rack")}
	changes := broker.NewChanges(self, n.meta, n.catalog, n.set, n.log, grace(cfg))
	var agents alone
	return broker.New(self,
		broker.Produce(n.catalog, n.set, n.buffer, n.keeper, cfg.Duration("produce.wait.ms")),
		broker.Fetch(n.catalog, n.set, n.reader, bounded(cfg.Int("fetch.max.bytes"))),
		broker.ListOffsets(n.catalog, n.set, n.reader, n.meta),
		broker.Metadata(self, n.catalog, n.set, agents, changes),
		broker.OffsetCommit(n.groups, n.catalog),
		broker.OffsetFetch(n.groups, n.catalog),
		broker.FindCoordinator(self),
		broker.JoinGroup(n.groups),
		broker.Heartbeat(n.groups),
		broker.LeaveGroup(n.groups),
		broker.SyncGroup(n.groups),
		broker.DescribeGroups(n.groups),
		broker.ListGroups(n.groups),
		broker.SASLHandshake(),
		broker.CreateTopics(agents, changes),
		broker.DeleteTopics(changes),
		broker.DeleteRecords(n.catalog, n.set, n.set),
		broker.InitProducerID(n.meta),
		broker.OffsetForLeaderEpoch(n.catalog, n.set),
		broker.DescribeConfigs(self, n.catalog),
		broker.AlterConfigs(agents, changes),
		broker.AlterReplicaLogDirs(),
		broker.DescribeLogDirs(n.catalog, n.set, newSizes(n), cfg.String("store.url")),
		broker.SASLAuthenticate(),
		broker.CreatePartitions(agents, changes),
		broker.DeleteGroups(n.groups),
		broker.ElectLeaders(n.catalog, n.set, n.set),
		broker.IncrementalAlterConfigs(agents, changes),
		broker.AlterPartitionAssignments(n.catalog),
		broker.ListPartitionReassignments(),
		broker.OffsetDelete(n.groups, n.catalog),
		broker.DescribeCluster(self, agents),
		broker.DescribeProducers(n.catalog, n.set),
		broker.ListConfigResources(self, n.catalog, agents),
		broker.DescribeTopicPartitions(self, n.catalog, n.set, agents),
	)
}

// alone is the list of other agents of a cluster of one.
type alone struct{}

func (alone) Agents() []metadata.Pulse { return nil }

// gauges tell how far each stage lags behind.
func (n *node) gauges() {
	gauge := func(name, help string, f func() float64) {
		n.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("varve_unflushed_bytes", "Bytes that are not yet in the object store.", func() float64 {
		bytes, _ := n.buffer.Pending()
		return float64(bytes)
	})
	gauge("varve_unflushed_seconds", "Age of the oldest record that is not yet in the object store.", func() float64 {
		if _, oldest := n.buffer.Pending(); !oldest.IsZero() {
			return time.Since(oldest).Seconds()
		}
		return 0
	})
	gauge("varve_unsealed_objects", "WAL objects and packs that are not yet sealed.", func() float64 {
		objects, _, _ := n.unseal.Size()
		return float64(objects)
	})
	gauge("varve_unsealed_bytes", "Bytes of WAL objects and packs that are not yet sealed.", func() float64 {
		_, bytes, _ := n.unseal.Size()
		return float64(bytes)
	})
	gauge("varve_unsealed_directory_bytes", "Bytes of directories that a successor would read.", func() float64 {
		_, _, dirs := n.unseal.Size()
		return float64(dirs)
	})
	gauge("varve_journal_bytes", "Bytes of the journal's files on disk.", func() float64 { return float64(n.journal.Bytes()) })
	gauge("varve_partitions_led", "Partitions that this agent leads.", func() float64 { return float64(len(n.set.All())) })
	gauge("varve_partitions_waiting", "Partitions whose acknowledged tail another journal holds.", func() float64 { return float64(len(n.set.Waiting())) })
	gauge("varve_session_live", "1 while the metadata store confirms this agent's session.", func() float64 {
		if n.keeper.Live() {
			return 1
		}
		return 0
	})
}
