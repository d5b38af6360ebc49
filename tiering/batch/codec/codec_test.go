package codec_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"varve.dev/tiering/batch/codec"
)

var all = []codec.Codec{codec.None, codec.Gzip, codec.Snappy, codec.LZ4, codec.Zstd}

// sample is n bytes, half of them compressible.
func sample(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		if i/512%2 == 0 {
			b[i] = byte(r.Uint32())
		}
	}
	return b
}

func TestWhatIsCompressedComesBack(t *testing.T) {
	for _, c := range all {
		for _, n := range []int{0, 1, 100, 32 << 10, 32<<10 + 1, 1 << 20, 5<<20 + 3} {
			src := sample(n)
			z, err := codec.Compress(c, src)
			if err != nil {
				t.Fatal(c, n, err)
			}
			got, err := codec.Decompress(c, z, n)
			if err != nil || !bytes.Equal(got, src) {
				t.Errorf("%s, %d bytes: %d came back, %v", c, n, len(got), err)
			}
			if n == 0 {
				continue
			}
			if _, err := codec.Decompress(c, z, n-1); !errors.Is(err, codec.ErrTooLarge) {
				t.Errorf("%s, %d bytes with a bound of %d: %v, want ErrTooLarge", c, n, n-1, err)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range all {
		if got, ok := codec.Parse(c.String()); !ok || got != c {
			t.Errorf("%s: %s, %v", c, got, ok)
		}
	}
	if c, ok := codec.Parse("uncompressed"); !ok || c != codec.None {
		t.Errorf("uncompressed: %s, %v", c, ok)
	}
	for _, name := range []string{"producer", "", "ZSTD", "codec(5)"} {
		if _, ok := codec.Parse(name); ok {
			t.Errorf("%q is taken for a codec", name)
		}
	}
	if got := codec.Codec(7).String(); got != "codec(7)" {
		t.Errorf("codec 7 is called %q", got)
	}
}

func TestUnknownCodecs(t *testing.T) {
	for c := codec.Codec(5); c < 8; c++ {
		if _, err := codec.Decompress(c, []byte("x"), 10); !errors.Is(err, codec.ErrCorrupt) {
			t.Errorf("decompress %s: %v", c, err)
		}
		if _, err := codec.Compress(c, []byte("x")); err == nil {
			t.Errorf("compress %s: no error", c)
		}
	}
}

// The oracle is klauspost's snappy: one raw block, as librdkafka and franz-go write it.
func TestRawSnappyAgreesWithTheOracle(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		src := rapid.SliceOfN(rapid.ByteRange(0, 3), 0, 5000).Draw(r, "content")
		got, err := codec.Decompress(codec.Snappy, snappy.Encode(nil, src), len(src))
		if err != nil || !bytes.Equal(got, src) {
			r.Fatalf("%d bytes: %d came back, %v", len(src), len(got), err)
		}
	})
}

// What we write is xerial's framing: the oracle decodes each block.
func TestXerialBlocksAgreeWithTheOracle(t *testing.T) {
	src := sample(100 << 10)
	z, err := codec.Compress(codec.Snappy, src)
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}, 0, 0, 0, 1, 0, 0, 0, 1); !bytes.HasPrefix(z, want) {
		t.Fatalf("header % x, want % x", z[:16], want)
	}
	var got []byte
	for rest := z[16:]; len(rest) > 0; {
		n := binary.BigEndian.Uint32(rest)
		block, err := snappy.Decode(nil, rest[4:4+n])
		if err != nil {
			t.Fatal(err)
		}
		got, rest = append(got, block...), rest[4+n:]
	}
	if !bytes.Equal(got, src) {
		t.Error("the oracle reads something else")
	}
}

