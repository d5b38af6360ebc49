// Package cache holds every place a byte of an object can be read from; nothing in it is ever needed.
//
// A View is answered by the first of four places:
//
//	image   an object that this agent built, still in memory: borrowed, not copied
//	disk    a whole object in a local file: pread into a buffer
//	cold    a chunk of an object, downloaded before: borrowed
//	below   one ranged GET of the chunk, shared by all who wait for it
//
// What comes from a file or from below is checked against the CRC32C of the whole blocks that it lies in, before anyone
// sees it. Bytes behind the last block (the directory) have a sum of their own, which their reader checks; on a mismatch
// it calls Drop and asks again. Objects are immutable and keys are never used twice, so there is no invalidation: any
// part may vanish at any time, and the next place answers.
package cache

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"varve.dev/objectstore"
)

const (
	defaultChunkBytes   = 4 << 20
	defaultColdRequests = 16
	// maxChunkBytes bounds Config.ChunkBytes: buffers are pooled up to a little more.
	maxChunkBytes = 64 << 20
	// writePause is how long nothing is written to Dir after it failed: long enough not to hammer a full disk.
	writePause = time.Minute
	// backlogShare of MemoryBytes may wait for the disk beside MemoryBytes; what exceeds it is dropped unspilled.
	backlogShare = 4
	// shortShare of MemoryBytes is the least that may still come in while an heir is written to disk.
	shortShare = 8
)

// Image is an object in memory that can be read in place.
type Image interface {
	objectstore.Body
	// Slices appends the slices that make up [off, off+n).
	Slices(dst [][]byte, off, n int64) [][]byte
	Retain()
	// Release gives one reference back; at zero the memory goes back to its pool.
	Release()
}

// Object says what a reader must know of an object to read it: the index knows it all. Blocks may be empty while only
// the directory is read.
type Object struct {
	Key    string
	Length int64
	Blocks objectstore.Blocks
}

// Config is plain values; the zero value of a size means: nothing in that place.
type Config struct {
	// Dir holds copies of objects, one file each; it is created. Empty means no disk.
	Dir string
	// MemoryBytes is for images, DiskBytes for files, ColdBytes for chunks of cold objects. Views in use and downloads
	// on their way may exceed ColdBytes, by what callers hold and by ColdRequests chunks.
	MemoryBytes, DiskBytes, ColdBytes int64
	// FreeBytes is what copies leave free on the disk that Dir lies on, for whoever needs it: they need none. Zero: nothing.
	FreeBytes int64
	// ChunkBytes is what one GET of a cold object fetches: whole blocks that start within an aligned stretch of this
	// size. Default 4 MiB: at 100 ms to the first byte and 80 MB/s, larger ones gain little; smaller ones cost requests.
	ChunkBytes int64
	// ColdRequests bounds the GETs at one time. Default 16. Prefetches take at most half.
	ColdRequests int
	Logger       *slog.Logger                    // nil: silence
	Now          func() time.Time                // nil: time.Now
	Free         func(dir string) (int64, error) // what may still be written where dir is; nil: asks the filesystem
	Registry     prometheus.Registerer           // nil: no metrics
}

