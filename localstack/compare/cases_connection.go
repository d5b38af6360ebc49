package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// connectionCases are items 1 to 10: connection and negotiation.
func connectionCases() []conversation {
	return []conversation{
		{"1 what ApiVersions lists", func(t *talk) {
			t.normal.whole = true
			for v := int16(0); v <= 4; v++ {
				t.ask("ask", v, versionsOf("compare", "1.0"))
			}
		}},
		{"2 ApiVersions of the future", func(t *talk) {
			t.normal.whole = true
			for _, v := range []int16{5, 6, 99, 32767, -1} {
				p := t.send("a", v, versionsOf("compare", "1.0"))
				resp, err := p.answerAs(0, answerWithin)
				t.note("too new", v, t.normal.fields(resp, err))
			}
			t.goesOn("the connection goes on", 0)
		}},
		{"2 unknown keys", func(t *talk) {
			for _, key := range []int16{-1, 4, 5, 6, 7, 52, 58, 62, 999, 32767} {
				t.raw(fmt.Sprintf("key %d", key), header(key, 0, "compare"))
			}
		}},
		{"2 unknown versions", unknownVersions},
		{"3 how a client calls itself", func(t *talk) {
			for _, name := range []string{"", "a", "-a", "a-", "a b", "a_b", "a.b-c", ".", "1.0", "ä", "a\x00", "kafka-python", strings.Repeat("x", 300)} {
				for v := int16(2); v <= 4; v++ {
					t.ask(fmt.Sprintf("name %.10q", name), v, versionsOf(name, "1.0"))
					t.ask(fmt.Sprintf("version %.10q", name), v, versionsOf("compare", name))
				}
			}
		}},
		{"4 answers come in order", answersInOrder},
		{"4 a long poll holds up what is behind it", func(t *talk) {
			a := t.topic("a", 1)
			poll := fetch(a, 0)
			poll.MinBytes, poll.MaxWaitMillis = 1, 300
			first := t.send("a", 11, poll)
			second := t.send("a", 1, metadata(false))
			t.take("second", second)
			t.take("first", first)
			l := t.link("a")
			t.say("order", fmt.Sprint(l.sequence[len(l.sequence)-2] == first.correlation))
		}},
		{"5 lengths of frames", func(t *talk) {
			for _, n := range []int32{-1, -1 << 31, 0, 1, 4, 7} {
				t.raw(fmt.Sprintf("length %d", n), append(binary.BigEndian.AppendUint32(nil, uint32(n)), make([]byte, max(0, min(n, 100)))...))
			}
			t.raw("length 100 MiB + 1", binary.BigEndian.AppendUint32(nil, 100<<20+1))
			t.raw("length 2^31-1", binary.BigEndian.AppendUint32(nil, 1<<31-1))
			t.raw("half a length", []byte{0, 0})
			t.raw("half a frame", header(3, 1, "compare")[:12])
		}},
		{"5 headers", func(t *talk) {
			t.raw("length of the client id below null", framed([]byte{0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xfe}))
			t.raw("client id beyond the frame", framed([]byte{0, 18, 0, 0, 0, 0, 0, 1, 0x7f, 0xff, 'x'}))
			t.raw("null client id", framed([]byte{0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff}))
			t.raw("client id that is no UTF-8", framed([]byte{0, 18, 0, 0, 0, 0, 0, 1, 0, 2, 0xff, 0xfe}))
			t.raw("no client id", framed([]byte{0, 18, 0, 0, 0, 0, 0, 1}))
			t.raw("unknown tag in the header", framed([]byte{0, 18, 0, 3, 0, 0, 0, 1, 0, 1, 'c', 1, 99, 2, 'a', 'b', 2, 'c', 2, '1', 0}))
			t.raw("tag beyond the frame", framed([]byte{0, 18, 0, 3, 0, 0, 0, 1, 0, 1, 'c', 1, 99, 100, 'a'}))
			t.raw("unknown tag in the body", framed([]byte{0, 18, 0, 3, 0, 0, 0, 1, 0, 1, 'c', 0, 2, 'c', 2, '1', 1, 99, 2, 'a', 'b'}))
		}},
		{"5 bodies that are cut", bodiesCut},
		{"5 arrays of 2^31-1 elements", func(t *talk) {
			for _, key := range []int16{2, 3, 8, 9, 15, 19, 20, 32, 37, 42} {
				t.raw(kmsg.NameForKey(key), framed(append(unframed(key, t.versions[key].min), 0x7f, 0xff, 0xff, 0xff)))
			}
		}},
		{"5 bytes behind a body", func(t *talk) {
			l := t.link("raw")
			for i, req := range []kmsg.Request{metadata(false), versionsOf("compare", "1.0"), kmsg.NewPtrListGroupsRequest()} {
				req.SetVersion(3)
				b, _ := l.frame(req)
				b = append(b, "more"...)
				binary.BigEndian.PutUint32(b, uint32(len(b)-4))
				t.raw(fmt.Sprintf("%d %s", i, kmsg.NameForKey(req.Key())), b)
			}
		}},
		{"6 acks", func(t *talk) {
			a := t.topic("a", 1)
			for _, acks := range []int16{-1, 1, 2, -2, 100, -32768} {
				t.each(fmt.Sprintf("acks %d", acks), func(v int16) kmsg.Request { return produce(a, 0, acks, values("x").bytes()) })
			}
		}},
		{"6 acks=0 is not answered", func(t *talk) {
			a := t.topic("a", 1)
			for v := t.versions[0].min; v <= t.versions[0].max; v++ {
				t.send("a", v, produce(a, 0, 0, values("x").bytes()))
				t.goesOn("the next answer is that of the next request", v)
			}
			t.until("all is written", func() bool { return t.offset(a, 0, -1) == int64(t.versions[0].max-t.versions[0].min)+1 })
		}},
		{"6 acks=0 with an error closes", func(t *talk) {
			a := t.topic("a", 1)
			for v := t.versions[0].min; v <= t.versions[0].max; v++ {
				t.take("bad CRC", t.send("a", v, produce(a, 0, 0, values("x").with(func(s *spec) { s.badCRC = true }).bytes())))
				t.take("no such partition", t.send("a", v, produce(a, 7, 0, values("x").bytes())))
				t.take("no such topic", t.send("a", v, produce(topic{name: t.prefix + "none", id: strangerID}, 0, 0, values("x").bytes())))
			}
		}},
		{"7 SASL on a listener without", func(t *talk) {
			t.each("handshake", func(int16) kmsg.Request {
				req := kmsg.NewPtrSASLHandshakeRequest()
				req.Mechanism = "PLAIN"
				return req
			})
			t.each("authenticate", func(int16) kmsg.Request {
				req := kmsg.NewPtrSASLAuthenticateRequest()
				req.SASLAuthBytes = []byte("\x00user\x00secret")
				return req
			})
			t.goesOn("the connection goes on", 0)
		}},
	}
}

