package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What stands for an answer that is none.
const (
	closed = "closed"
	silent = "silent"
)

// normal turns answers into fields that can be compared between brokers.
//
// What differs by nature gets a name: topic ids, member ids, producer ids, session ids, leader epochs (as a distance from
// that of a new topic), addresses, the cluster's id, directories and their sizes, times close to now. Messages count only
// as null, empty or text. Throttling is left out. Lists are keyed by what names their elements, so their order does not
// count, except where a case says so.
type normal struct {
	prefix  string
	own     bool // lists hold only what belongs to this case
	whole   bool // also what ApiVersions lists, and the configs of topics that are created: two cases are about them
	began   time.Time
	epoch   int32 // of a new topic's leaders
	names   map[string]string
	numbers map[string]int
}

func newNormal(prefix string) *normal {
	return &normal{prefix: prefix, began: time.Now(), names: map[string]string{}, numbers: map[string]int{}}
}

// name is what stands for a value of a kind.
func (n *normal) name(kind, value string) string {
	if n.names[kind+value] == "" {
		n.numbers[kind]++
		n.names[kind+value] = fmt.Sprintf("<%s %d>", kind, n.numbers[kind])
	}
	return n.names[kind+value]
}

// fields flattens an answer.
func (n *normal) fields(resp kmsg.Response, err error) map[string]string {
	switch {
	case errors.Is(err, errClosed):
		return map[string]string{"": closed}
	case err != nil:
		return map[string]string{"": silent}
	}
	out := map[string]string{}
	n.walk(reflect.ValueOf(resp).Elem(), place{key: resp.Key()}, out)
	return out
}

// place is where a value stands.
type place struct {
	key    int16 // of the API
	path   string
	parent string // type of the struct around
	field  string
}

func (n *normal) walk(v reflect.Value, at place, out map[string]string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i).Name
			switch field {
			case "Version", "UnknownTags", "ThrottleMillis":
				continue
			}
			if !n.whole && isLong(v.Type().Name(), field) {
				continue
			}
			path := field
			if at.path != "" {
				path = at.path + "." + field
			}
			n.walk(v.Field(i), place{at.key, path, v.Type().Name(), field}, out)
		}
	case reflect.Pointer:
		if v.IsNil() {
			out[at.path] = "null"
			return
		}
		n.walk(v.Elem(), at, out)
	case reflect.Slice:
		n.list(v, at, out)
	default:
		out[at.path] = n.scalar(v, at)
	}
}

// isLong names what is the same in hundreds of answers.
func isLong(message, field string) bool {
	switch message {
	case "ApiVersionsResponse":
		return field != "ErrorCode"
	case "CreateTopicsResponseTopic":
		return field == "Configs"
	}
	return false
}

func (n *normal) list(v reflect.Value, at place, out map[string]string) {
	if b, ok := v.Interface().([]byte); ok {
		if at.field == "RecordBatches" {
			n.batches(b, at.path, out)
			return
		}
		out[at.path] = n.bytes(b)
		return
	}
	if v.IsNil() {
		out[at.path] = "null"
		return
	}
	if v.Type().Elem().Kind() != reflect.Struct {
		words := make([]string, v.Len())
		for i := range words {
			words[i] = n.scalar(v.Index(i), at)
		}
		out[at.path] = "[" + strings.Join(words, " ") + "]"
		return
	}
	seen, kept := map[string]int{}, 0
	for i := range v.Len() {
		id, ours := n.identity(v.Index(i), i)
		if n.own && !ours {
			continue
		}
		kept++
		if seen[id]++; seen[id] > 1 {
			id = fmt.Sprintf("%s#%d", id, seen[id])
		}
		n.walk(v.Index(i), place{key: at.key, path: at.path + "[" + id + "]"}, out)
	}
	if kept == 0 {
		out[at.path] = "[]"
	}
}

func (n *normal) bytes(b []byte) string {
	if b == nil {
		return "null"
	}
	return n.text(fmt.Sprintf("%q", b))
}

// identity is what names an element of a list, and whether it belongs to this case.
func (n *normal) identity(v reflect.Value, index int) (id string, ours bool) {
	for _, field := range []string{"Topic", "Group", "MemberID", "ResourceName", "Name", "Key", "Dir"} {
		f := v.FieldByName(field)
		if f.IsValid() && f.Kind() == reflect.Pointer && !f.IsNil() {
			f = f.Elem()
		}
		if !f.IsValid() || f.Kind() != reflect.String || f.Len() == 0 {
			continue
		}
		if field == "Dir" {
			return strconv.Itoa(index), true
		}
		named := field == "Topic" || field == "Group" || v.Type().Name() == "ListConfigResourcesResponseConfigResource"
		return n.text(f.String()), !named || strings.HasPrefix(f.String(), n.prefix)
	}
	if f := v.FieldByName("TopicID"); f.IsValid() {
		id := n.topicID(f.Interface().([16]byte))
		if name, known := strings.CutPrefix(id, "<id of "); known {
			return strings.TrimSuffix(name, ">"), true // as in versions that name it
		}
		return id, true
	}
	if f := v.FieldByName("ApiKey"); f.IsValid() {
		return kmsg.NameForKey(int16(f.Int())), true
	}
	if f := v.FieldByName("ProducerID"); f.IsValid() {
		return n.producer(f.Int()), true
	}
	for _, field := range []string{"NodeID", "Partition", "RelativeOffset"} {
		if f := v.FieldByName(field); f.IsValid() {
			return strconv.FormatInt(f.Int(), 10), true
		}
	}
	return strconv.Itoa(index), true
}

