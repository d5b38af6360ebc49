package agentserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadyLine(t *testing.T) {
	if got, ok := parseReady("ready kafka=127.0.0.1:9 http=[::1]:8"); !ok || got != (Endpoints{"127.0.0.1:9", "[::1]:8"}) {
		t.Errorf("got %v, %v", got, ok)
	}
	for _, line := range []string{"", "ready", "ready kafka=x", "level=info msg=ready kafka=a http=b"} {
		if got, ok := parseReady(line); ok {
			t.Errorf("%q was taken for %v", line, got)
		}
	}
}

// script is a program that plays the agent.
func script(t *testing.T, text string) Config {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "agent")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return Config{Program: name, Log: filepath.Join(dir, "log")}
}

func TestAnAgentIsStartedAndStopped(t *testing.T) {
	a, err := Start(t.Context(), script(t, `trap 'kill $!; exit 0' TERM
sleep 60 >/dev/null 2>&1 &
echo noise; echo "ready kafka=a:1 http=b:2"; wait`))
	if err != nil {
		t.Fatal(err)
	}
	if a.Kafka != "a:1" || a.HTTP != "b:2" {
		t.Errorf("it answers at %v", a.Endpoints)
	}
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
	select {
	case <-a.Done():
	default:
		t.Error("Stop returned before the process had ended")
	}
}

func TestAnAgentThatDiesIsQuoted(t *testing.T) {
	_, err := Start(t.Context(), script(t, `echo "bucket x does not exist" >&2; exit 3`))
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "bucket x does not exist") {
		t.Errorf("got %v", err)
	}
}

func TestStartGivesUpWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, script(t, `exec sleep 60`)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}
