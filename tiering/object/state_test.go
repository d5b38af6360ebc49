package object_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"varve.dev/tiering/batch"
	"varve.dev/tiering/object"
)

func states() []object.State {
	entry := func(id int64, epoch int16, seq, n int32, base int64) object.Producer {
		return object.Producer{Entry: batch.Entry{ID: id, Epoch: epoch, FirstSeq: seq, LastSeq: batch.AddSequence(seq, n-1), BaseOffset: base,
			LastOffset: base + int64(n) - 1, Timestamp: 1_700_000_000_000 + base}, TxnFirst: -1}
	}
	open := entry(9, 3, 7, 2, 90)
	open.CoordinatorEpoch, open.TxnCounter, open.TxnFirst = 2, 1, 40
	return []object.State{
		{},
		{End: 100, MadeAt: 1_700_000_000_500, MaxAppendTime: -1},
		{End: 100, MadeAt: 1_700_000_000_500, MaxAppendTime: 1_700_000_000_400, Producers: []object.Producer{
			entry(7, 0, 0, 5, 0), entry(7, 0, 5, 5, 10), entry(8, 1, math.MaxInt32, 3, 60)}},
		{End: 100, MadeAt: 5, MaxAppendTime: -1, Producers: []object.Producer{entry(1, 0, 0, 1, 99), open}},
	}
}

func TestStateReturns(t *testing.T) {
	for _, s := range states() {
		b := s.Append([]byte("before"))[6:]
		got, err := object.DecodeState(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&s, got, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
		for i := range b {
			bad := bytes.Clone(b)
			bad[i] ^= 0x10
			if _, err := object.DecodeState(bad); !errors.Is(err, object.ErrCorrupt) {
				t.Fatalf("byte %d of %d is not as it was written: got %v", i, len(b), err)
			}
			if _, err := object.DecodeState(b[:i]); !errors.Is(err, object.ErrCorrupt) {
				t.Fatalf("cut to %d of %d bytes: got %v", i, len(b), err)
			}
		}
	}
}

func TestStateOfANewerProgram(t *testing.T) {
	s := object.State{End: 1}
	b := s.Append(nil)
	b[5] = object.Version + 1
	if _, err := object.DecodeState(sumAgain(b)); !errors.Is(err, object.ErrTooNew) {
		t.Errorf("got %v", err)
	}
}

func FuzzDecodeState(f *testing.F) {
	for _, s := range states() {
		b := s.Append(nil)
		f.Add(b[:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = object.DecodeState(body)
		holdDecoder(t, sumAgain(append(bytes.Clone(body), 0, 0, 0, 0)), object.DecodeState)
	})
}

// sumAgain replaces the last four bytes by the sum of those before.
func sumAgain(b []byte) []byte {
	n := len(b) - 4
	return binary.BigEndian.AppendUint32(b[:n:n], crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)))
}
