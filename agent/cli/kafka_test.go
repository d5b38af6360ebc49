package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// cluster is a broker to run commands against, and a shell that knows its address.
type cluster struct {
	*shell
	fake *kfake.Cluster
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(1),
		kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	t.Setenv("VARVE_BROKERS", strings.Join(fake.ListenAddrs(), ","))
	return &cluster{newShell(t), fake}
}

func TestTopicsLiveAndDie(t *testing.T) {
	c := newCluster(t)
	if got := c.ok("", "topic", "create", "orders", "--partitions", "3", "--config", "retention.ms=1000"); got != "created orders with 3 partitions\n" {
		t.Errorf("create printed %q", got)
	}
	c.fails(1, `create topic "orders": TOPIC_ALREADY_EXISTS`, "topic", "create", "orders")
	if got := c.ok("", "topic", "create", "orders", "--if-not-exists"); got != "orders was there already\n" {
		t.Errorf("create printed %q", got)
	}
	if got := fromJSONText[[]createdTopic](t, c.ok("", "topic", "create", "other", "--json")); len(got) != 1 || got[0].Topic != "other" || got[0].ID == "" {
		t.Errorf("create printed %+v", got)
	}
	list := fromJSONText[[]listedTopic](t, c.ok("", "topic", "list", "--json"))
	if len(list) != 2 || list[0].Topic != "orders" || list[0].Partitions != 3 {
		t.Errorf("topics are %+v", list)
	}
	if page := c.ok("", "topic", "list"); !strings.HasPrefix(page, "TOPIC   PARTITIONS") {
		t.Errorf("the table is\n%s", page)
	}
	c.ok("", "topic", "alter", "orders", "--config", "max.message.bytes=2000", "--delete-config", "retention.ms", "--partitions", "5")
	described := fromJSONText[[]describedTopic](t, c.ok("", "topic", "describe", "orders", "--json"))[0]
	if len(described.Partitions) != 5 || len(described.Configs) != 1 || described.Configs[0].Name != "max.message.bytes" {
		t.Errorf("described as %+v", described)
	}
	if page := c.ok("", "topic", "describe", "orders"); !strings.Contains(page, "max.message.bytes  2000   topic") {
		t.Errorf("the page is\n%s", page)
	}
	if got := c.ok("", "topic", "delete", "orders", "other"); got != "deleted orders\ndeleted other\n" {
		t.Errorf("delete printed %q", got)
	}
	c.fails(1, `topic "orders" does not exist`, "topic", "describe", "orders")
	c.fails(1, `delete topic "orders": UNKNOWN_TOPIC_OR_PARTITION`, "topic", "delete", "orders")
	if got := c.ok("", "topic", "list", "--json"); got != "[]\n" {
		t.Errorf("no topics are printed as %q", got)
	}
}

func TestElectionsReportWhatHappened(t *testing.T) {
	c := newCluster(t)
	c.ok("", "topic", "create", "orders", "--partitions", "2")
	var asked *kmsg.ElectLeadersRequest
	c.fake.ControlKey(kmsg.ElectLeaders.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.fake.KeepControl()
		asked = req.(*kmsg.ElectLeadersRequest)
		resp := asked.ResponseKind().(*kmsg.ElectLeadersResponse)
		topic := kmsg.NewElectLeadersResponseTopic()
		topic.Topic = "orders"
		for p, code := range []int16{84, 0} { // ELECTION_NOT_NEEDED, elected
			result := kmsg.NewElectLeadersResponseTopicPartition()
			result.Partition, result.ErrorCode = int32(p), code
			topic.Partitions = append(topic.Partitions, result)
		}
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	page := c.ok("", "topic", "elect", "orders", "--unclean")
	if !strings.Contains(page, "orders  0          not needed") || !strings.Contains(page, "orders  1          elected") {
		t.Errorf("the table is\n%s", page)
	}
	if asked.ElectionType != 1 || len(asked.Topics[0].Partitions) != 2 {
		t.Errorf("asked for election type %d of %+v", asked.ElectionType, asked.Topics)
	}
}

func TestWhatIsProducedIsConsumed(t *testing.T) {
	c := newCluster(t)
	c.ok("", "topic", "create", "t")
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		c.ok("k\tv-"+codec+"\n", "produce", "t", "--key-separator", `\t`, "--codec", codec, "--header", "a=1", "--header", "b=x=y")
	}
	c.ok("plain\r\n\nno line end", "produce", "t", "--acks", "1")
	got := c.ok("", "consume", "t", "--until-end", "-f", `%t %p %o %k %K %v %V %h %H%%\x21\n`)
	want := ""
	for i, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		want += fmt.Sprintf("t 0 %d k 1 v-%s %d a=1,b=x=y 2%%!\n", i, codec, len("v-"+codec))
	}
	want += "t 0 5 NULL -1 plain 5  0%!\nt 0 6 NULL -1  0  0%!\nt 0 7 NULL -1 no line end 11  0%!\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("consumed (-want +got):\n%s", diff)
	}
}