func versionsOf(name, version string) *kmsg.ApiVersionsRequest {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = name, version
	return req
}

// header is a frame without a body.
func header(key, version int16, client string) []byte {
	return framed(unframedAs(key, version, client))
}

func unframed(key, version int16) []byte { return unframedAs(key, version, "compare") }

func unframedAs(key, version int16, client string) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, uint16(len(client)))
	return append(b, client...)
}

func framed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// unknownVersions asks below and above what both offer.
func unknownVersions(t *talk) {
	for _, key := range slices.Sorted(maps.Keys(t.versions)) {
		if key == int16(kmsg.ApiVersions) {
			continue
		}
		for _, v := range slices.Compact([]int16{-1, t.versions[key].min - 1, t.versions[key].max + 1, 99}) {
			t.raw(fmt.Sprintf("%s v%d", kmsg.NameForKey(key), v), framed(append(unframed(key, v), make([]byte, 64)...)))
		}
	}
}

// goesOn records whether the next answer on the connection is that of the next request.
func (t *talk) goesOn(step string, version int16) {
	next := t.send("a", 0, kmsg.NewPtrApiVersionsRequest())
	l := t.links["a"]
	before := len(l.sequence)
	_, err := next.answer(answerWithin)
	if err == nil && l.sequence[before] != next.correlation {
		t.fail("%s: the request before was answered", step)
	}
	t.note(step, version, map[string]string{"": fmt.Sprint(err == nil)})
}

func answersInOrder(t *talk) {
	l := t.link("a")
	var frames []byte
	var ids []int32
	for i := range 30 {
		var req kmsg.Request = versionsOf("compare", "1.0")
		switch i % 3 {
		case 1:
			req = metadata(false)
		case 2:
			req = kmsg.NewPtrFindCoordinatorRequest()
			req.(*kmsg.FindCoordinatorRequest).CoordinatorKey = "x"
		}
		req.SetVersion(1)
		b, id := l.frame(req)
		frames, ids = append(frames, b...), append(ids, id)
	}
	l.write(frames)
	if _, err := l.take(ids[len(ids)-1], answerWithin); err != nil {
		t.fail("the last of 30 answers: %w", err)
	}
	t.say("30 requests in one write", fmt.Sprint(slices.Equal(l.sequence, ids)))
}

// bodiesCut sends each API's smallest body without its last byte.
func bodiesCut(t *talk) {
	for _, key := range slices.Sorted(maps.Keys(t.versions)) {
		for _, v := range slices.Compact([]int16{t.versions[key].min, t.versions[key].max}) {
			req := kmsg.RequestForKey(key)
			req.SetVersion(v)
			l := &link{}
			b, _ := l.frame(req)
			bare := len(unframed(key, v)) + 4
			if req.IsFlexible() {
				bare++
			}
			if len(b) <= bare {
				continue // there is no body
			}
			b = b[:len(b)-1]
			binary.BigEndian.PutUint32(b, uint32(len(b)-4))
			step := fmt.Sprintf("%s v%d", kmsg.NameForKey(key), v)
			t.raw(step, b)
		}
	}
}
