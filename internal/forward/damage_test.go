package forward

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/spool"
)

// TestDamageBooksNothing: a batch that turns out to be damaged is not under way, or
// its environment would stop being delivered.
func TestDamageBooksNothing(t *testing.T) {
	dir := t.TempDir()
	sp, err := spool.Open(dir, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	f, err := New(Config{
		Spool: sp, URL: "http://127.0.0.1:1", Linger: time.Nanosecond,
		Secret: func(string) (protocol.Secret, bool) { return "s", true },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sp.Append(t.Context(), "env", []json.RawMessage{json.RawMessage(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(dir, "env", "*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("%v, %v", segments, err)
	}
	for _, name := range segments {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		w, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range text {
			if text[i] == 'a' { // inside the insight
				if _, err := w.WriteAt([]byte("X"), int64(i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.Close()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sp.Stats().Damaged == 0 {
		<-tick.C // until it has lingered
		if b, _, _ := f.next(false); b != nil {
			t.Fatal("a damaged batch is handed out")
		}
	}
	if l := f.lanes["env"]; l != nil && l.underway != 0 {
		t.Errorf("%d batches are under way", l.underway)
	}
}