func TestJSONGoesRound(t *testing.T) {
	c := newCluster(t)
	c.ok("", "topic", "create", "from", "to", "--partitions", "2")
	lines := `{"key":"a","value":"1","timestamp":1700000000000,"partition":1,"headers":[{"key":"h","value":"x"},{"key":"null"}]}
{"key_base64":"/w==","value":"","timestamp":1700000000001,"partition":0}
{"key":"deleted","timestamp":1700000000002,"partition":0}
`
	result := fromJSONText[produceResult](t, c.ok(lines, "produce", "from", "--json"))
	if result.Records != 3 || result.Topic != "from" {
		t.Errorf("result is %+v", result)
	}
	copied := c.ok("", "consume", "from", "--until-end", "--json")
	c.ok(copied, "produce", "to", "--json")
	again := c.ok("", "consume", "to", "--until-end", "--json")
	sorted := func(text string) string {
		lines := strings.Split(text, "\n")
		if strings.Contains(lines[0], `"partition":1`) {
			lines = append(lines[1:3], lines[0])
		}
		return strings.Join(lines[:3], "\n")
	}
	if diff := cmp.Diff(sorted(copied), strings.ReplaceAll(sorted(again), `"topic":"to"`, `"topic":"from"`)); diff != "" {
		t.Errorf("the copy differs (-from +to):\n%s", diff)
	}
	o := c.exec("{\"value\":\"1\"}\n{\"valeu\":\"2\"}\n", "produce", "to", "--json")
	if o.code != 1 || !strings.Contains(o.stderr, `line "{\"valeu\":\"2\"}" cannot be read as a record`) {
		t.Errorf("a bad line ended with %d, %q", o.code, o.stderr)
	}
}

func TestPositions(t *testing.T) {
	c := newCluster(t)
	c.ok("", "topic", "create", "t")
	var lines strings.Builder
	for i := range 10 {
		fmt.Fprintf(&lines, `{"value":"%d","timestamp":%d}`+"\n", i, 1_700_000_000_000+i*60_000)
	}
	c.ok(lines.String(), "produce", "t", "--json")
	c.now = time.UnixMilli(1_700_000_000_000 + 10*60_000)
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{}, "0123456789"},
		{[]string{"--from", "beginning", "--count", "3"}, "012"},
		{[]string{"--from", "end"}, ""},
		{[]string{"--offset", "7"}, "789"},
		{[]string{"--offset", "-2"}, "89"},
		{[]string{"--offset", "99"}, ""},
		{[]string{"--time", "1700000300000"}, "56789"},
		{[]string{"--time", "-2m"}, "89"},
		{[]string{"--time", "2100-01-01T00:00:00Z"}, ""},
		{[]string{"--partition", "0", "--offset", "9"}, "9"},
	} {
		got := c.ok("", append([]string{"consume", "t", "--until-end", "-f", "%v"}, x.args...)...)
		if got != x.want {
			t.Errorf("%v gave %q, want %q", x.args, got, x.want)
		}
	}
	c.fails(1, `topic "t" has no partition [4]`, "consume", "t", "--partition", "4", "--until-end")
	c.fails(1, `topic "absent" does not exist`, "consume", "absent", "--until-end")
	c.fails(2, "exclude each other", "consume", "t", "--offset", "1", "--time", "-1h")
}

