package cache

import "time"

// roomPeriod is how often Run asks what is free: with a disk that takes 500 MB/s, others write a GiB in that time. No more
// often, since some filesystems give back what was removed seconds later, and until then more copies go than need to.
const roomPeriod = 2 * time.Second

// measure finds out how much copies may take, so that FreeBytes of their disk stay free: what they take and what is free
// together, less that. It changes with what others take, not with what is written or removed here. Where nobody can say
// what is free, only DiskBytes holds.
func (c *Cache) measure() {
	if c.cfg.FreeBytes == 0 || c.cfg.DiskBytes == 0 {
		return
	}
	c.mu.Lock()
	ours := c.fileBytes + c.goingBytes
	c.mu.Unlock()
	free, err := c.cfg.Free(c.cfg.Dir)
	c.mu.Lock()
	defer c.mu.Unlock()
	ours = max(ours, c.fileBytes+c.goingBytes) // what came or went meanwhile counts as ours: better a moment too much than a copy in vain
	c.diskLimit = c.cfg.DiskBytes
	if c.say(free, err); err != nil {
		return
	}
	if spare := free - c.cfg.FreeBytes; spare < c.diskLimit-ours {
		c.diskLimit = max(0, ours+spare)
	}
}

// say logs when the disk becomes tight, and when it no longer tells, once each.
func (c *Cache) say(free int64, err error) {
	if err != nil {
		if !c.untold {
			c.cfg.Logger.Warn("cache cannot tell what is free on its disk and leaves no room there", "dir", c.cfg.Dir, "error", err)
		}
		c.untold = true
		return
	}
	c.untold = false
	switch {
	case free < c.cfg.FreeBytes && !c.tight:
		c.tight = true
		c.cfg.Logger.Warn("cache gives up copies: its disk has less free than they are to leave", "dir", c.cfg.Dir, "free", free, "leave", c.cfg.FreeBytes)
	case free >= 2*c.cfg.FreeBytes: // copies fill the disk up to FreeBytes: a little more is no news
		c.tight = false
	}
}

// makeRoom lets copies go until FreeBytes of their disk are free, or none is left.
func (c *Cache) makeRoom() {
	c.measure()
	c.mu.Lock()
	victims := c.overfull(c.cfg.Now())
	c.mu.Unlock()
	c.clear(victims)
}
