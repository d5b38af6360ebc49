package objectstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
)

// Findings is what Probe learned about a store. A false is a property that a store lacks, not a failure.
type Findings struct {
	// ConditionalPut: a second put of a key was refused.
	ConditionalPut bool
	// ChecksumOnPut: bytes that do not match their CRC32C were refused. Where false, the driver must hash for itself
	// (VerifyLocally).
	ChecksumOnPut bool
	// ChecksumOnStat: Stat told the CRC32C that was sent.
	ChecksumOnStat bool
	// Deletes: a deleted object was gone at once.
	Deletes bool
}

// Probe finds out by seven requests under prefix which promises a store keeps. It returns an error only if a
// request that any store must answer failed. What it writes it deletes again, and what a killed probe under the same prefix
// left behind: no two may run under one prefix at a time.
func Probe(ctx context.Context, s Store, prefix string) (Findings, error) {
	var found Findings
	key := prefix + "probe"
	good, other := NewBytes([]byte("first")), NewBytes([]byte("other"))

	err := putAnew(ctx, s, key, good)
	if errors.Is(err, ErrExists) { // a store where what is deleted stays for a while
		key = prefix + "probe-" + rand.Text()
		err = s.Put(ctx, key, good)
	}
	if err != nil {
		return found, fmt.Errorf("probe: %w", err)
	}
	if err := s.Put(ctx, key, other); err != nil && !errors.Is(err, ErrExists) {
		return found, fmt.Errorf("probe a second put: %w", err)
	} else {
		found.ConditionalPut = err != nil
	}
	stored := good
	if !found.ConditionalPut {
		stored = other
	}
	info, err := s.Stat(ctx, key)
	if err != nil {
		return found, fmt.Errorf("probe: %w", err)
	}
	found.ChecksumOnStat = info.HasCRC32C && info.CRC32C == stored.CRC32C()
	got := make([]byte, stored.Size())
	if err := s.ReadAt(ctx, key, got, 0); err != nil {
		return found, fmt.Errorf("probe: %w", err)
	}
	if string(got) != string(stored.data) {
		return found, &SetupError{
			Problem: fmt.Sprintf("the object store returned %q where %q was stored", got, stored.data),
			Hint:    "it is not a store that can be trusted with data; check what stands behind the endpoint",
		}
	}
	wrong := key + "-wrong"
	if err := putAnew(ctx, s, wrong, Bytes{good.data, good.crc + 1}); err != nil && !errors.Is(err, ErrChecksum) {
		return found, fmt.Errorf("probe a wrong checksum: %w", err)
	} else {
		found.ChecksumOnPut = err != nil
	}
	if err := s.Delete(ctx, []string{key, wrong}); err != nil {
		return found, fmt.Errorf("probe: %w", err)
	}
	_, err = s.Stat(ctx, key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return found, fmt.Errorf("probe: %w", err)
	}
	found.Deletes = err != nil
	return found, nil
}

// putAnew puts in the place of what a killed probe left behind.
func putAnew(ctx context.Context, s Store, key string, body Body) error {
	err := s.Put(ctx, key, body)
	if !errors.Is(err, ErrExists) {
		return err
	}
	if err := s.Delete(ctx, []string{key}); err != nil {
		return err
	}
	return s.Put(ctx, key, body)
}
