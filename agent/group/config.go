package group

import (
	"errors"
	"fmt"
	"time"
)

// Config of a Coordinator.
type Config struct {
	Rules

	// Shards is the number of shards of the cluster, fixed when it was created (metadata.Cluster.Shards).
	Shards int32
	// MinSession and MaxSession bound what a member may ask for (group.min.session.timeout.ms 6 s,
	// group.max.session.timeout.ms 30 min).
	MinSession, MaxSession time.Duration
	// ExpiryInterval is the time between two looks for expired offsets (offsets.retention.check.interval.ms, 10 min).
	ExpiryInterval time.Duration
	// MaxGroups bounds the groups of this agent: 100,000, at about 1 KiB for one without members. The next one is refused
	// with POLICY_VIOLATION.
	MaxGroups int
	// MaxQueued bounds the offsets that wait for the store: 1,000,000 at about 100 bytes and their metadata. Beyond it a
	// commit is refused with COORDINATOR_NOT_AVAILABLE, which clients repeat.
	MaxQueued int
	// WindowOffsets bounds one write: 10,000 offsets, about a megabyte of statement.
	WindowOffsets int
	// WriteTimeout is when a write that has not been answered counts as unknown: 10 s.
	WriteTimeout time.Duration
	// RetryMin and RetryMax bound the pause after a failed write or load: 50 ms, 1 s.
	RetryMin, RetryMax time.Duration
	// DrainTimeout is how long Run goes on writing after its context has ended: 5 s.
	DrainTimeout time.Duration
}

// DefaultConfig is Kafka's, where Kafka has one.
func DefaultConfig(shards int32) Config {
	return Config{
		Rules: Rules{
			InitialDelay: 3 * time.Second, MaxSize: 1<<31 - 1, MaxBytes: 64 << 20,
			StoreTimeout: 5 * time.Second, OffsetsRetention: 7 * 24 * time.Hour,
		},
		Shards:     shards,
		MinSession: 6 * time.Second, MaxSession: 30 * time.Minute,
		ExpiryInterval: 10 * time.Minute,
		MaxGroups:      100_000, MaxQueued: 1_000_000, WindowOffsets: 10_000,
		WriteTimeout: 10 * time.Second, RetryMin: 50 * time.Millisecond, RetryMax: time.Second,
		DrainTimeout: 5 * time.Second,
	}
}

// Validate returns all problems at once.
func (c Config) Validate() error {
	var errs []error
	positive := func(name string, n int64) {
		if n <= 0 {
			errs = append(errs, fmt.Errorf("group: %s is %d, want more than 0", name, n))
		}
	}
	positive("Shards", int64(c.Shards))
	positive("MaxSize", int64(c.MaxSize))
	positive("MaxBytes", int64(c.MaxBytes))
	positive("StoreTimeout", int64(c.StoreTimeout))
	positive("OffsetsRetention", int64(c.OffsetsRetention))
	positive("MinSession", int64(c.MinSession))
	positive("ExpiryInterval", int64(c.ExpiryInterval))
	positive("MaxGroups", int64(c.MaxGroups))
	positive("MaxQueued", int64(c.MaxQueued))
	positive("WindowOffsets", int64(c.WindowOffsets))
	positive("WriteTimeout", int64(c.WriteTimeout))
	positive("RetryMin", int64(c.RetryMin))
	positive("DrainTimeout", int64(c.DrainTimeout))
	if c.InitialDelay < 0 {
		errs = append(errs, fmt.Errorf("group: InitialDelay is %v, want 0 or more", c.InitialDelay))
	}
	if c.MaxSession < c.MinSession {
		errs = append(errs, fmt.Errorf("group: MaxSession is %v, want at least MinSession %v", c.MaxSession, c.MinSession))
	}
	if c.RetryMax < c.RetryMin {
		errs = append(errs, fmt.Errorf("group: RetryMax is %v, want at least RetryMin %v", c.RetryMax, c.RetryMin))
	}
	return errors.Join(errs...)
}
