package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// tools is one JVM that runs Kafka's command-line tools, one after the other.
type tools struct {
	t       *testing.T
	s       *suite
	calls   *json.Encoder
	answers chan toolAnswer
}

type toolCall struct {
	Class string   `json:"class"`
	Args  []string `json:"args"`
	Stdin string   `json:"stdin"`
}

type toolAnswer struct {
	Status int    `json:"status"`
	Out    string `json:"out"`
}

// testTools walks through a topic's and a group's life with the tools that Kafka's users script against.
func testTools(t *testing.T, s *suite) {
	if !everyClient() {
		t.Skip("Kafka's command-line tools run with VARVE_E2E=1")
	}
	if _, err := javaCommand(t, s); err != nil {
		missing(t, "%v: run localstack/e2e/install java", err)
	}
	x := startTools(t, s)
	topic := fmt.Sprintf("e2e-tools-%d", time.Now().UnixNano())
	toolTopics(x, topic)
	toolConfigs(x, topic)
	toolRecords(x, topic)
	toolGroups(x, topic)
	toolCluster(x, topic)
	x.ok("TopicCommand", "--delete", "--topic", topic)
	x.fails("does not exist", "TopicCommand", "--describe", "--topic", topic)
}

func toolTopics(x *tools, topic string) {
	x.ok("TopicCommand", "--create", "--topic", topic, "--partitions", "2", "--replication-factor", "1", "--config", "retention.ms=7200000")
	x.fails("already exists", "TopicCommand", "--create", "--topic", topic)
	x.fails("Unknown topic config name", "TopicCommand", "--create", "--topic", topic+"-x", "--config", "no.such.key=1")
	x.prints(`(?m)^`+topic+`$`, "TopicCommand", "--list")
	x.ok("TopicCommand", "--alter", "--topic", topic, "--partitions", "3")
	x.prints(`PartitionCount: 3\s+ReplicationFactor: 1\s.*retention\.ms=7200000`, "TopicCommand", "--describe", "--topic", topic)
}

func toolConfigs(x *tools, topic string) {
	of := []string{"--entity-type", "topics", "--entity-name", topic}
	x.ok("ConfigCommand", append(of, "--alter", "--add-config", "max.message.bytes=200000")...)
	x.prints(`max\.message\.bytes=200000 .*DYNAMIC_TOPIC_CONFIG`, "ConfigCommand", append(of, "--describe")...)
	x.ok("ConfigCommand", append(of, "--alter", "--delete-config", "max.message.bytes")...)
	if out := x.ok("ConfigCommand", append(of, "--describe")...); strings.Contains(out, "max.message.bytes") {
		x.t.Errorf("max.message.bytes is described after it was deleted:\n%s", out)
	}
	x.prints(`cleanup\.policy=delete sensitive=false synonyms=\{`, "ConfigCommand", append(of, "--describe", "--all")...)
}

// toolRecords produces ten records with the console producer and reads them back with the console consumer.
func toolRecords(x *tools, topic string) {
	var in strings.Builder
	for i := range 10 {
		fmt.Fprintf(&in, "n:%d|key-%d=value %d\n", i, i, i)
	}
	x.feed(in.String(), "ConsoleProducer", "--topic", topic, "--compression-codec", "zstd", "--reader-property", "parse.key=true",
		"--reader-property", "key.separator==", "--reader-property", "parse.headers=true", "--reader-property", "headers.delimiter=|")
	if sum := x.offsets("GetOffsetShell", "--topic", topic); sum != 10 {
		x.t.Errorf("end offsets sum to %d, want 10", sum)
	}
	out := x.ok("consumer.ConsoleConsumer", "--topic", topic, "--from-beginning", "--max-messages", "10", "--timeout-ms", "30000",
		"--group", topic+"-group", "--formatter-property", "print.key=true", "--formatter-property", "print.headers=true")
	for i := range 10 {
		if line := fmt.Sprintf("n:%d\tkey-%d\tvalue %d\n", i, i, i); !strings.Contains(out, line) {
			x.t.Errorf("the console consumer did not print %q:\n%s", line, out)
		}
	}
}

func toolGroups(x *tools, topic string) {
	name, command := topic+"-group", "consumer.group.ConsumerGroupCommand"
	x.prints(`(?m)^`+name+`$`, command, "--list")
	x.prints(name+` .*Classic`, "GroupsCommand", "--list")
	x.lag(name, 0)
	x.prints(`Empty`, command, "--describe", "--state", "--group", name)
	x.ok(command, "--reset-offsets", "--to-earliest", "--execute", "--topic", topic, "--group", name)
	x.lag(name, 10)
	x.ok(command, "--reset-offsets", "--to-datetime", time.Now().Add(-time.Hour).UTC().Format("2006-01-02T15:04:05.000"),
		"--execute", "--topic", topic, "--group", name)
	x.lag(name, 10)
	x.ok(command, "--delete-offsets", "--topic", topic, "--group", name)
	x.prints(`Deletion of requested consumer groups .* was successful`, command, "--delete", "--group", name)
	if out := x.ok(command, "--list"); strings.Contains(out, name) {
		x.t.Errorf("group %s is listed after its deletion:\n%s", name, out)
	}
}

