package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"varve.dev/objectstore"
)

// bucket is the object store as one life reaches it. A PUT whose reply is lost may take effect later, whatever became of
// the life that sent it.
type bucket struct {
	next  objectstore.Store
	w     *world
	gate  *gate
	trips *trips

	evicted atomic.Bool // local copies were dropped in this life
}

// request waits, performs one request or does not, and loses its reply or does not. late is what is left to be done behind
// a lost reply; nil: nothing.
func (b *bucket) request(ctx context.Context, verb, key string, late func(), perform func() error) error {
	p := b.w.plan
	name := strings.TrimSpace("store " + verb + " " + strings.SplitN(key, "/", 2)[0])
	fail := func(why string, err error) error { return fmt.Errorf("sim: %s %s: %s: %w", verb, key, why, err) }
	before, after := p.some("store before", 15*time.Millisecond), p.some("store after", 15*time.Millisecond)
	if hit, how := p.draw(storeSlow, name); hit {
		before += time.Duration(how * float64(14*time.Second)) // more than an attempt may take
	} else if _, on := p.rate(storeSlow); on {
		before += 300 * time.Millisecond
	}
	ended := func() error { return fail("never sent", ctx.Err()) }
	if !b.gate.pass(ctx) || !sleep(ctx, before) {
		if ctx.Err() != nil {
			return ended()
		}
		return fail("never sent", objectstore.ErrUnavailable)
	}
	if p.struck(storeDown) {
		sleep(ctx, 50*time.Millisecond)
		return fail("the store is down", objectstore.ErrUnavailable)
	}
	if hit, _ := p.draw(throttle, name); hit {
		return fail("slow down", objectstore.ErrThrottled)
	}
	if hit, how := p.draw(storeLate, name); hit && late != nil {
		p.count("PUT late")
		b.w.later(time.Duration(how*float64(5*time.Second)), late)
		return fail("the reply is lost, the object on its way", objectstore.ErrUnavailable)
	}
	var err error
	if !b.gate.pass(ctx) || !b.gate.do(func() { err = perform() }) {
		return fail("never sent", objectstore.ErrUnavailable)
	}
	b.trips.behind(name)
	if !b.gate.pass(context.Background()) || !sleep(ctx, after) {
		return fail("its sender is gone", objectstore.ErrUnavailable)
	}
	if hit, _ := p.draw(storeLost, name); hit {
		return fail("the reply is lost", objectstore.ErrUnavailable)
	}
	return err
}

func (b *bucket) Put(ctx context.Context, key string, body objectstore.Body) error {
	b.w.uploading(key, 1)
	defer b.w.uploading(key, -1)
	body, err := send(body)
	if err != nil {
		return fmt.Errorf("sim: put %s: read its body: %w", key, err)
	}
	if b.w.lie == lieStored {
		b.soon(key, body)
		return nil
	}
	late := func() {
		if err := b.next.Put(context.Background(), key, body); err == nil {
			b.w.plan.count("PUT came late")
		}
	}
	return b.request(ctx, "PUT", key, late, func() error { return b.next.Put(context.WithoutCancel(ctx), key, body) })
}

// sent is what came of a body over the wire.
type sent struct {
	objectstore.Body
	data []byte
}

func (s sent) Open() io.ReadSeeker { return bytes.NewReader(s.data) }

// send takes a body over the wire, in its own time: a life that ends meanwhile waits for no gate.
func send(body objectstore.Body) (sent, error) {
	r := body.Open()
	data, err := io.ReadAll(r)
	if c, ok := r.(io.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return sent{body, data}, err
}

// soon tells a lie: the object is stored, but only in a while, and not if the life ends before.
func (b *bucket) soon(key string, body objectstore.Body) {
	b.w.later(time.Second, func() {
		b.gate.do(func() { _ = b.next.Put(context.Background(), key, body) })
	})
}

func (b *bucket) ReadAt(ctx context.Context, key string, dst []byte, off int64) error {
	return b.request(ctx, "GET", key, nil, func() error {
		p := b.w.plan
		if hit, how := p.draw(truncate, "GET"); hit {
			p.count("body cut")
			n := int(how * float64(len(dst)))
			if err := b.next.ReadAt(ctx, key, dst[:n], off); err != nil {
				return err
			}
			return fmt.Errorf("sim: get %s: %w: %d of %d bytes: %w", key, objectstore.ErrUnavailable, n, len(dst), io.ErrUnexpectedEOF)
		}
		if err := b.next.ReadAt(ctx, key, dst, off); err != nil {
			return err
		}
		if b.evicted.Load() && !strings.HasPrefix(key, "cluster") {
			p.count("read from the store after an eviction")
		}
		if hit, how := p.draw(corrupt, "GET"); hit && len(dst) > 0 {
			p.count("body changed")
			dst[int(how*float64(len(dst)))] ^= 0x10
		}
		return nil
	})
}

func (b *bucket) Stat(ctx context.Context, key string) (info objectstore.Info, err error) {
	err = b.request(ctx, "HEAD", key, nil, func() (err error) {
		info, err = b.next.Stat(ctx, key)
		return err
	})
	return info, err
}

func (b *bucket) Delete(ctx context.Context, keys []string) error {
	return b.request(ctx, "DELETE", "", nil, func() error {
		b.w.deleting(keys)
		return b.next.Delete(ctx, keys)
	})
}

func (b *bucket) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		var infos []objectstore.Info
		err := b.request(ctx, "LIST", prefix, nil, func() error {
			for info, err := range b.next.List(ctx, prefix) {
				if err != nil {
					return err
				}
				infos = append(infos, info)
			}
			return nil
		})
		for _, info := range infos {
			if err == nil && !yield(info, nil) {
				return
			}
		}
		if err != nil {
			yield(objectstore.Info{}, err)
		}
	}
}

// deleting counts what is deleted without ever having been committed, and sees to it that nothing names it.
func (w *world) deleting(keys []string) {
	w.unnamed(keys)
	for _, key := range keys {
		w.mu.Lock()
		known := w.commits[key]
		w.mu.Unlock()
		if strings.HasPrefix(key, "wal/") && !known {
			if _, err := w.objects.Stat(context.Background(), key); !errors.Is(err, objectstore.ErrNotFound) {
				w.plan.count("orphan collected")
			}
		}
	}
}

// unnamed holds what is deleted to the rule that nothing refers to it.
func (w *world) unnamed(keys []string) {
	if w.meta == nil {
		return // a store without an index
	}
	inv, err := w.meta.Referenced(context.Background())
	if err != nil {
		w.fail("read what the index names: %w", err)
	}
	for _, o := range inv.Objects {
		if slices.Contains(keys, o.Key) {
			w.fail("%s is deleted, and the index still names it", o.Key)
		}
	}
}

var _ objectstore.Store = (*bucket)(nil)
