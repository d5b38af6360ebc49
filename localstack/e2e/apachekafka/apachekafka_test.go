package apachekafka_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"varve.dev/localstack/e2e/apachekafka"
)

func TestStartNamesWhatJavaSaid(t *testing.T) {
	_, err := apachekafka.Start(t.Context(), apachekafka.Config{Jars: t.TempDir(), Dir: t.TempDir()})
	if err == nil {
		t.Fatal("Kafka started from an empty folder of jars")
	}
	if !strings.Contains(err.Error(), "StorageTool") {
		t.Errorf("got %v, want the reason that java gave, or that there is no java", err)
	}
}

func TestSettingsOverrideDefaults(t *testing.T) {
	dir := t.TempDir()
	_, err := apachekafka.Start(t.Context(), apachekafka.Config{Jars: t.TempDir(), Dir: dir,
		Set: map[string]string{"node.id": "7", "num.partitions": "5"}})
	if err == nil {
		t.Fatal("Kafka started from an empty folder of jars")
	}
	got, err := os.ReadFile(filepath.Join(dir, "server.properties"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"node.id=7\n", "num.partitions=5\n", "process.roles=broker,controller\n"} {
		if !strings.Contains(string(got), line) {
			t.Errorf("server.properties lacks %q:\n%s", line, got)
		}
	}
}
