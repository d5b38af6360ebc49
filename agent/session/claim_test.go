package session

import (
	"testing"

	"varve.dev/metadata"
)

// TestAFrameHasOneFate: epoch 1 wrote [0, 20), epoch 4 followed; the index holds everything up to 40.
func TestAFrameHasOneFate(t *testing.T) {
	mine, other := metadata.UUID{1}, metadata.UUID{2}
	row := metadata.Partition{Leader: 7, LeaderEpoch: 4, LogStart: 5, Epochs: []metadata.EpochStart{{Epoch: 1, Start: 0}, {Epoch: 4, Start: 20}}}
	for _, f := range []struct {
		name       string
		base, next int64
		epoch      int32
		journal    metadata.UUID
		leader     int32
		want       fate
	}{
		{"an old record that is committed", 10, 20, 1, mine, 7, committed},
		{"a new record that is committed", 20, 30, 4, mine, 7, committed},
		{"a record around the log start", 0, 10, 1, mine, 7, committed},
		{"a deleted record", 0, 5, 1, mine, 7, committed},
		{"a deleted record of a forgotten epoch", 0, 5, 0, mine, 7, committed},
		{"the tail", 40, 50, 4, mine, 7, tail},
		{"what a gap has replaced", 20, 27, 1, mine, 7, foreign},
		{"what another leader's records have replaced", 30, 40, 3, mine, 7, foreign},
		{"a tail of an older epoch", 40, 50, 1, mine, 7, foreign},
		{"a tail behind a hole", 45, 50, 4, mine, 7, foreign},
		{"a tail beside the journal that holds it", 40, 50, 4, other, 7, foreign},
		{"a tail of a partition that another agent led", 40, 50, 4, mine, 8, foreign},
	} {
		row := row
		row.Leader, row.TailJournal = f.leader, f.journal
		c := claimant{me: metadata.SessionRef{Agent: 7, Epoch: 9}, journal: mine}
		if got := c.accept(&row, 40, f.base, f.next, f.epoch); got != f.want {
			t.Errorf("%s: fate %d, want %d", f.name, got, f.want)
		}
	}
}
