// Package group coordinates consumer groups: the classic protocol as a pure state machine, and the committed offsets.
//
// A Group is one group's state. Step takes an input and the time, and answers with actions; it does no I/O, reads no clock
// and starts nothing. A Coordinator owns the groups of the shards it holds: it gives each request to its group, runs the
// timers, and carries out the actions.
//
// # The way of a commit
//
// OffsetCommit → Coordinator.Commit → Group.Step(Commit) → Write (queued) → one metadata.Groups.Write for everything that
// was queued while the last one was in flight → Group.Step(Written) → the offsets become visible and the member is
// answered. Nothing is visible, and nobody is answered, before the store has said that it is there. A write whose reply
// was lost is repeated as it was: it carries the lease's epoch and a counter, so that it counts once.
//
// # The way of a rebalance
//
// Join* … the barrier falls → JoinReply to all, generation + 1 → Sync of the leader → Write of the group's row → Written →
// SyncReply to all. The row is stored before anybody gets an assignment, so after a restart every member goes on with its
// generation, and nobody notices.
//
// # Lock order
//
// slot.mu, then window.mu. shard.mu is never held together with either. Replies and the store are called under none.
//
// # The stored row
//
// metadata.GroupRow.State is one byte of kind (1: classic), then Kafka's own GroupMetadataValue record, version 4. It holds
// the members with their assignments and, of each member's protocols, the one that was chosen. A group without a row but
// with offsets is a "simple" group: somebody commits without being a member.
//
// # Not obvious
//
//   - Deadlines are kept by the group, not by timers: Wake says when Step(Tick) is due next, and being woken too early is
//     harmless. A session ends only in a Tick, never as a side effect of somebody else's request.
//   - While the store is away (Tick.Hold) no session ends and nobody new may join: the rebalance that would follow could not
//     be stored, and would stop the members that are still reading.
//   - A request that waits for the store is answered COORDINATOR_NOT_AVAILABLE after Config.StoreTimeout. A commit that is
//     still queued then is taken back; one in flight may yet be stored.
package group
