package cache

import "context"

// Poison makes whoever reads after Release see other bytes.
func Poison(c *Cache) { c.pool.poison = true }

// Settle waits for every download that has begun.
func Settle(c *Cache) { c.downloads.Wait() }

// Spill writes the backlog as Run would.
func Spill(c *Cache) {
	for e := c.nextSpill(); e != nil; e = c.nextSpill() {
		c.spill(context.Background(), e)
	}
}

// DropSlowly is Drop up to where files are removed, and the rest of it.
func DropSlowly(c *Cache, keys ...string) (rest func()) {
	c.mu.Lock()
	released, removed := c.forget(keys)
	c.mu.Unlock()
	releaseAll(released)
	return func() { _ = c.remove(removed) }
}

// Found is a reader that has found a file of this key; failed is what reading it comes to.
func Found(c *Cache, key string) (failed func(error)) {
	e := c.file(key)
	return func(err error) { c.badFile(e, err) }
}

// MakeRoom is what Run does every RoomPeriod.
func MakeRoom(c *Cache) { c.makeRoom() }

// Statfs is what Config.Free is by default.
func Statfs(dir string) (int64, error) { return statfs(dir) }

const (
	BacklogShare, WritePause = backlogShare, writePause
	RoomPeriod               = roomPeriod
)
