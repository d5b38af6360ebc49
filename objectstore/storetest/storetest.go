// Package storetest is the one suite that every driver of objectstore.Store passes, and the one that holds the S3 drivers to their cost.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"varve.dev/objectstore"
)

// Traits are what stores may differ in.
type Traits struct {
	// RefusesWrongChecksum: a body whose CRC32C is not what it says is refused with ErrChecksum.
	RefusesWrongChecksum bool
	// RefusesFolders: no key may be the folder of another.
	RefusesFolders bool
	// ListsByPart: a listing compares keys part by part, so that "a/1" stands before "a-b". SeaweedFS does; S3 compares
	// bytes. Our own keys are made so that both give the same order.
	ListsByPart bool
	// AnyRegion: the store does not look at the region that a request was signed for.
	AnyRegion bool
}

// Run holds a store to the contract of objectstore.Store. The store may hold other objects: the suite works under a
// random prefix and deletes what it wrote.
func Run(t *testing.T, open func(t *testing.T) objectstore.Store, traits Traits) {
	cases := []struct {
		name string
		test func(*suite)
	}{
		{"a stored object is read back", (*suite).roundTrip},
		{"an object of no bytes exists", (*suite).empty},
		{"ranges fill the caller's buffer and nothing else", (*suite).ranges},
		{"a range beyond the end is an error", (*suite).beyondEnd},
		{"an object of 9 MiB in odd pieces", (*suite).big},
		{"a taken key is not overwritten", (*suite).conditional},
		{"of many racing puts one wins", (*suite).race},
		{"what is missing is not found", (*suite).missing},
		{"delete removes, and what is missing is no error", (*suite).delete},
		{"delete takes more than 1,000 keys", (*suite).deleteMany},
		{"list yields all in order of key", (*suite).list},
		{"list crosses pages and can be stopped", (*suite).listPages},
		{"invalid keys are refused everywhere", (*suite).keys},
		{"a cancelled context ends every call", (*suite).cancelled},
		{"a body whose reader fails stores nothing", (*suite).brokenBody},
		{"a body with the wrong checksum is refused", (*suite).wrongChecksum},
		{"a body is not read after put returned, and closed", (*suite).bodyEnds},
		{"a key is not the folder of another", (*suite).folders},
		{"probe finds the promises kept", (*suite).probe},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := &suite{T: t, store: open(t), traits: traits, prefix: "t-" + strings.ToLower(rand.Text()[:12]) + "/"}
			t.Cleanup(s.clean)
			c.test(s)
		})
	}
}

type suite struct {
	*testing.T
	store  objectstore.Store
	traits Traits
	prefix string
}

func (s *suite) clean() {
	// The test's own context has ended.
	ctx := context.Background()
	var keys []string
	for info, err := range s.store.List(ctx, s.prefix) {
		if err != nil {
			s.Errorf("list for cleaning up: %v", err)
			return
		}
		keys = append(keys, info.Key)
	}
	if err := s.store.Delete(ctx, keys); err != nil {
		s.Errorf("clean up: %v", err)
	}
}

func (s *suite) key(name string) string { return s.prefix + name }

func (s *suite) put(name string, body objectstore.Body) {
	s.Helper()
	if err := s.store.Put(s.Context(), s.key(name), body); err != nil {
		s.Fatalf("put %s: %v", name, err)
	}
}

func (s *suite) wantBytes(name string, off int64, want []byte) {
	s.Helper()
	got := make([]byte, len(want))
	if err := s.store.ReadAt(s.Context(), s.key(name), got, off); err != nil {
		s.Fatalf("read %s at %d: %v", name, off, err)
	}
	if !bytes.Equal(got, want) {
		s.Fatalf("read %s at %d: got other bytes than were stored", name, off)
	}
}

