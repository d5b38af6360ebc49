package infra

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "varve.dev/"

// floors is the architecture: a package imports only from floors below its own. Tests may import anything.
var floors = [][]string{
	{"metadata", "objectstore", "tiering/batch/codec"},
	{"tiering/batch", "metadata/sqlmeta", "objectstore/s3api", "agent/config"},
	{"tiering/object", "tiering/journal", "objectstore/cache", "objectstore/file", "objectstore/memory", "objectstore/minio", "objectstore/s3",
		"metadata/postgres", "metadata/sqlite"},
	{"tiering/flush", "tiering/seal", "tiering/gc", "tiering/archive"},
	{"tiering/fetch"},
	{"tiering/partition"},
	{"agent/wire", "agent/console"},
	{"agent/catalog", "agent/group", "agent/session"},
	{"agent/broker"},
	{"agent/cli"},
	{"agent/node"},
	{"agent"},
}

// ours says which of our packages may use a foreign module: its types must not leak out of them.
var ours = map[string][]string{
	"github.com/jackc/pgx":                {"metadata/postgres"},
	"modernc.org/sqlite":                  {"metadata/sqlite"},
	"github.com/aws/":                     {"objectstore/s3"},
	"github.com/minio/":                   {"objectstore/minio"},
	"github.com/golang/snappy":            {"tiering/batch/codec"},
	"github.com/twmb/franz-go/pkg/kmsg":   {"agent/wire", "agent/broker", "agent/group", "agent/cli", "agent/node"},
	"github.com/twmb/franz-go/pkg/kgo":    {"agent/cli"},
	"github.com/alecthomas/kong":          {"agent/cli"},
	"github.com/schollz/progressbar":      {"agent/cli"},
	"github.com/prometheus/client_golang": nil, // everywhere
}

// outside is what stands beside the product: test suites and tools may import any of it.
func outside(pkg string) bool {
	for _, p := range []string{"localstack/", "infra", "metadata/metatest", "objectstore/storetest", "tiering/journal/journaltest"} {
		if strings.HasPrefix(pkg, p) {
			return true
		}
	}
	return false
}

func TestImportsGoDownwards(t *testing.T) {
	floor := map[string]int{}
	for i, names := range floors {
		for _, n := range names {
			floor[n] = i
		}
	}
	seen := map[string]bool{}
	each(t, func(pkg, file, imported string) {
		seen[pkg] = true
		own, known := floor[pkg]
		if !known {
			t.Errorf("%s: package %s stands on no floor: give it one", file, pkg)
			floor[pkg] = len(floors)
			return
		}
		if target, ok := strings.CutPrefix(imported, module); ok {
			if below, known := floor[target]; !known || below >= own {
				t.Errorf("%s: %s (floor %d) imports %s (floor %d): imports go downwards only", file, pkg, own, target, below)
			}
			return
		}
		for prefix, users := range ours {
			if strings.HasPrefix(imported, prefix) && users != nil && !slices.Contains(users, pkg) {
				t.Errorf("%s: %s imports %s, which belongs to %v", file, pkg, imported, users)
			}
		}
	})
	for _, names := range floors {
		for _, n := range names {
			if !seen[n] {
				t.Errorf("package %s stands on a floor but has no code", n)
			}
		}
	}
}

// each calls f with every import of every file of the product that is not a test.
func each(t *testing.T, f func(pkg, file, imported string)) {
	t.Helper()
	root := ".."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || outside(rel+"/")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		pkg := filepath.ToSlash(filepath.Dir(rel))
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		if len(parsed.Imports) == 0 {
			f(pkg, rel, "")
		}
		for _, i := range parsed.Imports {
			f(pkg, rel, strings.Trim(i.Path.Value, `"`))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
