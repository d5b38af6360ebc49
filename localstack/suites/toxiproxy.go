package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

var toxiproxy = module{"github.com/Shopify/toxiproxy/v2", "v2.12.0", "h1:d1x++lYZg/zijXPPcv7PH0MvHMzEI5aX/YuUi/Sw+yg="}

const (
	toxiproxyStart = 30 * time.Second // bounds its start; the usual one takes 0.1 s
	toxiproxyPoll  = 50 * time.Millisecond
)

// proxy is one of toxiproxy's, as its API shows it.
type proxy struct {
	Name     string `json:"name"`
	Listen   string `json:"listen"`
	Upstream string `json:"upstream"`
	Enabled  bool   `json:"enabled"`
}

// behindToxiproxy puts toxiproxy between sarama's tests and the agent: five proxies, as they expect, in front of one agent,
// which advertises the first. A test that cuts the others off, or looks for a second broker, has a reason in the list.
func behindToxiproxy(ctx context.Context, kafka, dir string) (around surroundings, err error) {
	source, err := toxiproxy.download(ctx, dir)
	if err != nil {
		return around, err
	}
	program := filepath.Join(dir, "toxiproxy")
	if _, err := goCommand(ctx, source, "build", "-o", program, "./cmd/server"); err != nil {
		return around, err
	}
	var proxies []proxy
	for n := range saramaBrokers {
		proxies = append(proxies, proxy{Name: fmt.Sprintf("kafka%d", n+1), Listen: saramaAddress(n + 1), Upstream: kafka, Enabled: true})
	}
	text, err := json.Marshal(proxies)
	if err != nil {
		return around, err
	}
	config := filepath.Join(dir, "toxiproxy.json")
	if err := os.WriteFile(config, text, 0o644); err != nil {
		return around, err
	}
	api, err := freeAddress()
	if err != nil {
		return around, err
	}
	stop, err := startToxiproxy(ctx, program, config, api, filepath.Join(dir, "toxiproxy.log"), proxies)
	if err != nil {
		return around, err
	}
	const kafkaVersion = "4.3.1" // what sarama's own environment runs
	return surroundings{env: []string{"TOXIPROXY_ADDR=http://" + api, "KAFKA_VERSION=" + kafkaVersion}, stop: stop}, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func startToxiproxy(ctx context.Context, program, config, api, logFile string, want []proxy) (stop func() error, err error) {
	host, port, err := net.SplitHostPort(api)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own descriptor
	cmd := exec.Command(program, "-host", host, "-port", port, "-config", config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start toxiproxy: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process, for which stop waits
	stop = func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		<-ended // how it ends says nothing: it has no state
		return nil
	}
	if err := awaitProxies(ctx, api, want); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// awaitProxies waits until toxiproxy serves these proxies, which proves that the ports are its own.
func awaitProxies(ctx context.Context, api string, want []proxy) error {
	ctx, cancel := context.WithTimeout(ctx, toxiproxyStart)
	defer cancel()
	tick := time.NewTicker(toxiproxyPoll)
	defer tick.Stop()
	for {
		err := proxiesServe(ctx, api, want)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("toxiproxy does not serve %s to %s, which sarama's tests expect: are they taken? %w",
				want[0].Listen, want[len(want)-1].Listen, err)
		}
	}
}

func proxiesServe(ctx context.Context, api string, want []proxy) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+api+"/proxies", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	const longest = 1 << 20 // five proxies are a few hundred bytes
	var got map[string]proxy
	if err := json.NewDecoder(io.LimitReader(resp.Body, longest)).Decode(&got); err != nil {
		return err
	}
	for _, p := range want {
		if got[p.Name] != p {
			return fmt.Errorf("proxy %s: got %+v, want %+v", p.Name, got[p.Name], p)
		}
	}
	return nil
}
