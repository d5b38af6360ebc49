package group

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"varve.dev/metadata"
)

var update = flag.Bool("update", false, "write what the scripts answer into them")

// TestScripts plays testdata/*.txt: a command, ----, and what the group does about it. Times are since the start.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts: %v, %d files", err, len(files))
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { play(t, f) })
	}
}

func play(t *testing.T, file string) {
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := newScript()
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(string(src)), "\n\n") {
		cmds, want, _ := strings.Cut(block, "\n----")
		got := ""
		for line := range strings.SplitSeq(cmds, "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				got += s.run(t, line)
			}
		}
		want = strings.TrimSpace(want)
		if got = strings.TrimSpace(got); got != want && !*update {
			t.Errorf("%s\ngot:\n%s\nwant:\n%s", cmds, got, want)
		}
		out.WriteString(cmds)
		if got != "" {
			out.WriteString("\n----\n" + got)
		}
		out.WriteString("\n\n")
	}
	if *update {
		if err := os.WriteFile(file, []byte(strings.TrimSpace(out.String())+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func testRules() Rules {
	return Rules{
		InitialDelay: 3 * time.Second, MaxSize: 100, MaxBytes: 1 << 20,
		StoreTimeout: 5 * time.Second, OffsetsRetention: 7 * 24 * time.Hour,
	}
}

// script is a group, a clock, and a store that answers when told to.
type script struct {
	g       *Group
	now     time.Time
	names   map[Ref]string
	refs    Ref
	ids     int
	row     []byte
	offsets map[metadata.PartitionID]metadata.GroupOffset
	writes  map[uint64]Write
}

func newScript() *script {
	return &script{
		g: NewGroup(testRules(), epoch), now: epoch, names: map[Ref]string{},
		offsets: map[metadata.PartitionID]metadata.GroupOffset{}, writes: map[uint64]Write{},
	}
}

type args map[string]string

func (a args) dur(k string, def time.Duration) time.Duration {
	if a[k] == "" {
		return def
	}
	d, err := time.ParseDuration(a[k])
	if err != nil {
		panic(err)
	}
	return d
}

func (a args) gen() int32 {
	if a["gen"] == "" {
		return -1
	}
	n, err := strconv.Atoi(a["gen"])
	if err != nil {
		panic(err)
	}
	return int32(n)
}

// run plays one line: a command, bare words, and key=value.
func (s *script) run(t *testing.T, line string) string {
	t.Helper()
	fields := strings.Fields(line)
	a, words := args{}, []string(nil)
	for _, f := range fields[1:] {
		if k, v, ok := strings.Cut(f, "="); ok {
			a[k] = v
		} else {
			words = append(words, f)
		}
	}
	ask := func() Ref {
		s.refs++
		s.names[s.refs] = words[0]
		words = words[1:]
		return s.refs
	}
	switch fields[0] {
	case "rules":
		s.g.rules.InitialDelay = a.dur("delay", s.g.rules.InitialDelay)
		if n, err := strconv.Atoi(a["size"]); err == nil {
			s.g.rules.MaxSize = n
		}
		if n, err := strconv.Atoi(a["bytes"]); err == nil {
			s.g.rules.MaxBytes = n
		}
		return ""
	case "join":
		in := Join{
			To: ask(), Member: a["member"], Instance: a["instance"], ClientID: "c", Host: "/h",
			Session: a.dur("session", 10*time.Second), Rebalance: a.dur("rebalance", time.Minute),
			ProtocolType:   "consumer",
			RequireKnownID: !slices.Contains(words, "old"), CanSkipAssigning: slices.Contains(words, "v9"),
		}
		if typ, ok := a["type"]; ok {
			in.ProtocolType = typ
		}
		topics := subscription(strings.Split(a["topics"], ",")...)
		for p := range strings.SplitSeq(or(a["protocols"], "range"), ",") {
			name, meta, ok := strings.Cut(p, ":")
			if !ok {
				in.Protocols = append(in.Protocols, Protocol{name, topics})
			} else {
				in.Protocols = append(in.Protocols, Protocol{name, []byte(meta)})
			}
		}
		if in.Member == "" {
			s.ids++
			in.NewID = fmt.Sprintf("m%d", s.ids)
		}
		return s.step(in)
	case "sync":
		in := Sync{To: ask(), Member: a["member"], Instance: a["instance"], Generation: a.gen()}
		if p, ok := a["protocol"]; ok {
			in.Protocol = &p
		}
		if p, ok := a["type"]; ok {
			in.ProtocolType = &p
		}
		for w := range strings.SplitSeq(a["assign"], ",") {
			if m, d, ok := strings.Cut(w, ":"); ok {
				in.Assignments = append(in.Assignments, Assignment{m, []byte(d)})
			}
		}
		return s.step(in)
	case "heartbeat":
		return s.step(Heartbeat{To: ask(), Member: a["member"], Instance: a["instance"], Generation: a.gen()})
	case "leave":
		in := Leave{To: ask()}
		for _, w := range words {
			m, i, _ := strings.Cut(w, "@")
			in.Members = append(in.Members, Leaver{m, i})
		}
		return s.step(in)
	case "commit":
		in := Commit{
			To: ask(), Member: a["member"], Instance: a["instance"], Generation: a.gen(),
			KnowsGroupIDNotFound: slices.Contains(words, "v9"),
		}
		for k, v := range a {
			if p, ok := partition(k); ok {
				n, err := strconv.ParseInt(v, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				in.Offsets = append(in.Offsets, metadata.GroupOffset{
					Partition: p, Offset: n, LeaderEpoch: -1, CommitTime: s.now.UnixMilli(), ExpireTime: -1,
				})
			}
		}
		slices.SortFunc(in.Offsets, func(a, b metadata.GroupOffset) int { return order(a.Partition, b.Partition) })
		return s.step(in)
	case "delete-offsets":
		in := DeleteOffsets{To: ask()}
		for _, w := range words {
			p, topic, _ := strings.Cut(w, "@")
			id, _ := partition(p)
			in.Partitions = append(in.Partitions, TopicPartition{id, topic})
		}
		return s.step(in)
	case "delete":
		return s.step(Delete{To: ask()})
	case "barrier":
		return s.step(Barrier{To: ask()})
	case "forget":
		n, _ := strconv.Atoi(words[0])
		return s.step(ForgetTopic{int32(n)})
	case "expire":
		return s.step(Expire{Name: func(n int32) (string, bool) {
			name, ok := a[fmt.Sprint(n)]
			return name, ok
		}})
	case "stored":
		return s.stored(words, nil)
	case "refused":
		return s.stored(words, kerr.UnknownServerError)
	case "advance":
		d, err := time.ParseDuration(words[0])
		if err != nil {
			t.Fatal(err)
		}
		return s.advance(d, slices.Contains(words, "hold"))
	case "restart":
		s.g = NewGroup(testRules(), s.now)
		if s.row != nil {
			if err := s.g.Restore(s.now, s.row); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range s.offsets {
			s.g.RestoreOffset(p)
		}
		return ""
	case "state":
		return s.state()
	}
	t.Fatalf("unknown command %q", line)
	return ""
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func partition(s string) (metadata.PartitionID, bool) {
	a, b, ok := strings.Cut(s, "/")
	n, err := strconv.Atoi(a)
	m, err2 := strconv.Atoi(b)
	return metadata.PartitionID{Topic: int32(n), Partition: int32(m)}, ok && err == nil && err2 == nil
}

// subscription is a consumer's protocol metadata, version 1, with what follows the topics.
func subscription(topics ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(topics)))
	for _, t := range topics {
		b = binary.BigEndian.AppendUint16(b, uint16(len(t)))
		b = append(b, t...)
	}
	return append(b, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0)
}

func (s *script) stored(tickets []string, err error) string {
	out := ""
	for _, w := range tickets {
		n, _ := strconv.ParseUint(w, 10, 64)
		if wr := s.writes[n]; err == nil {
			if wr.Row != nil {
				s.row = wr.Row
			}
			for _, o := range wr.Offsets {
				s.offsets[o.Partition] = o
			}
			for _, p := range wr.DeleteOffsets {
				delete(s.offsets, p)
			}
			if wr.Delete {
				s.row = nil
				clear(s.offsets)
			}
		}
		out += s.step(Written{Ticket: n, Err: err})
	}
	return out
}

func (s *script) advance(d time.Duration, hold bool) string {
	out, end := "", s.now.Add(d)
	for range 1000 {
		at, ok := s.g.Wake()
		if !ok || at.After(end) {
			break
		}
		if at.After(s.now) {
			s.now = at
		}
		out += s.step(Tick{Hold: hold})
	}
	s.now = end
	return out
}

func (s *script) step(in Input) string {
	var b strings.Builder
	for _, a := range s.g.Step(s.now, in) {
		if w, ok := a.(Write); ok {
			s.writes[w.Ticket] = w
		}
		fmt.Fprintf(&b, "[%v] %s\n", s.now.Sub(epoch), s.describe(a))
		if a == (Gone{}) {
			s.g = NewGroup(s.g.rules, s.now) // as whoever asks next will find it
		}
	}
	return b.String()
}

func (s *script) state() string {
	d := s.g.Describe()
	var ms []string
	for _, m := range d.Members {
		w := m.Member
		if m.Instance != "" {
			w += "@" + m.Instance
		}
		if len(m.Assignment) > 0 {
			w += ":" + string(m.Assignment)
		}
		ms = append(ms, w)
	}
	out := fmt.Sprintf("%v generation=%d protocol=%s/%s leader=%s members=[%s]", d.State, s.g.Generation(), d.ProtocolType,
		d.Protocol, s.g.leader, strings.Join(ms, " "))
	for _, p := range s.g.Committed() {
		o, _ := s.g.Offset(p)
		out += fmt.Sprintf(" %v=%d", p, o.Offset)
	}
	return out + "\n"
}

func code(err error) string {
	if err == nil {
		return "ok"
	}
	if k, ok := err.(*kerr.Error); ok {
		return k.Message
	}
	return err.Error()
}

func codes(errs []error) string {
	var out []string
	for _, e := range errs {
		out = append(out, code(e))
	}
	return strings.Join(out, " ")
}

func (s *script) describe(a Action) string {
	switch a := a.(type) {
	case JoinReply:
		out := fmt.Sprintf("%s joined: %s", s.names[a.To], code(a.Err))
		if a.Member != "" {
			out += " member=" + a.Member
		}
		if a.Err == nil {
			out += fmt.Sprintf(" generation=%d protocol=%s leader=%s", a.Generation, a.Protocol, a.Leader)
		}
		if a.SkipAssignment {
			out += " skip"
		}
		for _, m := range a.Members {
			out += " [" + m.Member
			if m.Instance != "" {
				out += "@" + m.Instance
			}
			out += "]"
		}
		return out
	case SyncReply:
		return fmt.Sprintf("%s synced: %s %s", s.names[a.To], code(a.Err), a.Assignment)
	case LeaveReply:
		return fmt.Sprintf("%s left: %s", s.names[a.To], codes(a.Errs))
	case DeleteOffsetsReply:
		return fmt.Sprintf("%s deleted offsets: %s %s", s.names[a.To], code(a.Err), codes(a.Errs))
	case Reply:
		return fmt.Sprintf("%s: %s", s.names[a.To], code(a.Err))
	case Write:
		out := fmt.Sprintf("write %d:", a.Ticket)
		if a.Row != nil {
			out += " row"
		}
		for _, o := range a.Offsets {
			out += fmt.Sprintf(" %v=%d", o.Partition, o.Offset)
		}
		for _, p := range a.DeleteOffsets {
			out += fmt.Sprintf(" -%v", p)
		}
		if a.Delete {
			out += " delete group"
		}
		return out
	case Cancel:
		return fmt.Sprintf("cancel %d", a.Ticket)
	case Gone:
		return "gone"
	}
	return fmt.Sprintf("%T", a)
}
