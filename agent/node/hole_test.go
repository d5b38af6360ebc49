package node

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"varve.dev/agent/session"
	"varve.dev/metadata"
)

// rows is an index of one partition, and counts how often it is read.
type rows struct {
	session.Store
	reads int
}

func (r *rows) Read(_ context.Context, ids []metadata.PartitionID) (metadata.State, error) {
	r.reads++
	return metadata.State{Partitions: []metadata.Partition{{ID: ids[0], LogStart: 10}}}, nil
}

// A reader of a true hole comes again at once, and each look reads every directory of the leader's sessions.
func TestHolesAreLookedForOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		index := &rows{}
		n := &node{log: slog.New(slog.NewTextHandler(&log, nil)), set: session.NewSet(metadata.Session{}, metadata.UUID{}, index, nil, nil, nil, nil, session.Config{})}
		id := metadata.PartitionID{Topic: 1}
		for range 3 {
			for range 100 {
				n.hole(id, 10)
			}
			<-time.After(holeEvery)
		}
		n.hole(id, 9) // deleted: no alarm
		if got := fmt.Sprint(index.reads, strings.Count(log.String(), "the index has a hole")); got != "4 3" {
			t.Errorf("reads and alarms: %s, want 4 3\n%s", got, log.String())
		}
	})
}
