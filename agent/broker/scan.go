package broker

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"varve.dev/agent/wire"
)

// A flexible body may say that a tag section holds 2^32-1 tags, and kmsg believes it: eighteen bytes keep a processor busy
// for minutes. So a body is walked over before kmsg sees it, by the shape of its request, and refused where a count says
// more than there are bytes for. The walk allocates nothing and ends where the bytes do.
//
// A shape is the fields of a flexible body in their order:
//
//	1 2 4 8 16   a field of so many bytes          s       a string or bytes, with its length before it
//	( … )        an array of structs               *4 *s   an array of such fields
//	?( … )       a struct that may be null         <1 … >  what is in the tag 1 of the struct around it
//
// and each may have the versions that it is there for in front: 13:16 from version 13 on, -12:s up to 12, 8-9:s both. Every
// struct, and the body, ends with a tag section.
func shapes() map[kmsg.Key]string {
	return map[kmsg.Key]string{
		kmsg.Fetch:                      "-14:4 4 4 4 1 4 4 ( -12:s 13:16 ( 4 4 8 4 8 4 ) ) ( -12:s 13:16 *4 ) s <1 4 8 >",
		kmsg.ListOffsets:                "4 1 ( s ( 4 4 8 ) ) 10:4",
		kmsg.Metadata:                   "( 10:16 s ) 1 -10:1 1",
		kmsg.OffsetCommit:               "s 4 s s ( -9:s 10:16 ( 4 8 4 s ) )",
		kmsg.OffsetFetch:                "-7:s -7:( s *4 ) 8:( s 9:s 9:4 ( 8-9:s 10:16 *4 ) ) 7:1",
		kmsg.FindCoordinator:            "-3:s 1 4:*s",
		kmsg.JoinGroup:                  "s 4 4 s s s ( s s ) 8:s",
		kmsg.Heartbeat:                  "s 4 s s",
		kmsg.LeaveGroup:                 "s ( s s 5:s )",
		kmsg.SyncGroup:                  "s 4 s s 5:s 5:s ( s s )",
		kmsg.DescribeGroups:             "*s 1",
		kmsg.ListGroups:                 "4:*s 5:*s",
		kmsg.ApiVersions:                "s s 5:s 5:4",
		kmsg.CreateTopics:               "( s 4 2 ( 4 *4 ) ( s s ) ) 4 1",
		kmsg.DeleteTopics:               "-5:*s 6:( s 16 ) 4",
		kmsg.DeleteRecords:              "( s ( 4 8 ) ) 4",
		kmsg.InitProducerID:             "s 4 3:8 3:2",
		kmsg.OffsetForLeaderEpoch:       "4 ( s ( 4 4 4 ) )",
		kmsg.DescribeConfigs:            "( 1 s *s ) 1 1",
		kmsg.AlterConfigs:               "( 1 s ( s s ) ) 1",
		kmsg.AlterReplicaLogDirs:        "( s ( s *4 ) )",
		kmsg.DescribeLogDirs:            "( s *4 )",
		kmsg.SASLAuthenticate:           "s",
		kmsg.CreatePartitions:           "( s 4 ( *4 ) ) 4 1",
		kmsg.DeleteGroups:               "*s",
		kmsg.ElectLeaders:               "1 ( s *4 ) 4",
		kmsg.IncrementalAlterConfigs:    "( 1 s ( s 1 s ) ) 1",
		kmsg.AlterPartitionAssignments:  "4 1:1 ( s ( 4 *4 ) )",
		kmsg.ListPartitionReassignments: "4 ( s *4 )",
		kmsg.DescribeCluster:            "1 1:1 2:1",
		kmsg.DescribeProducers:          "( s *4 )",
		kmsg.ListConfigResources:        "1:*1",
		kmsg.DescribeTopicPartitions:    "( s ) 4 ?( s 4 )",
	}
}

// field is one part of a shape. Structs hold their own.
type field struct {
	kind     fieldKind
	bytes    int // of fixed
	min, max int16
	elements []field
}

type fieldKind uint8

const (
	fixed fieldKind = iota
	sized
	structs
	optional
	array // of elements[0], without tags
	tagged
)

