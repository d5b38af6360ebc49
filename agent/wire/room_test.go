package wire

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Frames of any sizes that come in part, wait, give up and end: no more than the bound is out, but for one, and all end.
func TestRoomIsBoundedAndNobodyWaitsForEver(t *testing.T) {
	const size = 1000
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			r := room{free: size}
			rng := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			var out, beyond int64
			count := func(n, last int64) {
				mu.Lock()
				defer mu.Unlock()
				if out, beyond = out+n, beyond+last; out > size || out < 0 || beyond > 1 {
					t.Errorf("seed %d: %d of %d bytes are out, %d frames beyond them", seed, out, size, beyond)
				}
			}
			var frames sync.WaitGroup
			for range 1 + rng.IntN(30) {
				total, first := 1+rng.Int64N(size), 1+rng.Int64N(100)
				start, step := time.Duration(rng.IntN(100)), time.Duration(rng.IntN(50))
				patience := time.Duration(1 + rng.IntN(2000))
				frames.Go(func() {
					time.Sleep(start)
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					var paid int64
					var last bool
					for there := min(first, total); ; there = min(2*there, total) {
						if !last {
							n := there - paid
							var err error
							if last, err = r.take(ctx, n, paid > 0); err != nil {
								break
							}
							if last {
								count(0, 1)
							} else {
								paid += n
								count(n, 0)
							}
						}
						time.Sleep(step)
						if there == total {
							break
						}
					}
					if last {
						count(-paid, -1)
					} else {
						count(-paid, 0)
					}
					r.give(paid, last)
				})
			}
			frames.Wait() // the bubble says so if nothing moves any more
			if r.free != size || r.last || r.waiting.Len() > 0 {
				t.Errorf("seed %d: at the end %d of %d are free, last %v, %d wait", seed, r.free, size, r.last, r.waiting.Len())
			}
		})
	}
}

// Nobody has patience's end here: frames that hold all of the room in parts come to their end, one beyond the bound.
func TestFramesThatHoldTheRoomInPartsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{MaxInFlightBytes: 8 << 20})
		body := strings.Repeat("x", 5<<20)
		for i := range int32(6) { // each waits at 2 or 4 MiB for its rest: together they take six
			c := f.dial()
			go func() {
				for rest := frame(produceKey, 3, i, "", body); len(rest) > 0; time.Sleep(time.Millisecond) {
					n := min(len(rest), 64<<10)
					c.Write(rest[:n])
					rest = rest[n:]
				}
			}()
		}
		time.Sleep(time.Second)
		for range 6 {
			if r := f.next(); len(r.lent) < len(body) {
				t.Errorf("a body of %d bytes", len(r.lent))
			}
		}
	})
}

func TestWhoClaimsMuchAndSendsLittleHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, Config{MaxInFlightBytes: 64 << 20})
		for range 20 {
			claim := frame(produceKey, 3, 1, "", strings.Repeat("x", 2*firstGrowth))
			binary.BigEndian.PutUint32(claim, MaxFrame)
			send(t, f.dial(), claim)
		}
		began := time.Now()
		send(t, f.dial(), frame(produceKey, 3, 2, "", strings.Repeat("x", 20<<20)))
		if r := f.next(); r.Correlation != 2 || time.Since(began) > 0 {
			t.Errorf("request %d was read after %v", r.Correlation, time.Since(began))
		}
	})
}
