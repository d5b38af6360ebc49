package object

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// State is what is known of a partition's producers at an offset, in a place of its own: where the log start has passed
// every segment, no directory is left to tell it.
type State struct {
	End           int64 // the offset, committed
	MadeAt        int64 // milliseconds
	MaxAppendTime int64 // -1: no batch before End has one
	Producers     []Producer
}

const (
	stateHead = "VRVP"
	stateMin  = len(stateHead) + 4 + 5 + 4 // with the version, the least of its numbers, and its sum
)

// Append encodes s: head, version and oldest reader, the numbers, the producers as a range has them, a CRC32C of it all.
func (s *State) Append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, stateHead...)
	dst = append(dst, Version, MinReader, 0, 0)
	r := s.asRange()
	txn := r.flags()&flagTxnProducers != 0
	for _, v := range [...]int64{s.End, s.MadeAt, s.MaxAppendTime, asInt(txn)} {
		dst = binary.AppendVarint(dst, v)
	}
	dst = r.appendProducers(dst, txn)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// asRange is the empty range behind which s stands: what its producers' offsets and times are told relative to.
func (s *State) asRange() *Range {
	return &Range{Base: s.End, MaxTimestamp: s.MadeAt, Producers: s.Producers}
}

func asInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// DecodeState is the reverse of Append. What it allocates is bounded by len(b).
func DecodeState(b []byte) (*State, error) {
	if len(b) < stateMin || string(b[:len(stateHead)]) != stateHead {
		return nil, fmt.Errorf("%w: not a producers' state, %d bytes", ErrCorrupt, len(b))
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Errorf("%w: producers' state: CRC32C %08x, want %08x", ErrCorrupt, got, sum)
	}
	if needs := body[len(stateHead)+1]; needs > Version {
		return nil, fmt.Errorf("%w: producers' state needs format %d, this program knows %d", ErrTooNew, needs, Version)
	}
	r := reader{b: body[len(stateHead)+4:]}
	s := &State{End: r.int(), MadeAt: r.int(), MaxAppendTime: r.int()}
	txn := r.int()
	g := s.asRange()
	g.readProducers(&r, txn == 1)
	if r.bad || len(r.b) != 0 || s.End < 0 || txn&^1 != 0 {
		return nil, fmt.Errorf("%w: producers' state at %d, %d bytes left", ErrCorrupt, s.End, len(r.b))
	}
	s.Producers = g.Producers
	return s, nil
}
