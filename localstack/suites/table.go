package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// suites are all that there are. The agent of each is a fresh one with the settings of `varve dev` and these.
var suites = []suite{
	{
		name:    "kgo",
		module:  module{"github.com/twmb/franz-go", "v1.22.2", "h1:EdwIHGzD/4mgCpl/sNS0C74JYn6cL/r2KYS+8UC96Ww="},
		pkg:     "pkg/kgo",
		depth:   1,
		timeout: 5 * time.Minute,
		// Tests that wait for each of 20,000 records in turn wait for a flush each time.
		settings: []string{"flush.interval.ms=5"},
		arrange: func(_ context.Context, kafka, _ string) (surroundings, error) {
			return surroundings{env: []string{"KGO_SEEDS=" + kafka, "KGO_TEST_RF=1", "KGO_TEST_RECORDS=50000", "KGO_LOG_LEVEL=none"}}, nil
		},
	},
	{
		name:     "librdkafka",
		module:   module{"github.com/confluentinc/confluent-kafka-go/v2", "v2.11.1", "h1:qGCQznyp2BxyBNyOE+M7O1YS2tI1/Y60O0jQP452zA4="},
		pkg:      "kafka",
		depth:    2,
		timeout:  8 * time.Minute,
		slow:     5 * time.Second,
		change:   withoutContainers,
		settings: []string{"num.partitions=4"},
		arrange:  testconf,
	},
	{
		name:    "sarama",
		module:  module{"github.com/IBM/sarama", "v1.61.1", "h1:I59MWPHQUWqJNdRpsDUcbeCriog8SxjQaPfHNWxidEg="},
		pkg:     ".",
		tags:    "functional",
		sources: "functional_*_test.go",
		depth:   1,
		timeout: 9 * time.Minute,
		slow:    5 * time.Second,
		// Its tests produce with acks=1 to topics of one replica and ask for the log's end at once: on a topic whose replica is the
		// object store the end moves with the commit, so theirs are local ones. That durability is then covered too.
		settings: []string{"log.varve.durability=local", "auto.create.topics.enable=false", "default.replication.factor=2", "broker.rack=1",
			"advertised.listeners=PLAINTEXT://" + saramaAddress(1)},
		arrange: behindToxiproxy,
	},
}

// withoutContainers takes out of the suite what would start brokers in containers, and with it several hundred modules: we
// bring a broker.
func withoutContainers(dir string) error {
	const file, theirs, ours = "kafka/integration_test.go", "github.com/testcontainers/testcontainers-go/modules/compose",
		"github.com/confluentinc/confluent-kafka-go/v2/compose"
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err
	}
	changed := strings.Replace(string(text), `"`+theirs+`"`, `"`+ours+`"`, 1)
	if changed == string(text) {
		return fmt.Errorf("%s does not import %s", file, theirs)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(changed), 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "compose"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "compose", "compose.go"), []byte(noCompose), 0o644)
}

// noCompose has the names that the suite uses; it calls none of them where testconf.json names a broker.
const noCompose = `package compose

type LocalDockerCompose struct{ Error error }

func NewLocalDockerCompose([]string, string) *LocalDockerCompose { panic("containers were left out") }

func (c *LocalDockerCompose) WithCommand([]string) *LocalDockerCompose { return c }
func (c *LocalDockerCompose) Invoke() *LocalDockerCompose             { return c }
func (c *LocalDockerCompose) Down() *LocalDockerCompose               { return c }
`

// testconf tells librdkafka's tests where the broker is, in a file of the folder that they run in.
func testconf(_ context.Context, kafka, dir string) (surroundings, error) {
	text, err := json.Marshal(map[string]any{"Brokers": kafka, "TopicName": "test", "GroupID": "testgroup", "PerfMsgCount": 1000})
	if err != nil {
		return surroundings{}, err
	}
	return surroundings{cwd: dir}, os.WriteFile(filepath.Join(dir, "testconf.json"), text, 0o644)
}

// saramaBrokers is how many addresses sarama's tests expect brokers at.
const saramaBrokers = 5

// saramaAddress is where they expect broker n, from 1. They do not ask.
func saramaAddress(n int) string { return net.JoinHostPort("127.0.0.1", fmt.Sprint(29090+n)) }