// compiled are the shapes, built on first use and never changed again.
var compiled = sync.OnceValue(func() (all [kmsg.MaxKey + 1][]field) {
	for key, shape := range shapes() {
		words := strings.Fields(shape)
		all[key], _ = compile(words)
	}
	return all
})

// compile reads words up to the end of a struct, and answers what stands behind it.
func compile(words []string) (fields []field, rest []string) {
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if word == ")" || word == ">" {
			return fields, words
		}
		f := field{max: math.MaxInt16}
		if versions, what, found := strings.Cut(word, ":"); found {
			from, to, ranged := strings.Cut(versions, "-")
			f.min = number(from)
			if ranged {
				f.max = number(to)
			}
			word = what
		}
		switch {
		case word == "(", word == "?(", word == "<1":
			f.kind = map[string]fieldKind{"(": structs, "?(": optional, "<1": tagged}[word]
			f.elements, words = compile(words)
		case word[0] == '*':
			f.kind = array
			f.elements, _ = compile([]string{word[1:]})
		case word == "s":
			f.kind = sized
		default:
			f.bytes = int(number(word))
		}
		fields = append(fields, f)
	}
	return fields, nil
}

// number reads what stands in a shape: nothing is 0.
func number(s string) int16 {
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 16)
	if err != nil {
		panic("broker: a shape holds " + s)
	}
	return int16(n)
}

var errCut = errors.New("body is cut short, or counts more than it holds")

// scan refuses a flexible body that kmsg is not to see.
func scan(r *wire.Request) error {
	fields := compiled()[r.Key]
	if fields == nil {
		return fmt.Errorf("%s version %d: there is no shape to read it by", kmsg.NameForKey(r.Key), r.Version)
	}
	s := scanner{version: r.Version}
	s.in.Src = r.Body
	if s.structure(fields); !s.in.Ok() {
		return fmt.Errorf("%s version %d: %w", kmsg.NameForKey(r.Key), r.Version, errCut)
	}
	return nil
}

// scanner walks over a body. After the bytes have ended in stays bad, and every count is 0.
type scanner struct {
	in      kbin.Reader
	version int16
}

func (s *scanner) structure(fields []field) {
	var inTag []field
	for i := range fields {
		f := &fields[i]
		if s.version < f.min || s.version > f.max {
			continue
		}
		if f.kind == tagged {
			inTag = f.elements
			continue
		}
		s.field(f)
	}
	s.tags(inTag)
}

func (s *scanner) field(f *field) {
	switch f.kind {
	case fixed:
		s.in.Span(f.bytes)
	case sized:
		if n := s.in.Uvarint(); n > 0 {
			s.in.Span(int(n) - 1)
		}
	case structs:
		for n := s.count(); n > 0 && s.in.Ok(); n-- {
			s.structure(f.elements)
		}
	case optional:
		if s.in.Int8() != -1 {
			s.structure(f.elements)
		}
	case array:
		for n := s.count(); n > 0 && s.in.Ok(); n-- {
			s.field(&f.elements[0])
		}
	}
}

// count is the length of an array, each of whose elements takes a byte or more.
func (s *scanner) count() int {
	n := int64(s.in.Uvarint()) - 1
	if n > int64(len(s.in.Src)) {
		s.fail()
		return 0
	}
	return int(n)
}

// tags walks over a tag section, and into the tag 1 where that holds a struct.
func (s *scanner) tags(inTag []field) {
	n := s.in.Uvarint()
	if int64(n) > int64(len(s.in.Src))/2 { // a key and a length each
		s.fail()
		return
	}
	for ; n > 0 && s.in.Ok(); n-- {
		key := s.in.Uvarint()
		value := s.in.Span(int(s.in.Uvarint()))
		if key == 1 && inTag != nil {
			inner := scanner{version: s.version}
			inner.in.Src = value
			if inner.structure(inTag); !inner.in.Ok() {
				s.fail()
			}
		}
	}
}

// fail is to read beyond the end.
func (s *scanner) fail() { s.in.Span(len(s.in.Src) + 1) }
