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

const BacklogShare, WritePause = backlogShare, writePause
