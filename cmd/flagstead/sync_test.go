package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
)

// TestSyncOnce: each end has its status.
func TestSyncOnce(t *testing.T) {
	flags := flagsFile(t)
	url, secret := dev(t, flags)
	t.Setenv("FLAGSTEAD_SECRET", secret)
	st := "bolt://" + filepath.Join(t.TempDir(), "flags.db")
	code, out, errOut := call(t, "sync", st, "--url", url, "--once")
	if code != exitOK || !strings.Contains(out, "in sync") {
		t.Fatalf("status %d, %s%s", code, out, errOut)
	}
	if code, _, errOut := call(t, "eval", "api-version", "--store", st, "-u", "x"); code != 0 {
		t.Errorf("eval: status %d, %s", code, errOut)
	}

	empty := `{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[],"segments":[]}}`
	none := filepath.Join(t.TempDir(), "none.json")
	if err := os.WriteFile(none, []byte(empty), 0o600); err != nil {
		t.Fatal(err)
	}
	copied := "file://" + filepath.Join(t.TempDir(), "copy.json")
	if code, out, errOut := call(t, "sync", copied, "--from", st, "--once"); code != exitOK || !strings.Contains(out, "is equal to bolt://") {
		t.Errorf("copy: status %d, %s%s", code, out, errOut)
	}
	code, out, errOut = call(t, "sync", copied, "--from", "file://"+none, "--once")
	if code != exitRefused || !strings.Contains(errOut, "--accept takes it") {
		t.Errorf("guard: status %d, %s%s", code, out, errOut)
	}
	if code, out, errOut := call(t, "sync", copied, "--from", "file://"+none, "--once", "--accept"); code != exitOK {
		t.Errorf("accept: status %d, %s%s", code, out, errOut)
	}

	t.Setenv("FLAGSTEAD_SECRET", strings.ToUpper(secret[:5])+"AAAAA"+secret[10:])
	if code, out, errOut := call(t, "sync", st, "--url", url, "--once"); code != exitForbidden || !strings.Contains(errOut, "4003") {
		t.Errorf("wrong secret: status %d, %s%s", code, out, errOut)
	}
	missing := "bolt://" + filepath.Join(t.TempDir(), "missing.db")
	if code, _, errOut := call(t, "sync", copied, "--from", missing, "--once"); code != exitFailure {
		t.Errorf("no source: status %d, %s", code, errOut)
	}
	for _, bad := range [][]string{{"--poll=often"}, {"--reconcile=-1s"}, {"--from", st}} {
		args := append([]string{"sync", copied, "--url", url}, bad...)
		if code, _, errOut := call(t, args...); code != exitUsage {
			t.Errorf("%v: status %d, %s", bad, code, errOut)
		}
	}
}

// TestSyncPolls: where WebSockets do not get through the flags come all the same.
func TestSyncPolls(t *testing.T) {
	target, secret := dev(t, flagsFile(t))
	t.Setenv("FLAGSTEAD_SECRET", secret)
	to, err := url.Parse("http" + strings.TrimPrefix(target, "ws"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer srv.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	s := start(t, "sync", "file://"+filepath.Join(t.TempDir(), "a.json"), "--url", srv.URL)
	s.says(t, "polling")
	s.says(t, "in sync")
	if code := s.stop(); code != 0 {
		t.Errorf("status %d, %s", code, s.err.String())
	}
	code, out, errOut := call(t, "sync", "file://"+filepath.Join(t.TempDir(), "b.json"), "--url", srv.URL, "--once", "--poll=always")
	if code != 0 {
		t.Errorf("status %d, %s%s", code, out, errOut)
	}
	if code, _, errOut := call(t, "sync", "file://"+filepath.Join(t.TempDir(), "c.json"), "--url", srv.URL, "--poll=never"); code != exitFailure || !strings.Contains(errOut, "403") {
		t.Errorf("status %d, %s", code, errOut)
	}
}

// TestSyncLease: the second syncer of a store stands by, and takes over.
func TestSyncLease(t *testing.T) {
	target, secret := dev(t, flagsFile(t))
	t.Setenv("FLAGSTEAD_SECRET", secret)
	redis := redistest.Start(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	other, err := openStore(&console{err: &buffer{}, log: slog.New(slog.DiscardHandler)}, redis.URL(), sdk.Secret(secret))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	l := other.(store.Leaser)
	if held, err := l.Acquire(t.Context(), "not-"+host, time.Minute); err != nil || !held {
		t.Fatal(held, err)
	}
	s := start(t, "sync", redis.URL(), "--url", target, "--lease")
	s.says(t, "standing by")
	if err := l.Release(t.Context(), "not-"+host); err != nil {
		t.Fatal(err)
	}
	s.says(t, "in sync")
	bolt := "bolt://" + filepath.Join(t.TempDir(), "flags.db")
	for _, args := range [][]string{{redis.URL(), "--once"}, {bolt}} {
		if code, _, errOut := call(t, append([]string{"sync", "--url", target, "--lease"}, args...)...); code != exitUsage {
			t.Errorf("%v: status %d, %s", args, code, errOut)
		}
	}
}