func TestDamagedSnappy(t *testing.T) {
	xerial := []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1}
	with := func(parts ...[]byte) []byte { return bytes.Join(append([][]byte{xerial}, parts...), nil) }
	cases := []struct {
		name string
		src  []byte
		want error
	}{
		{"nothing", nil, codec.ErrCorrupt},
		{"a header that is cut", xerial[:15], codec.ErrCorrupt},
		{"a block length that is cut", with([]byte{0, 0, 0}), codec.ErrCorrupt},
		{"a block that is cut", with([]byte{0, 0, 0, 9, 1}), codec.ErrCorrupt},
		{"a negative block length", with([]byte{0xff, 0xff, 0xff, 0xff}), codec.ErrCorrupt},
		{"an empty block", with([]byte{0, 0, 0, 0}), codec.ErrCorrupt},
		{"a block that claims 4 GiB", binary.AppendUvarint(nil, 1<<32-1), codec.ErrTooLarge},
		{"a block that claims more than its bytes can make", append(binary.AppendUvarint(nil, 1<<19), 0, 0), codec.ErrCorrupt},
		{"garbage", []byte{5, 0xff, 0xff, 0xff}, codec.ErrCorrupt},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := codec.Decompress(codec.Snappy, c.src, 1<<20); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// Blocks of a xerial stream share one bound.
func TestXerialBlocksShareOneBound(t *testing.T) {
	z, err := codec.Compress(codec.Snappy, make([]byte, 64<<10))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := codec.Decompress(codec.Snappy, z, 33<<10); !errors.Is(err, codec.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

func TestCutStreams(t *testing.T) {
	src := sample(3000)
	for _, c := range all[1:] {
		z, err := codec.Compress(c, src)
		if err != nil {
			t.Fatal(err)
		}
		for n := range z {
			got, err := codec.Decompress(c, z[:n], 1<<20)
			if err == nil && !bytes.Equal(got, src) {
				// xerial's blocks end anywhere between two of them: who reads the records finds out.
				if c != codec.Snappy || !bytes.HasPrefix(src, got) {
					t.Errorf("%s cut to %d of %d: %d bytes and no error", c, n, len(z), len(got))
				}
			}
			if err != nil && !errors.Is(err, codec.ErrCorrupt) {
				t.Errorf("%s cut to %d: %v, want ErrCorrupt", c, n, err)
			}
		}
	}
}

// Strong encoders that do not know the size beforehand ask for large windows: they are taken, up to a bound.
func TestZstdWindows(t *testing.T) {
	for window, ok := range map[int]bool{1 << 20: true, 128 << 20: true, 256 << 20: false} {
		var buf bytes.Buffer
		w, err := zstd.NewWriter(&buf, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // written in parts and flushed, so that the size is not known
			if _, err := w.Write(sample(200 << 10)); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := codec.Decompress(codec.Zstd, buf.Bytes(), 1<<20)
		if ok && (err != nil || len(got) != 600<<10) || !ok && !errors.Is(err, codec.ErrCorrupt) {
			t.Errorf("window of %d MiB: %d bytes, %v; want ok=%v", window>>20, len(got), err, ok)
		}
	}
}

// maxOverhead is what a decoder may take beside its output: zstd's largest window and its buffers.
const maxOverhead = 132 << 20

func FuzzDecompress(f *testing.F) {
	for _, c := range all {
		for _, n := range []int{0, 10, 3000} {
			z, err := codec.Compress(c, sample(n))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(c), z)
		}
	}
	f.Add(uint8(codec.Snappy), snappy.Encode(nil, sample(100)))
	f.Fuzz(func(t *testing.T, c uint8, src []byte) {
		const bound = 1 << 16
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := codec.Decompress(codec.Codec(c), src, bound)
		runtime.ReadMemStats(&after)
		if len(got) > bound {
			t.Fatalf("%d bytes came out of a bound of %d", len(got), bound)
		}
		if err != nil && !errors.Is(err, codec.ErrCorrupt) && !errors.Is(err, codec.ErrTooLarge) {
			t.Fatalf("an error of its own: %v", err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > maxOverhead+4*bound {
			t.Fatalf("%d bytes were allocated for %d bytes of %s", used, len(src), codec.Codec(c))
		}
	})
}
