// Package apachekafka runs Apache Kafka's own broker from jars, as the peer that answers are compared with.
package apachekafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Config says what to run and where.
type Config struct {
	Jars string            // folder with kafka_2.13 and all it needs (localstack/e2e/install puts it into the cache)
	Dir  string            // empty folder for its configuration and log
	Set  map[string]string // Kafka's own settings, over those below
	Log  io.Writer         // what the broker prints; nil drops it
	Port int               // 0 takes a free one
	JVM  []string          // options of the JVM; nil: a small one, because tests start several beside each other
}

// readyWithin bounds the start: some 6 s on an idle machine with two cores.
const readyWithin = 90 * time.Second

// stopWithin bounds a clean stop; afterwards the process is killed.
const stopWithin = 20 * time.Second

// clusterID is any 22 characters that decode to 16 bytes. A broker that answers with another one is not ours.
const clusterID = "dmFydmUtZTJlLWthZmthMQ"

// Broker is one running Kafka, controller and broker in one process.
type Broker struct {
	Addr string // HOST:PORT of its plain listener

	cfg     Config
	process *exec.Cmd
	exited  chan struct{} // closed when the process has ended; err is set then
	err     error
}

// Start formats cfg.Dir, starts the broker and returns when it answers. The caller stops it.
func Start(ctx context.Context, cfg Config) (*Broker, error) {
	port, err := freePort(cfg.Port)
	if err != nil {
		return nil, err
	}
	quorum, err := freePort(0)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(cfg.Dir, "server.properties")
	if err := os.WriteFile(file, properties(cfg, port, quorum), 0o644); err != nil {
		return nil, err
	}
	format := java(ctx, cfg, "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", file)
	if out, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format %s with Kafka's StorageTool: %w: %s", cfg.Dir, err, out)
	}
	b := &Broker{Addr: fmt.Sprintf("127.0.0.1:%d", port), cfg: cfg}
	if err := b.Restart(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// Restart runs the broker on the folder and the port that it had, after Kill, and returns when it answers.
func (b *Broker) Restart(ctx context.Context) error {
	b.process = java(context.WithoutCancel(ctx), b.cfg, "kafka.Kafka", filepath.Join(b.cfg.Dir, "server.properties"))
	b.process.Stdout, b.process.Stderr = b.cfg.Log, b.cfg.Log
	if err := b.process.Start(); err != nil {
		return fmt.Errorf("start Kafka: %w", err)
	}
	b.exited = make(chan struct{})
	go func() { // ends with the process; Stop and Kill wait for it
		defer close(b.exited)
		b.err = b.process.Wait()
	}()
	if err := b.ready(ctx); err != nil {
		return errors.Join(err, b.Stop())
	}
	return nil
}

// Kill ends the broker as a crash would.
func (b *Broker) Kill() error {
	err := b.process.Process.Kill()
	<-b.exited
	return err
}

func java(ctx context.Context, cfg Config, class string, args ...string) *exec.Cmd {
	cp := filepath.Join(cfg.Jars, "*")
	options := cfg.JVM
	if options == nil {
		options = []string{"-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"}
	}
	cmd := exec.CommandContext(ctx, "java", slices.Concat(options, []string{"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", cp, class}, args)...)
	cmd.Dir = cfg.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the one who started us
	return cmd
}

func properties(cfg Config, port, quorum int) []byte {
	set := map[string]string{
		"process.roles":                                    "broker,controller",
		"node.id":                                          "1",
		"controller.quorum.voters":                         fmt.Sprintf("1@127.0.0.1:%d", quorum),
		"controller.listener.names":                        "CONTROLLER",
		"listeners":                                        fmt.Sprintf("PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", port, quorum),
		"log.dirs":                                         filepath.Join(cfg.Dir, "log"),
		"offsets.topic.num.partitions":                     "4",
		"offsets.topic.replication.factor":                 "1",
		"transaction.state.log.num.partitions":             "4",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"share.coordinator.state.topic.replication.factor": "1",
		"share.coordinator.state.topic.min.isr":            "1",
	}
	maps.Copy(set, cfg.Set)
	var out strings.Builder
	for _, k := range slices.Sorted(maps.Keys(set)) {
		fmt.Fprintf(&out, "%s=%s\n", k, set[k])
	}
	return []byte(out.String())
}

// freePort returns want, or one that was free a moment ago: Kafka cannot tell its controllers about port 0.
func freePort(want int) (int, error) {
	if want != 0 {
		return want, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// ready returns when the broker answers under our cluster's id and lists itself.
func (b *Broker) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RetryTimeout(time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		meta, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
		if err == nil && len(meta.Brokers) == 1 {
			return ours(meta.ClusterID)
		}
		select {
		case <-again.C:
		case <-b.exited:
			return fmt.Errorf("Kafka ended before it answered on %s: %w", b.Addr, b.err)
		case <-ctx.Done():
			return fmt.Errorf("Kafka did not answer on %s within %s: %w", b.Addr, readyWithin, err)
		}
	}
}

func ours(id *string) error {
	if id == nil || *id != clusterID {
		return fmt.Errorf("another broker has taken the port: cluster id %v, want %s", id, clusterID)
	}
	return nil
}

// PID is the broker's process, whose CPU may be counted.
func (b *Broker) PID() int { return b.process.Process.Pid }

// Stop ends the broker cleanly if it can, and waits for it.
func (b *Broker) Stop() error {
	_ = b.process.Process.Signal(syscall.SIGTERM) // an error means it has ended
	late := time.NewTimer(stopWithin)
	defer late.Stop()
	select {
	case <-b.exited:
		return nil
	case <-late.C:
	}
	err := b.process.Process.Kill()
	<-b.exited
	return errors.Join(fmt.Errorf("Kafka did not stop within %s", stopWithin), err)
}
