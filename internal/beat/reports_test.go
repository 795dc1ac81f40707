package beat

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
)

// TestReports: what nobody writes again is not listed, and is removed by the next
// new reader; what is no report is ignored.
func TestReports(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags.db")
	now := time.Now()
	write := func(name string, at time.Time) {
		t.Helper()
		if err := WriteReport(path, path+".snap", store.Report{Reader: name, Rev: "r", State: "ok"}, at); err != nil {
			t.Fatal(err)
		}
	}
	count := func(want int) {
		t.Helper()
		if all, err := ReadReports(path, now); err != nil || len(all) != want {
			t.Errorf("%+v, %v, want %d", all, err, want)
		}
	}
	count(0)
	write("../../etc/passwd", now)
	write("old", now.Add(-store.ReportLife))
	write("b", now.Add(-store.ReportLife/2))
	count(2)
	entries, err := os.ReadDir(ReportsPath(path))
	if err != nil || len(entries) != 3 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info, err)
		}
	}
	if info, err := os.Stat(ReportsPath(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	for name, text := range map[string]string{"x.json": "{}", "y.json": "no", "z.txt": "hello"} {
		if err := os.WriteFile(filepath.Join(ReportsPath(path), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	count(2)
	long := now.Add(-time.Hour)
	for _, e := range entries {
		if err := os.Chtimes(filepath.Join(ReportsPath(path), e.Name()), long, long); err != nil {
			t.Fatal(err)
		}
	}
	write("new", now)
	count(1)
}

func TestControlFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags.db")
	if c, err := ReadControl(path); err != nil || c != (store.Control{}) {
		t.Errorf("%+v, %v", c, err)
	}
	if err := WriteControl(path, path+".snap", store.Control{Frozen: true, Reason: "why"}); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadControl(path); err != nil || !c.Frozen || c.Reason != "why" || time.Since(c.At) > time.Minute {
		t.Errorf("%+v, %v", c, err)
	}
	if info, err := os.Stat(ControlPath(path)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// One that cannot be read may be a freeze.
	for _, text := range []string{"", "{", "[]", string(make([]byte, maxSize+1))} {
		if err := os.WriteFile(ControlPath(path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := ReadControl(path); err == nil {
			t.Errorf("%.10q is %+v", text, c)
		}
	}
}