func TestAGroupGoesOnWhereItStopped(t *testing.T) {
	c := newCluster(t)
	c.ok("", "topic", "create", "t")
	c.ok("0\n1\n2\n3\n", "produce", "t")
	if got := c.ok("", "consume", "t", "--group", "g", "--count", "2", "-f", "%v"); got != "01" {
		t.Errorf("first run gave %q", got)
	}
	if got := c.ok("", "consume", "t", "--group", "g", "--until-end", "-f", "%v"); got != "23" {
		t.Errorf("second run gave %q", got)
	}
	if got := c.ok("", "consume", "t", "--group", "g", "--until-end", "-f", "%v"); got != "" {
		t.Errorf("third run gave %q", got)
	}
	c.ok("4\n", "produce", "t")
	g := fromJSONText[[]describedGroup](t, c.ok("", "group", "describe", "g", "--json"))[0]
	if g.Lag != 1 || g.Partitions[0].Committed != 4 || g.Partitions[0].End != 5 || g.State != "Empty" {
		t.Errorf("described as %+v", g)
	}
	if page := c.ok("", "group", "describe", "g"); !strings.Contains(page, "group g, Empty, 0 members, lag 1") {
		t.Errorf("the page is\n%s", page)
	}
	if list := fromJSONText[[]listedGroup](t, c.ok("", "group", "list", "--json")); len(list) != 1 || list[0].Group != "g" {
		t.Errorf("groups are %+v", list)
	}
	planned := fromJSONText[[]seek](t, c.ok("", "group", "seek", "g", "--offset", "1", "--dry-run", "--json"))
	if diff := cmp.Diff([]seek{{"t", 0, 4, 1}}, planned); diff != "" {
		t.Errorf("planned (-want +got):\n%s", diff)
	}
	c.ok("", "group", "seek", "g", "--offset", "-1")
	if got := c.ok("", "consume", "t", "--group", "g", "--until-end", "-f", "%v"); got != "4" {
		t.Errorf("after the seek it gave %q", got)
	}
	if got := c.ok("", "group", "delete", "g"); got != "deleted g\n" {
		t.Errorf("delete printed %q", got)
	}
	c.fails(1, `group "g" does not exist`, "group", "describe", "g")
	c.fails(1, `has no committed offsets: give --topic`, "group", "seek", "g", "--from", "end")
}

func TestUntilEndPassesControlRecordsAtTheEnd(t *testing.T) {
	c := newCluster(t)
	c.ok("", "topic", "create", "t")
	client, err := kgo.NewClient(kgo.SeedBrokers(c.fake.ListenAddrs()...), kgo.TransactionalID("x"), kgo.DefaultProduceTopic("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(t.Context(), kgo.StringRecord("in a transaction")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{nil, {"--group", "g"}} {
		got := c.ok("", append([]string{"consume", "t", "--until-end", "-f", "%o %v"}, args...)...)
		if got != "0 in a transaction" {
			t.Errorf("%v gave %q", args, got)
		}
	}
}

func TestCtrlCWritesWhatProduceHasRead(t *testing.T) {
	c := newCluster(t)
	c.ok("", "topic", "create", "t")
	ctx, cancel := context.WithCancel(t.Context())
	stdin, keyboard := io.Pipe()
	defer keyboard.Close()
	c.fake.ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		cancel() // the record is on its way, and nobody has closed standard input
		return nil, nil, false
	})
	go func() { _, _ = keyboard.Write([]byte("a\n")) }()
	var stdout, stderr strings.Builder
	in := &invocation{ctx: ctx, stdin: stdin, stdout: &stdout, stderr: &stderr, environ: c.environ, now: time.Now}
	if code := in.main([]string{"produce", "t"}); code != 1 || !strings.Contains(stderr.String(), "interrupted: what was read is written (1 record written before)") {
		t.Errorf("it ended with %d, %q", code, stderr.String())
	}
	if got := c.ok("", "consume", "t", "--until-end", "-f", "%v"); got != "a" {
		t.Errorf("the log holds %q", got)
	}
}