func (n *normal) topicID(id [16]byte) string {
	switch {
	case id == [16]byte{}:
		return "0"
	case n.names["topic"+string(id[:])] != "":
		return n.names["topic"+string(id[:])]
	case id[0] == strangerID[0] && id[15] == strangerID[15]:
		return "<stranger>"
	}
	return "<new id>"
}

// strangerID is the id of no topic.
var strangerID = [16]byte{0x5a, 1, 2, 3, 4, 5, 0x46, 7, 0x88, 9, 10, 11, 12, 13, 14, 0x5a}

// knowTopic gives a topic's id its name.
func (n *normal) knowTopic(id [16]byte, name string) {
	n.names["topic"+string(id[:])] = "<id of " + name + ">"
}

func (n *normal) producer(v int64) string {
	if v < 0 {
		return strconv.FormatInt(v, 10)
	}
	return n.name("pid", strconv.FormatInt(v, 10))
}

var uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// text leaves out this case's prefix and names random ids.
func (n *normal) text(s string) string {
	s = strings.ReplaceAll(s, n.prefix, "")
	return uuid.ReplaceAllStringFunc(s, func(id string) string { return n.name("uuid", id) })
}

// epochs says in which APIs a leader epoch is the broker's own, not what a client has committed.
func hasEpochs(key int16) bool {
	switch kmsg.Key(key) {
	case kmsg.Produce, kmsg.Fetch, kmsg.ListOffsets, kmsg.Metadata, kmsg.OffsetForLeaderEpoch, kmsg.DescribeTopicPartitions:
		return true
	}
	return false
}

func (n *normal) scalar(v reflect.Value, at place) string {
	switch x := v.Interface().(type) {
	case [16]byte:
		return n.topicID(x)
	case string:
		return n.word(x, at)
	}
	if !v.CanInt() {
		return fmt.Sprint(v.Interface())
	}
	i := v.Int()
	switch at.field {
	case "ErrorCode":
		return errorName(int16(i))
	case "LeaderEpoch", "Epoch":
		if hasEpochs(at.key) {
			return n.leaderEpoch(i)
		}
	case "ProducerID":
		return n.producer(i)
	case "SessionID":
		if i > 0 {
			return "<session>"
		}
	case "Port", "TotalBytes", "UsableBytes", "Size", "FinalizedFeaturesEpoch":
		if i >= 0 {
			return "<" + strings.ToLower(at.field) + ">"
		}
	case "Timestamp", "LogAppendTime", "LastTimestamp":
		return n.time(i)
	}
	return strconv.FormatInt(i, 10)
}

func (n *normal) word(s string, at place) string {
	switch {
	case at.field == "ErrorMessage" && s != "":
		return "text"
	case at.field == "Documentation" && s != "":
		return "text"
	case s != "" && (at.field == "Host" || at.field == "ClusterID" || at.field == "Dir"):
		return "<" + strings.ToLower(at.field) + ">"
	}
	return strconv.Quote(n.text(s))
}

func (n *normal) leaderEpoch(e int64) string {
	if e < 0 {
		return strconv.FormatInt(e, 10)
	}
	return fmt.Sprintf("first%+d", e-int64(n.epoch))
}

// time names what lies close to now.
func (n *normal) time(millis int64) string {
	if d := time.UnixMilli(millis).Sub(n.began); d > -time.Minute && d < 10*time.Minute {
		return "<now>"
	}
	return strconv.FormatInt(millis, 10)
}

func errorName(code int16) string {
	switch {
	case code == 0:
		return "0"
	case code == -1:
		return "-1 UNKNOWN_SERVER_ERROR"
	}
	if e := kerr.TypedErrorForCode(code); e != nil {
		return fmt.Sprintf("%d %s", code, e.Message)
	}
	return strconv.Itoa(int(code))
}

// batches describes each record batch of an answer to Fetch in one field.
func (n *normal) batches(src []byte, path string, out map[string]string) {
	if src == nil {
		out[path] = "null"
		return
	}
	if len(src) == 0 {
		out[path] = "empty"
		return
	}
	for i := 0; len(src) > 0; i++ {
		where := fmt.Sprintf("%s[%d]", path, i)
		b, rest, ok := cutBatch(src)
		if !ok {
			out[where] = "the beginning of a batch"
			return
		}
		out[where] = n.describe(b)
		src = rest
	}
}

func (n *normal) describe(b []byte) string {
	var h kmsg.RecordBatch
	if err := h.ReadFrom(b); err != nil {
		return "unreadable: " + hex.EncodeToString(b[:min(len(b), 64)])
	}
	crc := "good"
	if int32(checksum(b)) != h.CRC {
		crc = "bad"
	}
	return fmt.Sprintf("offset %d+%d epoch %s magic %d crc %s attributes %#x first %s max %s producer %s epoch %d sequence %d records %d",
		h.FirstOffset, h.LastOffsetDelta, n.leaderEpoch(int64(h.PartitionLeaderEpoch)), h.Magic, crc, uint16(h.Attributes),
		n.time(h.FirstTimestamp), n.time(h.MaxTimestamp), n.producer(h.ProducerID), h.ProducerEpoch, h.FirstSequence, h.NumRecords)
}
