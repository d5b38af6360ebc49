package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"varve.dev/agent/config"
	"varve.dev/agent/node"
	"varve.dev/localstack/e2e/apachekafka"
)

const (
	// patience bounds a whole run; the usual one takes half a minute.
	patience = 4 * time.Minute
	// kafkaStarts is how often Kafka is started: its ports were free a moment ago, and may be another's by now.
	kafkaStarts = 2
	// readyWithin bounds the start of Varve.
	readyWithin = 30 * time.Second
)

// settings are the same for both: keys that both have.
func settings() map[string]string {
	return map[string]string{
		"auto.create.topics.enable":        "true",
		"num.partitions":                   "2",
		"group.initial.rebalance.delay.ms": "0",
		"group.max.size":                   "3",
		"log.retention.ms":                 "-1", // the records' times are fixed, and so grow old
	}
}

// server is a running broker.
type server struct {
	addr string
	stop func() error
}

func startKafka(ctx context.Context, dir string) (*server, error) {
	jars, err := jarFolder()
	if err != nil {
		return nil, err
	}
	set := settings()
	set["offsets.topic.num.partitions"] = "1"
	var errs error
	for try := range kafkaStarts {
		folder := filepath.Join(dir, strconv.Itoa(try))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, err
		}
		b, err := apachekafka.Start(ctx, apachekafka.Config{Jars: jars, Dir: folder, Set: set})
		if err == nil {
			return &server{addr: b.Addr, stop: b.Stop}, nil
		}
		errs = errors.Join(errs, err)
	}
	return nil, fmt.Errorf("%w (localstack/e2e/install java installs what it needs)", errs)
}

// jarFolder is where localstack/e2e/install java has put Apache Kafka, of the version that the answers are recorded of.
func jarFolder() (string, error) {
	cache := os.Getenv("VARVE_CACHE")
	if cache == "" {
		base := os.Getenv("XDG_CACHE_HOME")
		if base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", err
			}
			base = filepath.Join(home, ".cache")
		}
		cache = filepath.Join(base, "varve")
	}
	jar := filepath.Join(cache, "e2e", "java", "kafka_2.13-"+kafkaVersion+".jar")
	if _, err := os.Stat(jar); err != nil {
		return "", fmt.Errorf("Apache Kafka is missing: %w: run localstack/e2e/install java", err)
	}
	return filepath.Dir(jar), nil
}

// startVarve runs an agent in this process on an empty folder. Nothing is sealed while it runs, so that no answer depends
// on how far the sealing is.
func startVarve(ctx context.Context, dir string) (*server, error) {
	file := append(config.DevDefaults(), "data.dir="+filepath.Join(dir, "local"), "metadata.url=sqlite:"+filepath.Join(dir, "metadata.db"),
		"store.url=file://"+filepath.ToSlash(filepath.Join(dir, "objects")))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	set := []string{"listeners=PLAINTEXT://127.0.0.1:0", "http.listen=127.0.0.1:0", "seal.age.ms=3600000", "log.level=error"}
	for k, v := range settings() {
		set = append(set, k+"="+v)
	}
	cfg, err := config.Load([]byte(strings.Join(file, "\n")), nil, set)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() { // ends with ctx; stop waits for it
		err := node.Run(ctx, cfg, in, io.Discard)
		in.Close()
		ended <- err
	}()
	stop := func() error {
		cancel()
		return <-ended
	}
	addr, err := ready(out)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return &server{addr: addr, stop: stop}, nil
}

// ready reads the agent's one line: ready kafka=HOST:PORT http=HOST:PORT.
func ready(out *io.PipeReader) (addr string, err error) {
	late := time.AfterFunc(readyWithin, func() { out.CloseWithError(errors.New("the agent did not say that it is ready")) })
	defer late.Stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("start the agent: %w", err)
	}
	rest, ok := strings.CutPrefix(line, "ready kafka=")
	if !ok {
		return "", fmt.Errorf("the agent said %q, want its ready line", line)
	}
	addr, _, _ = strings.Cut(rest, " ")
	return addr, nil
}
