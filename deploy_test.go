package flagstead

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/flagstead/flagstead/internal/fleet"
	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

func readText(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// documents parses a file of YAML documents.
func documents(t *testing.T, name string) (all []map[string]any) {
	t.Helper()
	for _, text := range regexp.MustCompile(`(?m)^---$`).Split(readText(t, name), -1) {
		var d map[string]any
		if err := yaml.Unmarshal([]byte(text), &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, d)
	}
	return all
}

// at walks into a document: at(t, d, "spec", "containers", 0, "image").
func at(t *testing.T, d any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch key := step.(type) {
		case string:
			m, ok := d.(map[string]any)
			if !ok || m[key] == nil {
				t.Fatalf("there is no %v of %v", key, path)
			}
			d = m[key]
		case int:
			list, ok := d.([]any)
			if !ok || len(list) <= key {
				t.Fatalf("there is no %v of %v", key, path)
			}
			d = list[key]
		}
	}
	return d
}

// config reads a configuration as flagstead serve does, with a secret where its
// secret-file is to be.
func config(t *testing.T, text, secretFile string) *fleet.Config {
	t.Helper()
	dir := t.TempDir()
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, secretFile) {
		t.Fatalf("the configuration does not name %s: %s", secretFile, text)
	}
	file := filepath.Join(dir, "prod.secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "flagstead.yaml")
	if err := os.WriteFile(name, []byte(strings.ReplaceAll(text, secretFile, file)), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := fleet.Read(name, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	cfg.FeatBit.URL = cmp.Or(cfg.FeatBit.URL, "wss://from.the.environment.example") // FLAGSTEAD_URL
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestDeployConfigurations: what deploy/ has serve read is right, and nobody ends a
// process before it has drained.
func TestDeployConfigurations(t *testing.T) {
	unit := readText(t, "deploy/systemd/flagstead.service")
	const credential = "${CREDENTIALS_DIRECTORY}/prod.secret"
	cfg := config(t, readText(t, "deploy/flagstead.yaml"), credential)
	var stop int
	for line := range strings.Lines(unit) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "TimeoutStopSec="); ok {
			for _, c := range rest {
				stop = stop*10 + int(c-'0')
			}
		}
	}
	if time.Duration(stop)*time.Second < time.Duration(cfg.Relay.Drain)+10*time.Second {
		t.Errorf("systemd kills after %d s, the drain takes %v", stop, time.Duration(cfg.Relay.Drain))
	}
	if !strings.Contains(unit, "LoadCredential=prod.secret:") || !strings.Contains(unit, "serve --config /etc/flagstead/flagstead.yaml") {
		t.Error("the unit does not load the credential that the configuration names")
	}
	if strings.HasPrefix(cfg.Admin.Listen, ":") {
		t.Errorf("admin.listen = %s on a host", cfg.Admin.Listen)
	}

	compose := documents(t, "deploy/compose/docker-compose.yml")[0]
	text, _ := at(t, compose, "configs", "flagstead", "content").(string)
	config(t, text, "/run/secrets/prod.secret")

	objects := map[string]map[string]any{}
	for _, d := range documents(t, "deploy/kubernetes/flagstead.yaml") {
		kind, _ := at(t, d, "kind").(string)
		objects[kind] = d
	}
	text, _ = at(t, objects["ConfigMap"], "data", "flagstead.yaml").(string)
	cfg = config(t, text, "/etc/flagstead/secrets/prod.secret")
	pod := at(t, objects["Deployment"], "spec", "template", "spec")
	grace, _ := at(t, pod, "terminationGracePeriodSeconds").(int)
	if time.Duration(grace)*time.Second < time.Duration(cfg.Relay.Drain)+10*time.Second {
		t.Errorf("the kubelet kills after %d s, the drain takes %v", grace, time.Duration(cfg.Relay.Drain))
	}
	ports := map[string]any{}
	for i := range 2 {
		name, _ := at(t, pod, "containers", 0, "ports", i, "name").(string)
		ports[":"+strings.TrimSpace(toText(at(t, pod, "containers", 0, "ports", i, "containerPort")))] = name
	}
	if ports[cfg.Relay.Listen] != "relay" || ports[cfg.Admin.Listen] != "admin" {
		t.Errorf("ports %v, the configuration has %s and %s", ports, cfg.Relay.Listen, cfg.Admin.Listen)
	}
	for probe, path := range map[string]string{"startupProbe": "/health/liveness", "livenessProbe": "/health/liveness", "readinessProbe": "/health/readiness"} {
		if got := at(t, pod, "containers", 0, probe, "httpGet", "path"); got != path {
			t.Errorf("%s asks for %v", probe, got)
		}
		if got := at(t, pod, "containers", 0, probe, "httpGet", "port"); got != "admin" {
			t.Errorf("%s asks port %v", probe, got)
		}
	}
	labels := at(t, objects["Deployment"], "spec", "selector", "matchLabels", "app.kubernetes.io/name")
	for _, other := range []any{
		at(t, objects["Deployment"], "spec", "template", "metadata", "labels", "app.kubernetes.io/name"),
		at(t, objects["Service"], "spec", "selector", "app.kubernetes.io/name"),
		at(t, objects["PodDisruptionBudget"], "spec", "selector", "matchLabels", "app.kubernetes.io/name"),
		at(t, objects["NetworkPolicy"], "spec", "podSelector", "matchLabels", "app.kubernetes.io/name"),
	} {
		if other != labels {
			t.Errorf("a selector has %v, the pods %v", other, labels)
		}
	}
}

func toText(v any) string {
	b, err := yaml.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// measurements returns the names that the program's sources and a relay have.
func measurements(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	literal := regexp.MustCompile(`"(flagstead_[a-z_]*[a-z])"`)
	for _, pattern := range []string{"metrics/*/*.go", "syncer/*.go", "sdk/*.go", "relay/*.go", "internal/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			for _, m := range literal.FindAllStringSubmatch(readText(t, name), -1) {
				names[m[1]] = true
			}
		}
	}
	st := memory.New()
	defer st.Close()
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	r, err := relay.New(relay.Config{Store: st, Secrets: []relay.Secret{secret}})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Metrics() {
		names[m.Name] = true
	}
	// Some are there only when the store's syncer has said something.
	if _, err := st.Apply(t.Context(), store.Change{Full: true}); err != nil {
		t.Fatal(err)
	}
	if err := st.WriteHeartbeat(t.Context(), store.Heartbeat{Confirmed: time.Now(), Source: "ok", Writer: "test"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = r.Run(ctx) })
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !names["flagstead_relay_env_data_age_seconds"]; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("a relay never told the age of its data")
		}
		for _, g := range r.MetricGroups() {
			for _, m := range g.Measurements {
				names[m.Name] = true
			}
		}
	}
	return names
}

