package batch

import "math/bits"

// The CRC of A‖B follows from the CRCs of both parts: CRC(A)·x^(8·len(B)) + CRC(B) in GF(2)[x] modulo the polynomial (the
// identity behind zlib's crc32_combine). Multiplication by x^(8·2^k) is linear, so it is tabulated byte by byte for every
// k: combining costs four look-ups per set bit of the length, where hashing B again would cost a pass over B.

const (
	castagnoliPoly = 0x82f63b78 // reflected
	maxShiftBits   = 40         // lengths below 2^40 bytes
)

type shiftTable [4][256]uint32

var shifts = makeShifts()

func makeShifts() *[maxShiftBits]shiftTable {
	var t [maxShiftBits]shiftTable
	// one is multiplication by x^8, applied to the 32 basis vectors.
	var basis [32]uint32
	for i := range basis {
		v := uint32(1) << i
		for range 8 {
			v = v>>1 ^ castagnoliPoly&-(v&1)
		}
		basis[i] = v
	}
	for k := range t {
		for lane := range 4 {
			for b := range 256 {
				t[k][lane][b] = apply(&basis, uint32(b)<<(8*lane))
			}
		}
		var square [32]uint32
		for i := range square {
			square[i] = apply(&basis, basis[i])
		}
		basis = square
	}
	return &t
}

func apply(basis *[32]uint32, v uint32) (out uint32) {
	for ; v != 0; v &= v - 1 {
		out ^= basis[bits.TrailingZeros32(v)]
	}
	return out
}

// Concat is the CRC32C of A followed by B, from their sums and B's length in bytes.
func Concat(a, b uint32, lenB int64) uint32 {
	for n := uint64(lenB); n != 0; n &= n - 1 {
		t := &shifts[bits.TrailingZeros64(n)]
		a = t[0][a&0xff] ^ t[1][a>>8&0xff] ^ t[2][a>>16&0xff] ^ t[3][a>>24]
	}
	return a ^ b
}