func toolCluster(x *tools, topic string) {
	x.prints(`Cluster ID: \S+`, "ClusterTool", "cluster-id")
	x.prints(`Produce\(0\): 0 to \d+`, "BrokerApiVersionsCommand")
	x.prints(topic+`-0`, "LogDirsCommand", "--describe")
	file := filepath.Join(x.t.TempDir(), "offsets.json")
	list := fmt.Sprintf(`{"version":1,"partitions":[{"topic":%q,"partition":0,"offset":-1},{"topic":%q,"partition":1,"offset":-1},`+
		`{"topic":%q,"partition":2,"offset":-1}]}`, topic, topic, topic)
	if err := os.WriteFile(file, []byte(list), 0o600); err != nil {
		x.t.Fatal(err)
	}
	x.prints(`low_watermark: \d+`, "DeleteRecordsCommand", "--offset-json-file", file)
	if sum := x.offsets("GetOffsetShell", "--topic", topic, "--time", "earliest"); sum != 10 {
		x.t.Errorf("after DeleteRecords the log starts sum to %d, want 10", sum)
	}
}

func startTools(t *testing.T, s *suite) *tools {
	argv := s.java(t, "Tools")
	cmd := exec.Command(argv[0], argv[1:]...)
	var stderr lockedBuffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	x := &tools{t: t, s: s, calls: json.NewEncoder(in), answers: make(chan toolAnswer)}
	exited := make(chan error, 1)
	go func() { // ends with the JVM, which the cleanup kills
		defer close(x.answers)
		answers := json.NewDecoder(out)
		for {
			var a toolAnswer
			if err := answers.Decode(&a); err != nil {
				exited <- errors.Join(err, cmd.Wait())
				return
			}
			select {
			case x.answers <- a:
			case <-t.Context().Done():
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		err := <-exited
		if t.Failed() {
			t.Logf("the tools' JVM: %v\n%s", err, stderr.tail(50))
		}
	})
	return x
}

// call runs one tool against the broker under test. Short names are those below Kafka's tools package.
func (x *tools) call(stdin, class string, args ...string) toolAnswer {
	x.t.Helper()
	full := "org.apache.kafka.tools." + class
	if class == "ConfigCommand" {
		full = "kafka.admin.ConfigCommand"
	}
	c := toolCall{Class: full, Args: append(args[:len(args):len(args)], "--bootstrap-server", x.s.bootstrap), Stdin: stdin}
	if err := x.calls.Encode(c); err != nil {
		x.t.Fatalf("%s: %v", class, err)
	}
	select {
	case a, ok := <-x.answers:
		if !ok {
			x.t.Fatalf("%s %v ended the JVM", class, args)
		}
		return a
	case <-time.After(patience):
		x.t.Fatalf("%s %v did not answer within %s", class, args, patience)
		return toolAnswer{}
	}
}

func (x *tools) ok(class string, args ...string) string {
	x.t.Helper()
	return x.feed("", class, args...)
}

// feed runs a tool with standard input; it must succeed. Some tools print an error and still exit 0.
func (x *tools) feed(stdin, class string, args ...string) string {
	x.t.Helper()
	a := x.call(stdin, class, args...)
	if a.Status != 0 || strings.Contains(a.Out, "Exception") {
		x.t.Fatalf("%s %v: exit %d\n%s", class, args, a.Status, a.Out)
	}
	return a.Out
}

func (x *tools) prints(pattern, class string, args ...string) {
	x.t.Helper()
	if out := x.ok(class, args...); !regexp.MustCompile(pattern).MatchString(out) {
		x.t.Errorf("%s %v: nothing matches %s:\n%s", class, args, pattern, out)
	}
}

func (x *tools) fails(reason, class string, args ...string) {
	x.t.Helper()
	if a := x.call("", class, args...); a.Status == 0 || !strings.Contains(a.Out, reason) {
		x.t.Errorf("%s %v: exit %d, want a failure that says %q:\n%s", class, args, a.Status, reason, a.Out)
	}
}

// offsets sums the lines TOPIC:PARTITION:OFFSET.
func (x *tools) offsets(class string, args ...string) (sum int) {
	x.t.Helper()
	out := x.ok(class, args...)
	for line := range strings.Lines(out) {
		var offset int
		if _, err := fmt.Sscanf(line[strings.LastIndex(line, ":")+1:], "%d", &offset); err != nil {
			x.t.Fatalf("%s %v: %q: %v", class, args, line, err)
		}
		sum += offset
	}
	return sum
}

// lagColumn takes CURRENT-OFFSET, LOG-END-OFFSET and LAG out of a described group's line.
var lagColumn = regexp.MustCompile(`(?m)^\S+\s+\S+\s+\d+\s+(\d+)\s+(\d+)\s+(\d+)\s`)

func (x *tools) lag(group string, want int) {
	x.t.Helper()
	out := x.ok("consumer.group.ConsumerGroupCommand", "--describe", "--group", group)
	sum := 0
	for _, m := range lagColumn.FindAllStringSubmatch(out, -1) {
		var lag int
		if _, err := fmt.Sscan(m[3], &lag); err != nil {
			x.t.Fatal(err)
		}
		sum += lag
	}
	if sum != want || !lagColumn.MatchString(out) {
		x.t.Errorf("group %s lags by %d, want %d:\n%s", group, sum, want, out)
	}
}