var metricName = regexp.MustCompile(`\bflagstead_[a-z_]*[a-z]\b`)

// TestAlerts: the rules speak of measurements that exist, have something for whoever
// is woken, and are those that docs/operations.md explains.
func TestAlerts(t *testing.T) {
	names := measurements(t)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	text := readText(t, "deploy/prometheus/alerts.yaml")
	if err := yaml.Unmarshal([]byte(text), &rules); err != nil {
		t.Fatal(err)
	}
	page := readText(t, "docs/operations.md")
	count := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			count++
			if r.Labels["severity"] != "page" && r.Labels["severity"] != "ticket" || r.Annotations["summary"] == "" || r.Annotations["action"] == "" {
				t.Errorf("rule %+v", r)
			}
			found := metricName.FindAllString(r.Expr, -1)
			if len(found) == 0 && !strings.HasPrefix(r.Expr, "up{") {
				t.Errorf("%s looks at nothing of ours: %s", r.Alert, r.Expr)
			}
			for _, name := range found {
				if !names[name] {
					t.Errorf("%s looks at %s, which nobody measures", r.Alert, name)
				}
			}
			if !strings.Contains(page, "`"+r.Alert+"`") {
				t.Errorf("docs/operations.md does not explain %s", r.Alert)
			}
		}
	}
	if count < 15 {
		t.Errorf("found %d rules", count)
	}
	for _, name := range metricName.FindAllString(page, -1) {
		if !names[name] {
			t.Errorf("docs/operations.md speaks of %s, which nobody measures", name)
		}
	}
	for _, m := range regexp.MustCompile("`(Flagstead[A-Z]\\w+)`").FindAllStringSubmatch(page, -1) {
		if !strings.Contains(text, "alert: "+m[1]+"\n") {
			t.Errorf("docs/operations.md explains %s, which is no rule", m[1])
		}
	}
}

// TestDockerfile: nobody is root, and what is written to exists for the user.
func TestDockerfile(t *testing.T) {
	text := readText(t, "Dockerfile")
	last := text[strings.LastIndex(text, "\nFROM "):]
	for _, want := range []string{"distroless/static", "nonroot", "USER 65532", "--chown=65532:65532", "EXPOSE 6100 6101", `ENTRYPOINT ["/flagstead"]`} {
		if !strings.Contains(last, want) {
			t.Errorf("the image lacks %q", want)
		}
	}
	if bytes.Contains([]byte(text), []byte("HEALTHCHECK")) {
		t.Error("a health check needs a shell, which the image has not")
	}
}
