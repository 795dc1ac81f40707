package flagstead

import (
	"bytes"
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/flagstead/flagstead"

// allowed says which packages of ours, and which modules of others, each
// package may import itself. It keeps the rooms apart: a program that reads
// from Redis must not link a WebSocket server, one without Redis no Redis
// client. Do not widen it to make something build; move the code.
var allowed = map[string][]string{
	"store":            {},
	"store/storetest":  {"store"},
	"store/faultstore": {"store"},
	"store/memory":     {"store", "internal/history"},
	"store/redis":      {"store", "internal/history", "internal/wire", "github.com/redis/go-redis/v9"},
	"store/bolt":       {"store", "internal/beat", "internal/fswatch", "internal/histdir", "go.etcd.io/bbolt"},
	"store/file":       {"store", "internal/beat", "internal/fswatch", "internal/histdir", "internal/wire", "go.yaml.in/yaml/v4"},

	"internal/wire":      {"store", "internal/jsonwalk"},
	"internal/beat":      {"store"},
	"internal/history":   {"store"},
	"internal/histdir":   {"store", "internal/fswatch", "internal/history"},
	"internal/fswatch":   {"github.com/fsnotify/fsnotify"},
	"internal/flags":     {"internal/jsonwalk"},
	"internal/jsonwalk":  {},
	"internal/protocol":  {},
	"internal/snapshot":  {"store", "internal/flags", "internal/wire"},
	"internal/delivery":  {"internal/protocol"},
	"internal/insight":   {"internal/delivery", "internal/flags", "internal/protocol"},
	"internal/spool":     {"internal/protocol"},
	"internal/forward":   {"store", "syncer", "internal/delivery", "internal/protocol", "internal/spool"},
	"internal/verify":    {"internal/flags", "internal/snapshot", "internal/wire"},
	"internal/redistest": {},
	"internal/e2e":       {},

	"metrics":            {},
	"metrics/prometheus": {"metrics", "github.com/prometheus/client_golang", "github.com/prometheus/common"},
	"metrics/otel":       {"metrics", "go.opentelemetry.io/otel"},

	"syncer": {"metrics", "store", "internal/protocol", "internal/wire", "github.com/gorilla/websocket"},
	"relay":  {"metrics", "store", "internal/flags", "internal/protocol", "internal/snapshot", "internal/wire", "github.com/gorilla/websocket", "github.com/rs/cors", "golang.org/x/sync", "golang.org/x/time"},
	"sdk":    {"metrics", "store", "store/memory", "syncer", "internal/flags", "internal/insight", "internal/protocol", "internal/snapshot"},
}

// unrestricted wire things together.
var unrestricted = []string{"cmd/", "examples/", "internal/fleet/", "internal/relaybench/", "internal/torture/"}

// never lists what a package must not reach even indirectly, and why.
var never = []struct{ from, to, why string }{
	{"sdk", "github.com/redis/go-redis/v9", "a program without Redis links no Redis client"},
	{"sdk", "go.etcd.io/bbolt", "a program without bolt links no bolt"},
	{"sdk", "github.com/fsnotify/fsnotify", "a program that watches no file links no watcher"},
	{"sdk", module + "/relay", "a client is no server"},
	{"sdk", "github.com/prometheus", "who measures does not choose who collects"},
	{"sdk", "go.opentelemetry.io", "who measures does not choose who collects"},
	{"syncer", "github.com/prometheus", "who measures does not choose who collects"},
	{"syncer", "go.opentelemetry.io", "who measures does not choose who collects"},
	{"relay", "github.com/prometheus", "who measures does not choose who collects"},
	{"relay", "go.opentelemetry.io", "who measures does not choose who collects"},
	{"metrics/prometheus", "go.opentelemetry.io", "one way of collecting does not bring the other"},
	{"metrics/otel", "github.com/prometheus", "one way of collecting does not bring the other"},
	{"store/redis", "github.com/gorilla/websocket", "a reader of Redis has no connection to FeatBit"},
	{"store/bolt", "github.com/gorilla/websocket", "a reader of bolt has no connection to FeatBit"},
	{"store/file", "github.com/gorilla/websocket", "a reader of a file has no connection to FeatBit"},
	{"syncer", module + "/internal/flags", "a syncer moves items and knows nothing of flags"},
	{"store", module + "/", "the contract depends on nothing"},
}

type pkg struct {
	ImportPath string
	Name       string
	Standard   bool
	Imports    []string
	Deps       []string
}

func list(t *testing.T) map[string]pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Standard,Imports,Deps", "-deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

func TestImports(t *testing.T) {
	all := list(t)
	seen := 0
	for path, p := range all {
		name, ours := strings.CutPrefix(path, module+"/")
		if !ours {
			continue
		}
		if slices.ContainsFunc(unrestricted, func(prefix string) bool { return strings.HasPrefix(name+"/", prefix) }) {
			continue
		}
		rules, known := allowed[name]
		if !known {
			t.Errorf("package %s has no entry in the import rules", name)
			continue
		}
		seen++
		for _, imp := range p.Imports {
			if imp == "C" || all[imp].Standard {
				continue
			}
			short := strings.TrimPrefix(imp, module+"/")
			if !slices.ContainsFunc(rules, func(rule string) bool {
				return short == rule || imp == rule || strings.HasPrefix(imp, rule+"/") && !strings.HasPrefix(imp, module)
			}) {
				t.Errorf("%s must not import %s", name, short)
			}
		}
	}
	if seen != len(allowed) {
		t.Errorf("the rules name %d packages, %d exist", len(allowed), seen)
	}
}

func TestNeverReached(t *testing.T) {
	all := list(t)
	for _, n := range never {
		p, ok := all[module+"/"+n.from]
		if !ok {
			t.Errorf("there is no package %s", n.from)
			continue
		}
		for _, dep := range p.Deps {
			if dep == n.to || strings.HasPrefix(dep, strings.TrimSuffix(n.to, "/")+"/") {
				t.Errorf("%s reaches %s: %s", n.from, dep, n.why)
			}
		}
	}
}