func (s *suite) wantErr(what string, err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// wantRefused is for large bodies and for racers: the refusal may be hidden behind a broken connection or a conflict.
func (s *suite) wantRefused(what string, err error) {
	s.Helper()
	if !errors.Is(err, objectstore.ErrUnavailable) {
		s.wantErr(what, err, objectstore.ErrExists)
	}
}

func (s *suite) wantMissing(name string) {
	s.Helper()
	_, err := s.store.Stat(s.Context(), s.key(name))
	s.wantErr("stat "+name, err, objectstore.ErrNotFound)
}

func (s *suite) listed(prefix string) []string {
	s.Helper()
	var keys []string
	for info, err := range s.store.List(s.Context(), s.key(prefix)) {
		if err != nil {
			s.Fatalf("list %q: %v", prefix, err)
		}
		keys = append(keys, strings.TrimPrefix(info.Key, s.prefix))
	}
	return keys
}

func (s *suite) roundTrip() {
	body := NewRope(1, 100_000, 777)
	s.put("wal/aa/1-x.0", body)
	s.wantBytes("wal/aa/1-x.0", 0, body.Bytes())
	info, err := s.store.Stat(s.Context(), s.key("wal/aa/1-x.0"))
	if err != nil {
		s.Fatal(err)
	}
	if info.Key != s.key("wal/aa/1-x.0") || info.Size != 100_000 {
		s.Errorf("stat: got %q with %d bytes, want %q with 100000", info.Key, info.Size, s.key("wal/aa/1-x.0"))
	}
	if info.HasCRC32C && info.CRC32C != body.Sum {
		s.Errorf("stat: got CRC32C %08x, want %08x", info.CRC32C, body.Sum)
	}
	if s.traits.RefusesWrongChecksum && !info.HasCRC32C {
		s.Errorf("a store that checks sums does not tell them")
	}
}

func (s *suite) empty() {
	s.put("empty", objectstore.NewBytes(nil))
	info, err := s.store.Stat(s.Context(), s.key("empty"))
	if err != nil || info.Size != 0 {
		s.Errorf("stat: got %d bytes and %v, want 0 and no error", info.Size, err)
	}
	if err := s.store.ReadAt(s.Context(), s.key("empty"), nil, 0); err != nil {
		s.Errorf("read nothing: %v", err)
	}
	s.wantErr("read a byte", s.store.ReadAt(s.Context(), s.key("empty"), make([]byte, 1), 0), objectstore.ErrRange)
	s.wantErr("put again", s.store.Put(s.Context(), s.key("empty"), objectstore.NewBytes(nil)), objectstore.ErrExists)
}

func (s *suite) ranges() {
	body := NewRope(2, 10_000, 4096)
	s.put("ranges", body)
	all := body.Bytes()
	for _, r := range [][2]int{{0, 1}, {9_999, 1}, {1, 9_999}, {0, 10_000}, {4_095, 2}, {5_000, 0}, {10_000, 0}} {
		off, n := r[0], r[1]
		around := bytes.Repeat([]byte{0xEE}, n+2)
		if err := s.store.ReadAt(s.Context(), s.key("ranges"), around[1:n+1:n+1], int64(off)); err != nil {
			s.Fatalf("read %d+%d: %v", off, n, err)
		}
		if !bytes.Equal(around[1:n+1], all[off:off+n]) {
			s.Errorf("read %d+%d: got other bytes than were stored", off, n)
		}
		if around[0] != 0xEE || around[n+1] != 0xEE {
			s.Errorf("read %d+%d: wrote outside the buffer", off, n)
		}
	}
}

func (s *suite) beyondEnd() {
	s.put("short", objectstore.NewBytes(make([]byte, 100)))
	for _, r := range [][2]int{{100, 1}, {99, 2}, {0, 101}, {1_000, 10}, {101, 0}, {-1, 1}} {
		err := s.store.ReadAt(s.Context(), s.key("short"), make([]byte, r[1]), int64(r[0]))
		s.wantErr(fmt.Sprintf("read %d+%d of 100", r[0], r[1]), err, objectstore.ErrRange)
	}
}

func (s *suite) big() {
	body := NewRope(3, 9<<20+13, 1<<20-7)
	s.put("seg/big", body)
	s.wantBytes("seg/big", 0, body.Bytes())
	s.wantBytes("seg/big", 8<<20-5, body.Bytes()[8<<20-5:])
}

func (s *suite) conditional() {
	first := NewRope(4, 1000, 100)
	s.put("taken", first)
	for _, other := range []objectstore.Body{NewRope(5, 1000, 100), first} {
		s.wantErr("second put", s.store.Put(s.Context(), s.key("taken"), other), objectstore.ErrExists)
	}
	s.wantRefused("second put of 3 MiB", s.store.Put(s.Context(), s.key("taken"), NewRope(6, 3<<20, 1<<20)))
	s.wantBytes("taken", 0, first.Bytes())
}

func (s *suite) race() {
	const rounds, racers = 4, 8
	for round := range rounds {
		key := s.key(fmt.Sprintf("race/%d", round))
		results := make([]error, racers)
		bodies := make([]Rope, racers)
		var wg sync.WaitGroup
		for i := range racers {
			bodies[i] = NewRope(uint64(100+i), 50_000, 8192)
			wg.Go(func() { results[i] = s.store.Put(s.Context(), key, bodies[i]) })
		}
		wg.Wait()
		winner := -1
		for i, err := range results {
			if err == nil && winner >= 0 {
				s.Fatalf("round %d: racers %d and %d both won", round, winner, i)
			}
			if err == nil {
				winner = i
			} else {
				s.wantRefused("racer", err)
			}
		}
		if winner < 0 {
			s.Fatalf("round %d: nobody won: %v", round, errors.Join(results...))
		}
		s.wantBytes(strings.TrimPrefix(key, s.prefix), 0, bodies[winner].Bytes())
	}
}

func (s *suite) missing() {
	s.wantMissing("nothing/here")
	s.wantErr("read", s.store.ReadAt(s.Context(), s.key("nothing/here"), make([]byte, 4), 0), objectstore.ErrNotFound)
	s.wantErr("read nothing", s.store.ReadAt(s.Context(), s.key("nothing/here"), nil, 0), objectstore.ErrNotFound)
	if keys := s.listed("nothing/"); len(keys) != 0 {
		s.Errorf("list: got %q, want nothing", keys)
	}
}

func (s *suite) delete() {
	s.put("gone/a", objectstore.NewBytes([]byte("a")))
	s.put("gone/b", objectstore.NewBytes([]byte("b")))
	s.put("stays", objectstore.NewBytes([]byte("c")))
	if err := s.store.Delete(s.Context(), []string{s.key("gone/a"), s.key("never/was"), s.key("gone/b")}); err != nil {
		s.Fatal(err)
	}
	s.wantMissing("gone/a")
	s.wantMissing("gone/b")
	s.wantBytes("stays", 0, []byte("c"))
	if err := s.store.Delete(s.Context(), []string{s.key("gone/a")}); err != nil {
		s.Errorf("delete again: %v", err)
	}
	if err := s.store.Delete(s.Context(), nil); err != nil {
		s.Errorf("delete nothing: %v", err)
	}
	if keys := s.listed(""); !slices.Equal(keys, []string{"stays"}) {
		s.Errorf("list: got %q, want only %q", keys, "stays")
	}
}

func (s *suite) fill(count int) []string {
	s.Helper()
	var names []string
	for i := range count {
		names = append(names, fmt.Sprintf("many/%02x/%04d", i%16, i))
	}
	slices.Sort(names)
	work := make(chan string)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for name := range work {
				if err := s.store.Put(s.Context(), s.key(name), objectstore.NewBytes([]byte(name))); err != nil {
					s.Errorf("put %s: %v", name, err)
				}
			}
		})
	}
	for _, name := range names {
		work <- name
	}
	close(work)
	wg.Wait()
	return names
}

