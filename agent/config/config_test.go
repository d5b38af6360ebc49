package config

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func load(t *testing.T, file string, sets ...string) *Agent {
	t.Helper()
	a, err := Load([]byte(file), nil, sets)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestEveryDefaultPassesItsOwnCheck(t *testing.T) {
	for _, s := range scopes() {
		seen := map[string]bool{}
		for _, k := range s.keys {
			if seen[k.Name] {
				t.Errorf("%s stands in the table twice", k.Name)
			}
			seen[k.Name] = true
			if err := k.Check(k.Default); err != nil {
				t.Errorf("default: %v", err)
			}
			if !strings.HasSuffix(k.Doc, ".") || k.Group == "" || k.Type == 0 {
				t.Errorf("%s: needs a sentence, a group and a type", k.Name)
			}
			if k.AgentKey == "" {
				continue
			}
			agent, ok := AgentKey(k.AgentKey)
			if !ok || agent.Type != k.Type {
				t.Errorf("%s: its agent key %s is not there, or of another type", k.Name, k.AgentKey)
			}
		}
	}
}

// The defaults that clients and tools rely on, as Kafka has them.
func TestTopicDefaultsAreKafkas(t *testing.T) {
	a := load(t, "")
	for name, want := range map[string]string{
		"retention.ms": "604800000", "retention.bytes": "-1", "segment.bytes": "1073741824", "segment.ms": "604800000",
		"max.message.bytes": "1048588", "min.insync.replicas": "1", "cleanup.policy": "delete", "compression.type": "producer",
		"message.timestamp.type": "CreateTime", "message.timestamp.before.max.ms": "9223372036854775807",
		"message.timestamp.after.max.ms": "3600000", "delete.retention.ms": "86400000", "min.compaction.lag.ms": "0",
		"max.compaction.lag.ms": "9223372036854775807", "min.cleanable.dirty.ratio": "0.5", "local.retention.ms": "-2",
		"local.retention.bytes": "-2", "remote.storage.enable": "false",
	} {
		k, ok := TopicKey(name)
		if !ok {
			t.Errorf("no topic key %s", name)
			continue
		}
		if k.Default != want {
			t.Errorf("%s: default is %s, want %s", name, k.Default, want)
		}
		if got, _ := a.TopicDefault(k); got != want {
			t.Errorf("%s: an agent's default is %s, want %s", name, got, want)
		}
	}
}

func TestLaterSourcesWin(t *testing.T) {
	file := "# a comment\nflush.bytes = 1048576\nflush.inflight=2\nseal.objects=5\n"
	a, err := Load([]byte(file), []string{"VARVE_FLUSH_INFLIGHT=3", "VARVE_SEAL_OBJECTS=6", "HOME=x", "VARVE_TEST_PG=x"}, []string{"seal.objects=7"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Source{
		"flush.bytes": FromFile, "flush.inflight": FromEnvironment, "seal.objects": FromFlag, "seal.bytes": FromDefault,
	} {
		if got := a.Source(name); got != want {
			t.Errorf("%s comes from %s, want %s", name, got, want)
		}
	}
	got := []int64{a.Int("flush.bytes"), a.Int("flush.inflight"), a.Int("seal.objects")}
	if !slices.Equal(got, []int64{1 << 20, 3, 7}) {
		t.Errorf("values are %d", got)
	}
}

func TestEveryMistakeIsReportedAtOnce(t *testing.T) {
	file := `flush.intervall.ms=20
seal.objects=many
seal.objects=3
retention.ms=5
no equals sign
broker.id=4
log.cleanup.policy=compact
zzzzzz=1
`
	_, err := Load([]byte(file), []string{"VARVE_FLUSH_BITES=3", "VARVE_LOG_LEVEL=loud"}, []string{"store.url=ftp://x", "listeners=SSL://localhost:1"})
	if err == nil {
		t.Fatal("nothing was wrong")
	}
	want := []string{
		`line 1: unknown key "flush.intervall.ms"; did you mean flush.interval.ms?`,
		`line 2: seal.objects: got "many", want a whole number from 1 to 65536`,
		`line 3: seal.objects stands in line 2 already`,
		`line 4: "retention.ms" is a topic's key; its default for all topics is set by log.retention.ms`,
		`line 5: got "no equals sign", want key=value`,
		`line 6: unknown key "broker.id"; here it is agent.id`,
		`line 7: log.cleanup.policy: compact is not offered: this version keeps all records until retention deletes them, and never by key; set it to delete`,
		`line 8: unknown key "zzzzzz"; varve config lists all keys`,
		`environment variable VARVE_FLUSH_BITES: no key has this name; did you mean VARVE_FLUSH_BYTES?`,
		`environment variable VARVE_LOG_LEVEL: log.level: got "loud", want one of debug, info, warn, error`,
		`--set: store.url: scheme "ftp" is unknown; known are file, memory, s3 and minio`,
		`--set: listeners: SSL: this version has no TLS and no SASL, want PLAINTEXT or a name of your own`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

func TestKeysThatDisagreeAreReported(t *testing.T) {
	_, err := Load(nil, nil, []string{
		"listeners=PLAINTEXT://0.0.0.0:9092", "advertised.listeners=OTHER://a:1", "http.listen=[::]:80",
		"session.ttl.ms=1000", "session.beat.ms=900", "flush.bytes=8388608", "produce.buffer.bytes=1048576",
		"journal.bytes=2113536", "journal.file.bytes=1048577",
	})
	if err == nil {
		t.Fatal("nothing was wrong")
	}
	for _, want := range []string{
		"flush.bytes: got 8388608, want at most produce.buffer.bytes, which is 1048576",
		"session.ttl.ms: got 1000, want at least 1800",
		"journal.bytes: got 2113536, want at least 2113552, two files of journal.file.bytes and their headers",
		"advertised.listeners: OTHER is no name in listeners",
		`advertised.listeners: want an address for PLAINTEXT, since clients cannot connect to "0.0.0.0"`,
		`http.listen: "[::]:80" is open to other machines`,
		`listeners: "0.0.0.0" is open to other machines`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s\ngot:\n%v", want, err)
		}
	}
}

func TestTheCoarserRetentionKeysHold(t *testing.T) {
	for _, c := range []struct {
		file string
		want int64
		from Source
	}{
		{"", 7 * day, FromDefault},
		{"log.retention.hours=2", 2 * hour, FromFile},
		{"log.retention.hours=2\nlog.retention.minutes=3", 3 * minute, FromFile},
		{"log.retention.hours=2\nlog.retention.minutes=3\nlog.retention.ms=4", 4, FromFile},
		{"log.retention.minutes=-1", -1, FromFile},
	} {
		a := load(t, c.file)
		k, _ := TopicKey("retention.ms")
		_, from := a.TopicDefault(k)
		if got := a.Topic(nil).RetentionMillis; got != c.want || from != c.from {
			t.Errorf("%q: retention is %d from %s, want %d from %s", c.file, got, from, c.want, c.from)
		}
	}
}

func TestDerivedDefaultsFollowTheStore(t *testing.T) {
	for store, want := range map[string]time.Duration{
		"memory:": 20 * time.Millisecond, "file:///x": 20 * time.Millisecond,
		"s3://bucket/p?region=eu-1&path-style=true": 250 * time.Millisecond, "minio://bucket?endpoint=localhost:9000": 250 * time.Millisecond,
	} {
		if got := load(t, "", "store.url="+store).Duration("flush.interval.ms"); got != want {
			t.Errorf("%s: flush.interval.ms is %v, want %v", store, got, want)
		}
	}
	a := load(t, "data.dir=/d")
	if got, want := a.String("metadata.url"), "sqlite:/d/metadata.db"; got != want {
		t.Errorf("metadata.url is %s, want %s", got, want)
	}
	if got, want := a.String("store.url"), "file:///d/objects"; got != want {
		t.Errorf("store.url is %s, want %s", got, want)
	}
}

func TestDevDefaultsAreValid(t *testing.T) {
	load(t, "", DevDefaults()...)
}

func TestATopicResolvesOverTheAgent(t *testing.T) {
	a := load(t, "log.retention.bytes=1000\nlog.varve.durability=local\ncompression.type=lz4")
	got := a.Topic(map[string]string{
		"retention.ms": "5000", "local.retention.ms": "9000", "compression.type": "zstd", "message.timestamp.type": "LogAppendTime",
		"retention.bytes": "broken", "from.a.newer.version": "x",
	})
	if got.RetentionMillis != 5000 || got.LocalRetentionMillis != 5000 || got.RetentionBytes != 1000 || got.LocalRetentionBytes != 1000 {
		t.Errorf("retention is %+v", got)
	}
	if !got.Local || !got.LogAppendTime || got.Compression != "zstd" {
		t.Errorf("settings are %+v", got)
	}
	if got.TimestampBeforeMillis != math.MaxInt64 || got.MinCleanableDirtyRatio != 0.5 || got.MaxMessageBytes != 1048588 {
		t.Errorf("defaults are %+v", got)
	}
}

func TestDynamicValuesLieOverTheRest(t *testing.T) {
	a := load(t, "num.partitions=2")
	b := a.With(map[string]string{"num.partitions": "3", "agent.id": "9", "message.max.bytes": "no", "log.retention.ms": "77"})
	if a.Int("num.partitions") != 2 || b.Int("num.partitions") != 3 || b.Source("num.partitions") != FromDynamic {
		t.Errorf("num.partitions went from %d to %d", a.Int("num.partitions"), b.Int("num.partitions"))
	}
	if b.Int("agent.id") != 1 || b.Int("message.max.bytes") != 1048588 {
		t.Errorf("what is not dynamic or not valid was taken: %d, %d", b.Int("agent.id"), b.Int("message.max.bytes"))
	}
	if got := b.Topic(nil).RetentionMillis; got != 77 {
		t.Errorf("a topic's retention is %d, want 77", got)
	}
}

func TestListenersAdvertiseThemselvesUnlessTold(t *testing.T) {
	a := load(t, "listeners=PLAINTEXT://127.0.0.1:0,lan://localhost:9093\nadvertised.listeners=LAN://agent.example:19093")
	want := []Listener{
		{"PLAINTEXT", "127.0.0.1", 0, "127.0.0.1", 0},
		{"LAN", "localhost", 9093, "agent.example", 19093},
	}
	if diff := cmp.Diff(want, a.Listeners()); diff != "" {
		t.Errorf("listeners (-want +got):\n%s", diff)
	}
}

func TestTopicKeysRefuseWithAReason(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"cleanup.policy", "compact", "cleanup.policy: compact is not offered"},
		{"cleanup.policy", "compact,delete", "cleanup.policy: compact is not offered"},
		{"cleanup.policy", "", "got nothing, want delete"},
		{"retention.ms", "-2", "retention.ms: got -2, want a whole number of at least -1 ms"},
		{"compression.type", "brotli", "want one of producer, uncompressed"},
		{"compression.gzip.level", "0", "-1 for the codec's own default"},
		{"min.cleanable.dirty.ratio", "NaN", "a number from 0 to 1"},
		{"preallocate", "yes", "want true or false"},
		{"segment.bytes", "1024", "from 1048576 to 2147483647 bytes"},
	} {
		k, _ := TopicKey(c.name)
		if err := k.Check(c.value); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: got %v, want %s", c.name, c.value, err, c.want)
		}
	}
}

func TestAPasswordIsNeverShown(t *testing.T) {
	const secret = "hunter2"
	pair := "metadata.url=mysql://u:" + secret + "@h/d"
	_, err := Load([]byte(pair), []string{"VARVE_METADATA_URL=postgres://u:" + secret + "@%zz"}, []string{pair})
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v", err)
	}
}

func TestThePageHoldsEveryKey(t *testing.T) {
	var page bytes.Buffer
	if err := WritePage(&page); err != nil {
		t.Fatal(err)
	}
	for _, e := range Entries() {
		if !strings.Contains(page.String(), "    "+e.Name+" = ") {
			t.Errorf("%s is not on the page", e.Name)
		}
	}
	if want := "flush.bytes = 8388608 (8 MiB)"; !strings.Contains(page.String(), want) {
		t.Errorf("the page lacks %q", want)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("flush.bytes=1\n#x\nlisteners=A://[::1]:1,B://:0\n"), "store.url=s3://bucket/p?endpoint=http://x")
	f.Add([]byte("=\n==\nlog.retention.hours=2147483647"), "metadata.url=postgres://%zz")
	f.Fuzz(func(t *testing.T, file []byte, set string) {
		a, err := Load(file, []string{"VARVE_" + set}, []string{set})
		if err != nil {
			return
		}
		for _, k := range agentTable() {
			if err := k.Check(a.String(k.Name)); err != nil {
				t.Errorf("loaded, but %v", err)
			}
			if k.Type == Int || k.Type == Long {
				a.Int(k.Name)
			}
		}
		a.Listeners()
		a.Topic(nil)
	})
}
