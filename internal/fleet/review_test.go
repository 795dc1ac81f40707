package fleet

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/bolt"
)

// TestMovedEnvironment: SDKs of an environment that gets another store, or another
// name, are asked to come again and not sent away.
func TestMovedEnvironment(t *testing.T) {
	for _, what := range []string{"store", "name"} {
		t.Run(what, func(t *testing.T) {
			p := newPlatform(t, "one", "two")
			dir := t.TempDir()
			f := start(t, p.config(t, dir, "one", "two"))
			eventually(t, "both are served", func() bool { return f.relay.Stats().Flags == 2 })
			one, _, _ := f.connect(t, p.server["one"])
			c := p.config(t, dir, "one", "two")
			if what == "store" {
				c.Environments[0].Store = "bolt:" + filepath.Join(dir, "moved.db")
			} else {
				c.Environments[0].Name = "renamed"
			}
			reloaded := make(chan struct{})
			go func() {
				defer close(reloaded)
				f.Reload(complete(t, c))
			}()
			if _, err := read(one); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
				t.Errorf("a connected SDK: %v, want 1001", err)
			}
			eventually(t, "served again", func() bool {
				_, keys, code := f.connect(t, p.server["one"])
				if code == protocol.CloseInvalid {
					t.Fatal("an SDK is sent away for good")
				}
				return keys == "of-one"
			})
			<-reloaded
		})
	}
}

// TestServedBeforeIsSynced: an environment that was only served gets a store that can
// be written when it is synced, too.
func TestServedBeforeIsSynced(t *testing.T) {
	p := newPlatform(t, "one")
	dir := t.TempDir()
	st, err := bolt.Open(filepath.Join(dir, "one.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Apply(t.Context(), store.Change{Full: true, Items: []store.Item{flag("old", 1)}}); err != nil {
		t.Fatal(err)
	}
	st.Close()
	no := false
	c := p.config(t, dir, "one")
	c.Environments[0].Sync = &no
	f := start(t, complete(t, c))
	eventually(t, "served", func() bool { _, keys, _ := f.connect(t, p.server["one"]); return keys == "old" })
	f.Reload(p.config(t, dir, "one"))
	eventually(t, "synced", func() bool { _, keys, _ := f.connect(t, p.server["one"]); return strings.Contains(keys, "of-one") })
}

// TestEnvironmentTwice: one that is in the file and in the key's scope does not keep
// the others from being served.
func TestEnvironmentTwice(t *testing.T) {
	h := newHub(t, "one", "two")
	c := h.config(t, t.TempDir())
	id, _ := h.envs["one"].EnvID()
	off := false
	c.Environments = []Environment{{Name: "mine", Secret: string(secretOf(t, id)), Sync: &off, Settings: Settings{Store: "memory:"}}}
	f := start(t, complete(t, c))
	eventually(t, "the other one is served", func() bool {
		_, keys, code := f.connect(t, h.envs["two"])
		if code == protocol.CloseInvalid {
			t.Fatal("an SDK is sent away for good")
		}
		return keys == "two"
	})
}

// TestNewEnvironmentTakesNobodyAway: one that has no store yet does not make the
// process unready.
func TestNewEnvironmentTakesNobodyAway(t *testing.T) {
	p := newPlatform(t, "one", "broken")
	dir := t.TempDir()
	f := start(t, p.config(t, dir, "one"))
	eventually(t, "healthy", func() bool { return f.Status().Readiness == healthy })
	f.Reload(p.config(t, dir, "one", "broken"))
	if code, body := f.get(t, "/health/readiness"); code != http.StatusOK || body != "Degraded\n" {
		t.Errorf("readiness %d %s", code, body)
	}
}

// TestFirstWordAfterAStart: what FeatBit says first is not enough to send SDKs away,
// and secrets that are not known may be new ones.
func TestFirstWordAfterAStart(t *testing.T) {
	h := newHub(t, "one", "two")
	dir := t.TempDir()
	f := start(t, h.config(t, dir))
	eventually(t, "both", func() bool { return f.relay.Stats().Flags == 2 })
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	gone, fresh := h.envs["two"], secretOf(t, protocol.NewEnvID())
	h.mu.Lock()
	delete(h.envs, "two")
	h.envs["fresh"], h.mute = fresh, true
	h.mu.Unlock()
	f = start(t, h.config(t, dir))
	if _, _, code := f.connect(t, fresh); code != http.StatusServiceUnavailable {
		t.Errorf("a secret that FeatBit has not been asked for: %d, want 503", code)
	}
	h.mu.Lock()
	h.mute = false
	h.mu.Unlock()
	eventually(t, "the new one is served", func() bool { _, keys, _ := f.connect(t, fresh); return keys == "fresh" })
	eventually(t, "the one that is gone is served on", func() bool {
		_, keys, code := f.connect(t, gone)
		if code == protocol.CloseInvalid {
			t.Fatal("sent away for good by one full state")
		}
		return keys == "two"
	})
}

func TestRedact(t *testing.T) {
	for _, url := range []string{"redis+sentinel://u:hunter2@h/m?sentinel_password=hunter3", "redis://h/0?token=hunter4"} {
		if got := Redact(url); strings.Contains(got, "hunter") {
			t.Errorf("%s", got)
		}
	}
}
