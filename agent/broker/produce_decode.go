package broker

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// maxProduceElements bounds topics, partitions and tags of one Produce request. Its frames may be as large as Kafka's, so
// no cap on them bounds what decoding allocates: this does, to some 4 MiB.
const maxProduceElements = 20_000

// decodeProduce decodes a Produce request into req. Names and records stay slices of the connection's buffer: what outlives
// the handler is copied.
func decodeProduce(r *wire.Request, req *kmsg.ProduceRequest) (err error) {
	if err := scanProduce(r.Version, r.Body); err != nil {
		return fmt.Errorf("Produce version %d: %w", r.Version, err)
	}
	defer func() {
		if p := recover(); p != nil { // kmsg is generated and large
			err = fmt.Errorf("Produce version %d: decoding panicked: %v", r.Version, p)
		}
	}()
	req.SetVersion(r.Version)
	if err := req.UnsafeReadFrom(r.Body); err != nil {
		return fmt.Errorf("Produce version %d: %w", r.Version, err)
	}
	return nil
}

// scanProduce walks over a body without allocating and counts what it is made of.
func scanProduce(version int16, body []byte) error {
	s := produceScan{flexible: version >= 9}
	s.in.Src = body
	s.skip(s.stringLen()) // transactional id
	s.skip(2 + 4)         // acks, timeout
	for range s.count() {
		if version >= 13 {
			s.skip(16) // topic id
		} else {
			s.skip(s.stringLen())
		}
		for range s.count() {
			s.skip(4) // partition
			s.skip(s.bytesLen())
			s.tags()
			if s.failed() {
				return s.err()
			}
		}
		s.tags()
		if s.failed() {
			return s.err()
		}
	}
	s.tags()
	return s.err()
}

type produceScan struct {
	in       kbin.Reader
	flexible bool
	elements int64
}

func (s *produceScan) skip(n int) {
	if n > 0 { // null is nothing to skip
		s.in.Span(n)
	}
}

func (s *produceScan) stringLen() int {
	if s.flexible {
		return int(s.in.Uvarint()) - 1
	}
	return int(s.in.Int16())
}

func (s *produceScan) bytesLen() int {
	if s.flexible {
		return int(s.in.Uvarint()) - 1
	}
	return int(s.in.Int32())
}

// count reads an array's length. The walk itself ends where the bytes do.
func (s *produceScan) count() int {
	var n int32
	if s.flexible {
		n = s.in.CompactArrayLen()
	} else {
		n = s.in.ArrayLen()
	}
	s.elements += int64(max(n, 0))
	if s.failed() {
		return 0
	}
	return int(n)
}

func (s *produceScan) tags() {
	if !s.flexible {
		return
	}
	n := s.in.Uvarint()
	s.elements += int64(n)
	for ; n > 0 && !s.failed(); n-- {
		s.in.Uvarint()
		s.in.Span(int(s.in.Uvarint()))
	}
}

func (s *produceScan) failed() bool { return s.elements > maxProduceElements || !s.in.Ok() }

func (s *produceScan) err() error {
	switch {
	case s.elements > maxProduceElements:
		return fmt.Errorf("topics, partitions and tags are at least %d, want at most %d", s.elements, maxProduceElements)
	case !s.in.Ok():
		return errors.New("request is cut short")
	}
	return nil
}
