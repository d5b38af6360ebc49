package wire

import (
	"encoding/binary"
	"errors"
)

var errHeader = errors.New("request header is cut short")

// header is what stands before the body of a request (header versions 1 and 2; KIP-482).
type header struct {
	key, version int16
	correlation  int32
	client       []byte // null is empty
	size         int    // bytes up to the body
}

// parseHeader reads the header of a frame without its length. The header of flexible versions ends with tags, which say
// nothing that we use. key and version were read before, to know which it is.
func parseHeader(frame []byte, flexible bool) (h header, err error) {
	if len(frame) < minFrame+2 {
		return h, errHeader
	}
	h.key = int16(binary.BigEndian.Uint16(frame))
	h.version = int16(binary.BigEndian.Uint16(frame[2:]))
	h.correlation = int32(binary.BigEndian.Uint32(frame[4:]))
	// KIP-482 left the client id in its old form in both header versions.
	n := int(int16(binary.BigEndian.Uint16(frame[minFrame:])))
	h.size = minFrame + 2
	if n > 0 { // Kafka takes every negative length for null
		if len(frame)-h.size < n {
			return h, errHeader
		}
		h.client = frame[h.size : h.size+n]
		h.size += n
	}
	if !flexible {
		return h, nil
	}
	tags, err := skipTags(frame[h.size:])
	h.size += tags
	return h, err
}

// skipTags answers the length of a tag section.
func skipTags(b []byte) (int, error) {
	count, at := binary.Uvarint(b)
	if at <= 0 {
		return 0, errHeader
	}
	for ; count > 0; count-- { // ends with b at the latest: each tag is two bytes or more
		_, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return 0, errHeader
		}
		at += n
		size, n := binary.Uvarint(b[at:])
		if n <= 0 || size > uint64(len(b)-at-n) {
			return 0, errHeader
		}
		at += n + int(size)
	}
	return at, nil
}

// appendResponseHeader writes length, correlation id and, for flexible versions but not for ApiVersions (whose client
// cannot know yet), an empty tag section.
func appendResponseHeader(dst []byte, correlation int32, tags bool, body int) []byte {
	size := 4 + body
	if tags {
		size++
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	dst = binary.BigEndian.AppendUint32(dst, uint32(correlation))
	if tags {
		dst = append(dst, 0)
	}
	return dst
}