func (s *suite) deleteMany() {
	names := s.fill(30)
	var keys []string
	for i := range objectstore.MaxDeleteKeys + 100 { // the real ones stand first and last
		keys = append(keys, s.key(fmt.Sprintf("never/%04d", i)))
	}
	for i, name := range names {
		keys[[]int{i, len(keys) - 1 - i}[i%2]] = s.key(name)
	}
	if err := s.store.Delete(s.Context(), keys); err != nil {
		s.Fatal(err)
	}
	if left := s.listed(""); len(left) != 0 {
		s.Errorf("left after delete: %q", left)
	}
}

func (s *suite) list() {
	names := []string{"a-b/1", "a.b", "a/1", "a/2/3", "a0", "b", "B/x", "ab/1", "ab/1-2"}
	for i, name := range names {
		s.put(name, objectstore.NewBytes(make([]byte, i)))
	}
	for _, prefix := range []string{"", "a", "a/", "a/2", "ab/1", "B", "none"} {
		want := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, prefix) })
		slices.SortFunc(want, s.traits.compare)
		if got := s.listed(prefix); !slices.Equal(got, want) {
			s.Errorf("list %q:\n got %q\nwant %q", prefix, got, want)
		}
	}
	for info := range s.store.List(s.Context(), s.prefix) {
		name := strings.TrimPrefix(info.Key, s.prefix)
		if want := int64(slices.Index(names, name)); info.Size != want {
			s.Errorf("list: %s has %d bytes, want %d", name, info.Size, want)
		}
	}
}

func (t Traits) compare(a, b string) int {
	if t.ListsByPart {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	}
	return strings.Compare(a, b)
}

func (s *suite) listPages() {
	names := s.fill(1010)
	if got := s.listed("many/"); !slices.Equal(got, names) {
		s.Errorf("list: got %d keys, want %d in order", len(got), len(names))
	}
	n := 0
	for range s.store.List(s.Context(), s.prefix) {
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		s.Errorf("list stopped after %d, want 3", n)
	}
}

