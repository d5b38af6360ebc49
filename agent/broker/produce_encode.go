package broker

import "github.com/twmb/franz-go/pkg/kbin"

// encode writes the response as kmsg would, into one slice of the right size.
func (p *producing) encode() []byte {
	flexible := p.version >= 9
	array, str, nullable := kbin.AppendArrayLen, kbin.AppendString, kbin.AppendNullableString
	if flexible {
		array, str, nullable = kbin.AppendCompactArrayLen, kbin.AppendCompactString, kbin.AppendCompactNullableString
	}
	dst := array(make([]byte, 0, p.encodedSize()), len(p.topics))
	slots := p.slots
	for i := range p.topics {
		t := &p.topics[i]
		if p.version >= 13 {
			dst = kbin.AppendUuid(dst, t.id)
		} else {
			dst = str(dst, t.name)
		}
		dst = array(dst, t.partitions)
		for k := range slots[:t.partitions] {
			s := &slots[k]
			dst = kbin.AppendInt32(dst, s.partition)
			dst = kbin.AppendInt16(dst, s.code)
			dst = kbin.AppendInt64(dst, s.base)
			dst = kbin.AppendInt64(dst, s.time)
			if p.version >= 5 {
				dst = kbin.AppendInt64(dst, s.oldest)
			}
			if p.version >= 8 {
				dst = array(dst, 0) // no error of a single record
				dst = nullable(dst, s.message)
			}
			if flexible {
				dst = append(dst, 0)
			}
		}
		slots = slots[t.partitions:]
		if flexible {
			dst = append(dst, 0)
		}
	}
	dst = kbin.AppendInt32(dst, 0) // throttle
	if flexible {
		dst = append(dst, 0)
	}
	return dst
}

// encodedSize is at least the size of the response.
func (p *producing) encodedSize() int {
	const head, topic, partition = 16, 32, 40 // lengths, throttle, tags; id, lengths, tags; numbers, lengths, tags
	n := head + topic*len(p.topics) + partition*len(p.slots)
	for i := range p.topics {
		n += len(p.topics[i].name)
	}
	for i := range p.slots {
		if m := p.slots[i].message; m != nil {
			n += len(*m)
		}
	}
	return n
}