func TestCtrlCEndsConsumeInOrder(t *testing.T) {
	c := newCluster(t)
	c.ok("", "topic", "create", "t")
	c.ok("0\n", "produce", "t")
	ctx, cancel := context.WithCancel(t.Context())
	c.fake.ControlKey(kmsg.Fetch.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		cancel() // as if the user stopped it while it waits
		return nil, nil, false
	})
	if o := c.execContext(ctx, "", "consume", "t", "--from", "end", "-f", "%v"); o.code != 0 || o.stderr != "" {
		t.Errorf("it ended with %d, %q", o.code, o.stderr)
	}
}

func TestTheFirstRecordThatCannotBeWrittenEndsProduce(t *testing.T) {
	c := newCluster(t)
	c.ok("", "topic", "create", "t")
	o := c.exec("a\n"+strings.Repeat("x", 2_000_000)+"\nb\n", "produce", "t")
	if o.code != 1 || !strings.Contains(o.stderr, "MESSAGE_TOO_LARGE") {
		t.Errorf("it ended with %d, %q", o.code, o.stderr)
	}
	o = c.exec("a\n", "produce", "t", "--partition", "5")
	if o.code != 1 || !strings.Contains(o.stderr, "write to t: ") {
		t.Errorf("an unknown partition ended with %d, %q", o.code, o.stderr)
	}
	o = c.exec("nokey\n", "produce", "t", "--key-separator", ":")
	if o.code != 1 || !strings.Contains(o.stderr, `line "nokey" cannot be read as a record: the separator ":" is not in it`) {
		t.Errorf("a line without a key ended with %d, %q", o.code, o.stderr)
	}
}

func TestAnAbsentBrokerIsOneSentence(t *testing.T) {
	s := newShell(t)
	s.fails(1, "no broker answers at 127.0.0.1:1 (", "topic", "list", "--brokers", "127.0.0.1:1")
	s.fails(1, "connection refused", "produce", "t", "--brokers", "127.0.0.1:1")
}

func TestKeysLandWhereKafkasClientsPutThem(t *testing.T) {
	c := newCluster(t)
	c.ok("", "topic", "create", "t", "--partitions", "7")
	c.ok("21:x\nfoobar:x\n", "produce", "t", "--key-separator", ":")
	got := c.ok("", "consume", "t", "--until-end", "-f", "%k=%p\n")
	// murmur2 of Kafka's own test vectors, modulo seven: -973932308 and -790332482, both made positive by masking
	want := map[string]int{"21": int((uint32(0xFFFFFFFF-973932308+1) & 0x7fffffff) % 7), "foobar": int((uint32(0xFFFFFFFF-790332482+1) & 0x7fffffff) % 7)}
	for key, partition := range want {
		if line := fmt.Sprintf("%s=%d\n", key, partition); !strings.Contains(got, line) {
			t.Errorf("got %q, want %q", got, line)
		}
	}
}

func FuzzFormat(f *testing.F) {
	f.Add(`%t %p %o %k=%v %h\n`)
	f.Add(`%`)
	f.Add(`\x4`)
	f.Fuzz(func(t *testing.T, layout string) {
		write, err := formatWriter(layout)
		if err != nil {
			var usage usageError
			if !errors.As(err, &usage) {
				t.Errorf("%v is not a mistake of usage", err)
			}
			return
		}
		var out strings.Builder
		if err := write(&out, &kgo.Record{Topic: "t", Timestamp: time.UnixMilli(0)}); err != nil {
			t.Error(err)
		}
	})
}

func FuzzJSONRecord(f *testing.F) {
	f.Add([]byte(`{"key":"a","value_base64":"/w==","headers":[{"key":"h"}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := fromJSON(line)
		if err != nil {
			return
		}
		var out strings.Builder
		if err := jsonWriter(&out, r); err != nil {
			t.Fatal(err)
		}
		again, err := fromJSON([]byte(out.String()))
		if err != nil {
			t.Fatalf("%v in %s", err, out.String())
		}
		if string(again.Key) != string(r.Key) || string(again.Value) != string(r.Value) || len(again.Headers) != len(r.Headers) {
			t.Errorf("%q became %q", line, out.String())
		}
	})
}