func (s *suite) keys() {
	bad := []string{
		"", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "./a", "a b", "ä", "a\\b", "a\x00b", "a+b", "~tmp/a", "a\n",
		strings.Repeat("x", 256), "a/" + strings.Repeat("x", 256), strings.Repeat("0123456789abcde/", 64) + "x",
	}
	for _, key := range bad {
		what := fmt.Sprintf("key %.40q", key)
		s.wantErr(what+": put", s.store.Put(s.Context(), key, objectstore.NewBytes(nil)), objectstore.ErrKey)
		s.wantErr(what+": read", s.store.ReadAt(s.Context(), key, make([]byte, 1), 0), objectstore.ErrKey)
		_, err := s.store.Stat(s.Context(), key)
		s.wantErr(what+": stat", err, objectstore.ErrKey)
		s.wantErr(what+": delete", s.store.Delete(s.Context(), []string{s.key("ok"), key}), objectstore.ErrKey)
	}
	for _, name := range []string{strings.Repeat("x", 255), "A-Z_a.z-0.9", "...", ".x/x.", "a/b/c/d/e/f/g"} {
		s.put(name, objectstore.NewBytes([]byte(name)))
		s.wantBytes(name, 0, []byte(name))
	}
}

func (s *suite) cancelled() {
	s.put("there", objectstore.NewBytes([]byte("x")))
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	s.wantErr("put", s.store.Put(ctx, s.key("c"), NewRope(7, 1<<20, 1<<16)), context.Canceled)
	s.wantErr("read", s.store.ReadAt(ctx, s.key("there"), make([]byte, 1), 0), context.Canceled)
	_, err := s.store.Stat(ctx, s.key("there"))
	s.wantErr("stat", err, context.Canceled)
	s.wantErr("delete", s.store.Delete(ctx, []string{s.key("there")}), context.Canceled)
	var last error
	for _, err := range s.store.List(ctx, s.prefix) {
		last = err
	}
	s.wantErr("list", last, context.Canceled)
	s.wantBytes("there", 0, []byte("x"))
}

func (s *suite) brokenBody() {
	for _, after := range []int64{0, 1, 300_000} {
		body := broken{NewRope(8, 1<<20, 1<<16), after}
		s.wantErr(fmt.Sprintf("reader that fails after %d", after), s.store.Put(s.Context(), s.key("broken"), body), errBroken)
		s.wantMissing("broken")
	}
	full := NewRope(9, 5000, 999)
	if err := s.store.Put(s.Context(), s.key("broken"), lying{full, full.Sum, 6000}); err == nil {
		s.Error("a body that ends early was stored")
	}
	s.wantMissing("broken")
	// The key is as free as before.
	s.put("broken", full)
	s.wantBytes("broken", 0, full.Bytes())
}

func (s *suite) wrongChecksum() {
	if !s.traits.RefusesWrongChecksum {
		s.Skip("this store ignores checksums")
	}
	for _, size := range []int64{0, 10, 2 << 20} {
		body := NewRope(10, int(size), 1<<16)
		err := s.store.Put(s.Context(), s.key("wrong"), lying{body, body.Sum ^ 1, size})
		s.wantErr(fmt.Sprintf("%d bytes", size), err, objectstore.ErrChecksum)
		s.wantMissing("wrong")
	}
}

func (s *suite) bodyEnds() {
	body := watch(NewRope(11, 4<<20, 1<<20))
	for i := range 2 { // the second is refused, perhaps early
		err := s.store.Put(s.Context(), s.key("watched"), body)
		body.returned.Store(true)
		if i == 0 && err != nil {
			s.Fatal(err)
		} else if i == 1 {
			s.wantRefused("second put", err)
		}
		if n := body.open.Load(); n != 0 {
			s.Errorf("%d readers were not closed", n)
		}
		body.returned.Store(false)
	}
	if n := body.late.Load(); n != 0 {
		s.Errorf("the body was read %d times after put returned", n)
	}
}

func (s *suite) folders() {
	if !s.traits.RefusesFolders {
		s.Skip("this store allows it")
	}
	s.put("f/file", objectstore.NewBytes([]byte("1")))
	for _, name := range []string{"f", "f/file/below"} {
		err := s.store.Put(s.Context(), s.key(name), objectstore.NewBytes([]byte("2")))
		if err == nil || objectstore.Outcome(err) != "error" {
			s.Errorf("put %s beside f/file: got %v, want an error that is not retried", name, err)
		}
		s.wantMissing(name)
	}
	s.wantBytes("f/file", 0, []byte("1"))
}

func (s *suite) probe() {
	found, err := objectstore.Probe(s.Context(), s.store, s.prefix)
	if err != nil {
		s.Fatal(err)
	}
	want := objectstore.Findings{ConditionalPut: true, ChecksumOnPut: s.traits.RefusesWrongChecksum, ChecksumOnStat: s.traits.RefusesWrongChecksum, Deletes: true}
	if found != want {
		s.Errorf("got %+v, want %+v", found, want)
	}
	if left := s.listed(""); len(left) != 0 {
		s.Errorf("left behind: %q", left)
	}
}
