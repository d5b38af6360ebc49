package cache

import (
	"container/list"
	"context"
	"slices"
	"time"
)

type imageEntry struct {
	key       string
	image     Image
	size      int64
	in        *holding
	until     time.Time     // an heir: how long the disk is to have it, and
	pace      int64         // how fast it is written
	unwritten *list.Element // an heir: in Cache.unwritten
}

// holding is memory that goes back when the last of its images goes. An object that was stored just now has one for
// itself; what a seal made of several, without a copy, has one in common.
type holding struct {
	bytes   int64
	images  []*imageEntry
	heirs   bool
	backlog bool
	at      *list.Element // in imageOrder or backlog
}

// Heir is an object that was made of images that lie here, and borrows their memory.
type Heir struct {
	Key   string
	Image Image
	Until time.Time // how long readers will want it: see Keep
	Pace  int64     // at which it is written, when memory is short, in bytes per second; 0: at once
}

// AddImage takes over one reference to im, an object that is stored under key.
func (c *Cache) AddImage(key string, im Image) {
	c.mu.Lock()
	released := c.hold(&holding{bytes: im.Size()}, []Heir{{Key: key, Image: im}})
	c.mu.Unlock()
	releaseAll(released)
}

// Succeed is Drop of old, in whose place heirs come that were made of them: their memory stays, as long as there is room,
// and nothing is copied. Held is the size of the objects that they borrow from. It takes over one reference to each heir.
//
// An heir is written to disk, where Keep would have written it at once, when memory becomes short.
func (c *Cache) Succeed(old []string, heirs []Heir, held int64) {
	c.mu.Lock()
	released, removed := c.forget(old)
	released = append(released, c.hold(&holding{bytes: held, heirs: true}, heirs)...)
	c.mu.Unlock()
	releaseAll(released)
	_ = c.remove(removed) // a file that stays is adopted at the next start, and goes by its age
}

// hold adds what lies in h, and returns what has to go.
func (c *Cache) hold(h *holding, images []Heir) (released []Image) {
	for _, x := range images {
		if c.closed || c.images[x.Key] != nil {
			released = append(released, x.Image)
			continue
		}
		e := &imageEntry{key: x.Key, image: x.Image, size: x.Image.Size(), in: h, until: x.Until, pace: x.Pace}
		if h.heirs {
			e.unwritten = c.unwritten.PushBack(e)
		}
		h.images = append(h.images, e)
		c.images[x.Key] = e
	}
	if len(h.images) == 0 {
		return released
	}
	h.at = c.imageOrder.PushBack(h)
	c.imageBytes += h.bytes
	return append(released, c.shrinkImages()...)
}

// shrinkImages moves the oldest images beyond MemoryBytes to the backlog of the disk, or out. Heirs were written before:
// all of one holding are too much to wait for the disk beside MemoryBytes.
func (c *Cache) shrinkImages() (released []Image) {
	for c.imageBytes > c.cfg.MemoryBytes {
		c.hurry()
		h := c.imageOrder.Front().Value.(*holding)
		if !h.heirs && c.worthSpilling(h.images[0]) {
			c.imageOrder.Remove(h.at)
			c.imageBytes -= h.bytes
			h.backlog = true
			h.at = c.backlog.PushBack(h)
			c.backlogBytes += h.bytes
			c.wakeRun()
			continue
		}
		for _, e := range slices.Clone(h.images) {
			c.forgetImage(e)
			released = append(released, e.image)
			if c.files[e.key] == nil { // there is no copy, and none on its way
				c.stats.ImagesDropped++
			}
		}
	}
	if c.short() {
		c.wakeRun()
	}
	return released
}

// worthSpilling is false where the disk has the object, has no room for it, cannot be written now, or is too slow.
func (c *Cache) worthSpilling(e *imageEntry) bool {
	return e.size <= c.diskLimit && c.files[e.key] == nil && !c.paused() &&
		(c.backlog.Len() == 0 || c.backlogBytes+e.size <= c.cfg.MemoryBytes/backlogShare)
}

// short says whether it is time to write the oldest heir, so that its memory can be given back when it is needed: as much
// may come meanwhile.
func (c *Cache) short() bool {
	front := c.unwritten.Front()
	return front != nil && c.imageBytes > c.cfg.MemoryBytes-max(c.cfg.MemoryBytes/shortShare, front.Value.(*imageEntry).size)
}

func (c *Cache) forgetImage(e *imageEntry) {
	if c.images[e.key] != e {
		return
	}
	delete(c.images, e.key)
	c.written(e)
	h := e.in
	h.images = slices.DeleteFunc(h.images, func(x *imageEntry) bool { return x == e })
	switch {
	case len(h.images) > 0:
	case h.backlog:
		c.backlog.Remove(h.at)
		c.backlogBytes -= h.bytes
	default:
		c.imageOrder.Remove(h.at)
		c.imageBytes -= h.bytes
	}
}

// written takes an heir off the list of those that the disk is to have.
func (c *Cache) written(e *imageEntry) {
	if e.unwritten != nil {
		c.unwritten.Remove(e.unwritten)
		e.unwritten = nil
	}
}

// nextSpill holds for the caller what is to be written next: the oldest image of the backlog, or an heir where memory is
// short.
func (c *Cache) nextSpill() *imageEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var e *imageEntry
	switch front := c.backlog.Front(); {
	case front != nil:
		e = front.Value.(*holding).images[0]
	case c.short():
		e = c.unwritten.Front().Value.(*imageEntry)
	default:
		return nil
	}
	e.image.Retain()
	return e
}

// spill writes one image to disk. One of the backlog goes, written or not: its memory is over the bound. An heir stays, as
// long as there is room, and so does its file: readers will want it. It is written at its pace until others wait for the
// disk, or its memory is due.
func (c *Cache) spill(ctx context.Context, e *imageEntry) {
	ctx, hurry := context.WithCancel(ctx)
	defer hurry()
	c.mu.Lock()
	c.hurry = hurry
	c.mu.Unlock()
	still := func() bool { return c.images[e.key] == e }
	var keep time.Duration
	if e.in.heirs {
		keep = max(0, e.until.Sub(c.cfg.Now()))
	}
	if written, err := c.store(ctx, copying{key: e.key, body: e.image, keep: keep, pace: e.pace, read: e.in.heirs}, still); err == nil && written {
		c.mu.Lock()
		c.stats.SpilledBytes += e.size
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.written(e)
	gone := !e.in.heirs && still()
	if gone {
		c.forgetImage(e)
	}
	c.mu.Unlock()
	e.image.Release()
	if gone {
		e.image.Release()
	}
}

// fromImage borrows the range from an image.
func (c *Cache) fromImage(l *lease, key string, off, n int64) bool {
	c.mu.Lock()
	e := c.images[key]
	if e == nil || off+n > e.size {
		c.mu.Unlock()
		return false
	}
	e.image.Retain()
	l.original = !e.in.heirs
	c.stats.ImageHits++
	c.mu.Unlock()
	l.image = e.image
	l.slices = e.image.Slices(l.slices, off, n)
	return true
}
