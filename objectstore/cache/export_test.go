package cache

// Poison makes whoever reads after Release see other bytes.
func Poison(c *Cache) { c.pool.poison = true }

// Settle waits for every download that has begun.
func Settle(c *Cache) { c.downloads.Wait() }

// Spill writes the backlog as Run would.
func Spill(c *Cache) {
	for e := c.nextSpill(); e != nil; e = c.nextSpill() {
		c.spill(e)
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

// MakeRoom is what Run does every RoomPeriod.
func MakeRoom(c *Cache) { c.makeRoom() }

// Statfs is what Config.Free is by default.
func Statfs(dir string) (int64, error) { return statfs(dir) }

const (
	BacklogShare, WritePause = backlogShare, writePause
	RoomPeriod               = roomPeriod
)
