package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"time"
)

// stream is what went by, in or out: for each key a SHA-256 over its records in their order, so that two streams are
// equal only if every byte and every key's order is.
type stream struct {
	keys           map[string]*keyStream
	records, bytes int64
}

type keyStream struct {
	sum     hash.Hash
	records int64
	last    int64 // number of the newest record
}

func newStream() *stream { return &stream{keys: map[string]*keyStream{}} }

// add takes one record. number is its place in the data set; within a key it must grow.
func (s *stream) add(key, value []byte, at time.Time, number int64) error {
	k := s.keys[string(key)]
	if k == nil {
		k = &keyStream{sum: sha256.New(), last: -1}
		s.keys[string(key)] = k
	}
	if number <= k.last {
		return fmt.Errorf("key %q: record %d came after record %d", key, number, k.last)
	}
	k.last = number
	k.records++
	s.records++
	s.bytes += int64(len(key) + len(value))
	var head [24]byte
	binary.BigEndian.PutUint64(head[0:], uint64(len(value)))
	binary.BigEndian.PutUint64(head[8:], uint64(at.UnixMilli()))
	binary.BigEndian.PutUint64(head[16:], uint64(number))
	k.sum.Write(head[:])
	k.sum.Write(value)
	return nil
}

// digest is the SHA-256 of all keys with their own, in the keys' order.
func (s *stream) digest() string {
	names := make([]string, 0, len(s.keys))
	for name := range s.keys {
		names = append(names, name)
	}
	slices.Sort(names)
	all := sha256.New()
	for _, name := range names {
		fmt.Fprintf(all, "%d:%s", len(name), name)
		all.Write(s.keys[name].sum.Sum(nil))
	}
	return hex.EncodeToString(all.Sum(nil))
}

// differs says how out is not what in was, or nothing.
func differs(in, out *stream) error {
	if in.digest() == out.digest() {
		return nil
	}
	for name, want := range in.keys {
		got := out.keys[name]
		switch {
		case got == nil:
			return fmt.Errorf("key %q: none of its %d records came out", name, want.records)
		case got.records != want.records:
			return fmt.Errorf("key %q: got %d records, want %d", name, got.records, want.records)
		case !bytes.Equal(got.sum.Sum(nil), want.sum.Sum(nil)):
			return fmt.Errorf("key %q: got SHA-256 %x, want %x", name, got.sum.Sum(nil), want.sum.Sum(nil))
		}
	}
	return fmt.Errorf("got %d keys, want %d", len(out.keys), len(in.keys))
}

// numberHeader carries a record's place in the data set.
const numberHeader = "n"

func formatNumber(n int64) []byte { return strconv.AppendInt(nil, n, 10) }
