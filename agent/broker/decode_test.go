package broker

import (
	"encoding/binary"
	"math"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// clientKeys are the APIs that a broker's listener offers, now or later.
func clientKeys() []int16 {
	return []int16{0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33,
		34, 35, 36, 37, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 57, 60, 61, 65, 66, 74, 75}
}

func decodeAny(key, version int16, body []byte) error {
	r := &wire.Request{Key: key, Version: version, Body: body}
	if key == 0 {
		return decodeProduce(r, kmsg.NewPtrProduceRequest())
	}
	_, err := decode[kmsg.Request](r)
	return err
}

// allocated is what a decoding costs.
func allocated(key, version int16, body []byte) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	decodeAny(key, version, body)
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// claims are bodies that say they hold as many elements as their bytes could be, the array's length at each of the first
// places.
func claims(size int) [][]byte {
	var out [][]byte
	for at := range 40 {
		plain := make([]byte, size)
		binary.BigEndian.PutUint32(plain[at:], uint32(size-at-4))
		compact := make([]byte, size)
		binary.PutUvarint(compact[at:], uint64(size-at-2))
		out = append(out, plain, compact)
	}
	return out
}

// The weight that the byte budget counts with is no less than what decoding really takes.
func TestDecodingStaysWithinItsWeight(t *testing.T) {
	const size, slack = 4 << 10, 16 << 10 // the slack is of other goroutines
	bodies := claims(size)
	for _, key := range clientKeys() {
		limit := raceFactor*int64(defaultWeight)*size + slack
		if key == 0 {
			limit = 4 << 20 // scanProduce's bound, whatever the frame
		}
		req := kmsg.RequestForKey(key)
		for version := int16(0); version <= req.MaxVersion(); version++ {
			for _, body := range bodies {
				if got := allocated(key, version, body); got > limit {
					t.Fatalf("%s v%d: %d bytes of memory for %d, want at most %d", kmsg.NameForKey(key), version, got, size, limit)
				}
			}
		}
	}
}

// FuzzDecode decodes arbitrary bodies of every API and version: no panic gets out, and memory stays within the weight.
func FuzzDecode(f *testing.F) {
	for _, key := range clientKeys() {
		req := kmsg.RequestForKey(key)
		for version := int16(0); version <= req.MaxVersion(); version++ {
			req.SetVersion(version)
			f.Add(key, version, req.AppendTo(nil))
		}
	}
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		req := kmsg.RequestForKey(key)
		if req == nil || version < 0 || version > req.MaxVersion() || len(body) > math.MaxUint16 {
			return
		}
		const slack = 256 << 10
		limit := int64(2*raceFactor*defaultWeight*len(body) + slack)
		if key == 0 {
			limit = 4<<20 + slack // scanProduce's bound, whatever the frame
		}
		got := allocated(key, version, body)
		for again := 0; again < 3 && got > limit; again++ { // the fuzzer allocates, too
			got = min(got, allocated(key, version, body))
		}
		if got > limit {
			t.Errorf("%s v%d: %d bytes of memory for %d, want at most %d", kmsg.NameForKey(key), version, got, len(body), limit)
		}
	})
}
