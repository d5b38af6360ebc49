package cache

import "container/list"

type imageEntry struct {
	key      string
	image    Image
	size     int64
	at       *list.Element // in imageOrder or backlog
	spilling bool          // in backlog
}

// AddImage takes over one reference to im, an object that is stored under key.
func (c *Cache) AddImage(key string, im Image) {
	released := c.addImage(key, im)
	releaseAll(released)
}

func (c *Cache) addImage(key string, im Image) []Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.images[key] != nil {
		return []Image{im}
	}
	e := &imageEntry{key: key, image: im, size: im.Size()}
	e.at = c.imageOrder.PushBack(e)
	c.images[key] = e
	c.imageBytes += e.size
	return c.shrinkImages()
}

// shrinkImages moves the oldest images beyond MemoryBytes to the backlog of the disk, or out.
func (c *Cache) shrinkImages() (released []Image) {
	for c.imageBytes > c.cfg.MemoryBytes {
		e := c.imageOrder.Front().Value.(*imageEntry)
		if !c.worthSpilling(e) {
			c.forgetImage(e)
			released = append(released, e.image)
			c.stats.ImagesDropped++
			continue
		}
		c.imageOrder.Remove(e.at)
		c.imageBytes -= e.size
		e.spilling = true
		e.at = c.backlog.PushBack(e)
		c.backlogBytes += e.size
		c.wakeRun()
	}
	return released
}

// worthSpilling is false where the disk has the object, has no room for it, cannot be written now, or is too slow.
func (c *Cache) worthSpilling(e *imageEntry) bool {
	return e.size <= c.cfg.DiskBytes && c.files[e.key] == nil && !c.paused() &&
		(c.backlog.Len() == 0 || c.backlogBytes+e.size <= c.cfg.MemoryBytes/backlogShare)
}

func (c *Cache) forgetImage(e *imageEntry) {
	if c.images[e.key] != e {
		return
	}
	delete(c.images, e.key)
	if e.spilling {
		c.backlog.Remove(e.at)
		c.backlogBytes -= e.size
		return
	}
	c.imageOrder.Remove(e.at)
	c.imageBytes -= e.size
}

// nextSpill holds the oldest image of the backlog for the caller.
func (c *Cache) nextSpill() *imageEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	front := c.backlog.Front()
	if front == nil {
		return nil
	}
	e := front.Value.(*imageEntry)
	e.image.Retain()
	return e
}

// spill writes one image to disk and lets it go, written or not: its memory is over the bound.
func (c *Cache) spill(e *imageEntry) {
	still := func() bool { return c.images[e.key] == e }
	if written, err := c.store(e.key, e.image, 0, still); err == nil && written {
		c.mu.Lock()
		c.stats.SpilledBytes += e.size
		c.mu.Unlock()
	}
	c.mu.Lock()
	held := still()
	c.forgetImage(e)
	c.mu.Unlock()
	e.image.Release()
	if held {
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
	c.stats.ImageHits++
	c.mu.Unlock()
	l.image = e.image
	l.slices = e.image.Slices(l.slices, off, n)
	return true
}
