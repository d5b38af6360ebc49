package s3api

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"varve.dev/objectstore"
)

func TestUploadReadsAsAReaderShould(t *testing.T) {
	data := make([]byte, 10_000)
	for i := range data {
		data[i] = byte(i * 7)
	}
	if err := iotest.TestReader(NewUpload(objectstore.NewBytes(data), false), data); err != nil {
		t.Error(err)
	}
	// SDKs seek to learn the size, and to begin again.
	u := NewUpload(objectstore.NewBytes(data), true)
	for range 2 {
		for _, whence := range []int{io.SeekEnd, io.SeekStart} {
			if _, err := u.Seek(0, whence); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := io.ReadAll(iotest.HalfReader(u)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("verified: got %d bytes, %v", len(got), err)
		}
	}
}

func TestUploadIsSilentAfterEnd(t *testing.T) {
	u := NewUpload(objectstore.NewBytes([]byte("abcdef")), true)
	if _, err := io.ReadFull(u, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := u.End(); err != nil {
		t.Fatal(err)
	}
	if n, err := u.Read(make([]byte, 3)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("a read in the middle after End: got %d, %v", n, err)
	}
	if _, err := u.Seek(0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if n, err := u.Read(make([]byte, 3)); n != 0 || err != io.EOF {
		t.Errorf("a read at the end after End: got %d, %v, want EOF", n, err)
	}
}

func TestUploadThatWasReadFromTheMiddleIsNotVerified(t *testing.T) {
	u := NewUpload(objectstore.NewBytes([]byte("abcdef")), true)
	if _, err := u.Seek(3, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(u); !errors.Is(err, objectstore.ErrChecksum) {
		t.Errorf("got %v, want ErrChecksum", err)
	}
}

func TestCRC32CHeader(t *testing.T) {
	// RFC 3720 B.4: 32 bytes of zeros.
	body := objectstore.NewBytes(make([]byte, 32))
	if got := EncodeCRC32C(body.CRC32C()); got != "ipE2qg==" {
		t.Errorf("got %q, want ipE2qg==", got)
	}
	if got, ok := DecodeCRC32C("ipE2qg=="); !ok || got != body.CRC32C() {
		t.Errorf("got %08x, %t", got, ok)
	}
	for _, header := range []string{"", "ipE2qg==-2", "ipE2", "ipE2qg", "not base64!"} {
		if sum, ok := DecodeCRC32C(header); ok {
			t.Errorf("%q was read as %08x", header, sum)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, seed := range []string{"bytes 0-9/10", "bytes 5-9/*", "bytes 9-5/10", "bytes */10", "bytes 0-9223372036854775807/*", "bytes -1-2/3", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		first, last, total, ok := parseContentRange(header)
		if ok && (first < 0 || last < first || total >= 0 && last >= total) {
			t.Errorf("%q was read as %d-%d/%d", header, first, last, total)
		}
	})
}

func FuzzCRC32CHeader(f *testing.F) {
	f.Add("ipE2qg==")
	f.Add("ipE2qg==-2")
	f.Add("00000A==\r")
	f.Fuzz(func(t *testing.T, header string) {
		if sum, ok := DecodeCRC32C(header); ok && EncodeCRC32C(sum) != header {
			t.Errorf("%q and %q are read as the same sum", header, EncodeCRC32C(sum))
		}
	})
}