func (c Config) withDefaults() (Config, error) {
	if c.ChunkBytes == 0 {
		c.ChunkBytes = defaultChunkBytes
	}
	if c.ColdRequests == 0 {
		c.ColdRequests = defaultColdRequests
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Free == nil {
		c.Free = statfs
	}
	if c.Dir == "" {
		c.DiskBytes = 0
	}
	var problems []error
	for name, v := range map[string]int64{"MemoryBytes": c.MemoryBytes, "DiskBytes": c.DiskBytes, "ColdBytes": c.ColdBytes, "FreeBytes": c.FreeBytes} {
		if v < 0 {
			problems = append(problems, fmt.Errorf("cache: %s is %d", name, v))
		}
	}
	if c.ChunkBytes < 0 || c.ChunkBytes > maxChunkBytes {
		problems = append(problems, fmt.Errorf("cache: ChunkBytes is %d, want 1 to %d", c.ChunkBytes, int64(maxChunkBytes)))
	}
	if c.ColdRequests < 0 {
		problems = append(problems, fmt.Errorf("cache: ColdRequests is %d", c.ColdRequests))
	}
	return c, errors.Join(problems...)
}

// Cache is all four places. mu guards everything below it; it is never held across I/O, and no Image is released under it.
type Cache struct {
	below objectstore.Store
	cfg   Config
	pool  buffers
	lent  sync.Pool // *lease

	life      context.Context // of downloads
	end       context.CancelFunc
	downloads sync.WaitGroup
	requests  chan struct{} // ColdRequests turns
	ahead     chan struct{} // those that prefetches may take
	wake      chan struct{} // for Run
	writer    chan struct{} // one turn: what is free says little while another writes

	mu     sync.Mutex
	closed bool

	images       map[string]*imageEntry
	imageOrder   list.List // *holding, oldest first; without those in backlog
	imageBytes   int64
	backlog      list.List // *holding that wait for the disk, oldest first, each of one image
	backlogBytes int64
	unwritten    list.List // *imageEntry that are heirs and were not written to disk yet, oldest first
	hurry        func()    // ends the pace at which an heir is being written

	files       map[string]*fileEntry
	order       fileOrder
	parts       uint64
	fileBytes   int64
	goingBytes  int64 // of files that are forgotten, and on disk until they are removed
	diskLimit   int64 // of fileBytes: DiskBytes, or less where FreeBytes would not be left
	tight       bool  // the disk has had less free than FreeBytes, and not much more since
	untold      bool  // nobody can say what is free
	pausedUntil time.Time

	cold      map[string]map[int64]*chunk
	idle      list.List // *chunk that nobody views, most recently used first
	spent     list.List // *chunk of these that were read to their end, the longest ago first
	coldBytes int64
	// spentBytes are those of spent; coming, what downloads will bring that wait for their turn.
	spentBytes, coming int64
	timing             timing
	stats              Stats
}

// New opens a cache over below and adopts the files that it finds in cfg.Dir.
func New(below objectstore.Store, cfg Config) (*Cache, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Cache{
		below: below, cfg: cfg,
		requests: make(chan struct{}, cfg.ColdRequests),
		ahead:    make(chan struct{}, max(1, cfg.ColdRequests/2)),
		wake:     make(chan struct{}, 1),
		hurry:    func() {},
		writer:   make(chan struct{}, 1),
		timing:   newTiming(), diskLimit: cfg.DiskBytes,
		images: map[string]*imageEntry{}, files: map[string]*fileEntry{}, cold: map[string]map[int64]*chunk{},
	}
	c.lent.New = func() any { return new(lease) }
	c.life, c.end = context.WithCancel(context.Background())
	if err := c.adopt(); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	if cfg.Registry != nil {
		if err := cfg.Registry.Register(collector{c}); err != nil {
			return nil, fmt.Errorf("open cache: %w", err)
		}
	}
	return c, nil
}

// Drop forgets objects that are superseded or deleted: image, file and chunks go, nothing is spilled. Views in use keep
// what they have.
func (c *Cache) Drop(keys ...string) {
	c.mu.Lock()
	released, removed := c.forget(keys)
	c.mu.Unlock()
	releaseAll(released)
	_ = c.remove(removed) // a file that stays is adopted at the next start, and goes by its age
}

// forget is Drop under the lock.
func (c *Cache) forget(keys []string) (released []Image, removed []*fileEntry) {
	for _, key := range keys {
		if e := c.images[key]; e != nil {
			c.forgetImage(e)
			released = append(released, e.image)
		}
		if e := c.files[key]; e != nil {
			c.leave(e)
			removed = append(removed, e)
		}
		for _, ch := range c.cold[key] {
			c.forgetChunk(ch)
		}
	}
	return released, removed
}

// Evict drops every copy, in memory and on disk: all objects are stored below. For tests, demonstrations and operators.
func (c *Cache) Evict() error {
	released, removed := c.forgetAll(true)
	releaseAll(released)
	return c.remove(removed)
}

// Close ends downloads, waits for them, and gives back all memory that no View holds. Files stay for the next start.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.downloads.Wait()
	released, _ := c.forgetAll(false)
	releaseAll(released)
	if c.cfg.Registry != nil {
		c.cfg.Registry.Unregister(collector{c})
	}
}

func (c *Cache) forgetAll(disk bool) (released []Image, removed []*fileEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.images {
		c.forgetImage(e)
		released = append(released, e.image)
	}
	for _, chunks := range c.cold {
		for _, ch := range chunks {
			c.forgetChunk(ch)
		}
	}
	if disk {
		for _, e := range c.files {
			c.leave(e)
			removed = append(removed, e)
		}
	}
	return released, removed
}

// Run writes evicted images to disk until ctx ends, and heirs where memory is short. Without it they are dropped. And it
// removes copies when others need their room.
func (c *Cache) Run(ctx context.Context) error {
	var look <-chan time.Time
	if c.cfg.FreeBytes > 0 && c.cfg.DiskBytes > 0 {
		tick := time.NewTicker(roomPeriod)
		defer tick.Stop()
		look = tick.C
	}
	for {
		if e := c.nextSpill(); e != nil && ctx.Err() == nil {
			c.spill(ctx, e)
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-look:
			c.makeRoom()
		}
	}
}

func (c *Cache) wakeRun() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func releaseAll(images []Image) {
	for _, im := range images {
		im.Release()
	}
}
