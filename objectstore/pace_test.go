package objectstore_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"varve.dev/objectstore"
)

func TestPace(t *testing.T) {
	const second, rate = time.Second, 4 << 20
	took := func(f func()) time.Duration {
		began := time.Now()
		f()
		return time.Since(began)
	}
	synctest.Test(t, func(t *testing.T) {
		var p objectstore.Pace
		if got := took(func() { p.Take(t.Context(), 1<<30) }); got != 0 {
			t.Errorf("without a rate it waits %s", got)
		}
		p = objectstore.Pace{Rate: rate}
		steady := func(seconds int) func() {
			return func() {
				for range seconds * rate >> 16 {
					p.Take(t.Context(), 1<<16)
				}
			}
		}
		if got := took(steady(10)); got < 9*second || got > 10*second {
			t.Errorf("ten seconds' bytes take %s", got)
		}
		time.Sleep(time.Minute)
		if got := took(steady(10)); got < 9*second {
			t.Errorf("after a minute's rest ten seconds' bytes take %s: the past is made up for", got)
		}
		over, end := context.WithCancel(t.Context())
		end()
		if got := took(func() { p.Take(over, 100<<20); p.Take(over, 100<<20) }); got != 0 {
			t.Errorf("when its context has ended it waits %s", got)
		}
	})
}

func TestAPacedBodyIsTheSameBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := make([]byte, 10<<20)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		plain := objectstore.NewBytes(data)
		body := objectstore.Paced(plain, 2<<20)
		if body.Size() != plain.Size() || body.CRC32C() != plain.CRC32C() {
			t.Errorf("%d bytes with CRC32C %08x", body.Size(), body.CRC32C())
		}
		began := time.Now()
		r := body.Open()
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if took := time.Since(began); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("five seconds' bytes took %s", took)
		}
		if _, err := r.Seek(-3, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[len(data)-3:]) {
			t.Errorf("after a seek: %v, %v", got, err)
		}
	})
}

// closing is a body whose reader has to be closed.
type closing struct {
	objectstore.Body
	closed *bool
}

type closer struct {
	io.ReadSeeker
	closed *bool
}

func (c closing) Open() io.ReadSeeker { return closer{c.Body.Open(), c.closed} }
func (c closer) Close() error         { *c.closed = true; return nil }

func TestAPacedReaderIsClosed(t *testing.T) {
	var closed bool
	r := objectstore.Paced(closing{objectstore.NewBytes(nil), &closed}, 1).Open()
	if err := r.(io.Closer).Close(); err != nil || !closed {
		t.Errorf("closed: %v, %v", closed, err)
	}
	if err := objectstore.Paced(objectstore.NewBytes(nil), 1).Open().(io.Closer).Close(); err != nil {
		t.Errorf("nothing to close: %v", err)
	}
}
