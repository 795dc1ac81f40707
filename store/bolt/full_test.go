package bolt

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/flagstead/flagstead/store"
)

// limitedEnv makes the test binary the process that is limited.
const limitedEnv = "FLAGSTEAD_BOLT_TEST_LIMITED"

// limitFiles lets no file of this process grow beyond n bytes until the test
// ends or lift is called: writes stop in the middle, as on a full disk.
func limitFiles(t *testing.T, n uint64) (lift func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	limit := old
	limit.Cur = n
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	lift = func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { lift(); signal.Reset(syscall.SIGXFSZ) })
	return lift
}

// The disk is full in the middle of a frame: readers have the state before, new
// ones too, and the next call that finds room publishes. A process of its own is
// limited: this one has files of the testing package's open, too.
func TestDiskFullInTheMiddleOfAFrame(t *testing.T) {
	if os.Getenv(limitedEnv) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), limitedEnv+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	path := newPath(t)
	s := openAt(t, path, nil)
	w := s.h.(*writer)
	one := func(n int64) store.Change {
		it := item("a", n)
		it.Data = append(it.Data, bytes.Repeat([]byte(" "), 2000)...)
		return store.Change{Items: []store.Item{it}}
	}
	// The database fits the limit: it uses its pages again, while frames pile up.
	n := int64(0)
	for w.behind.end < 62<<10 {
		n++
		apply(t, s, one(n))
	}
	r := openAt(t, path, readOnly())
	before := load(t, r, "")
	room := w.behind.end + 500
	lift := limitFiles(t, uint64(room))
	if w.commitOnly(t, one(n+1)) {
		t.Error("a frame of 2,000 bytes went into 500")
	}
	if size := int64(len(read(t, path+".snap"))); size != room {
		t.Errorf("the snapshot has %d bytes, want half a frame, up to %d", size, room)
	}
	for _, s := range []*Store{r, openAt(t, path, readOnly())} {
		if got := load(t, s, ""); got.Rev != before.Rev || text(got) != text(before) {
			t.Errorf("during the outage: %s, want %s", got.Rev, before.Rev)
		}
	}
	lift()
	committed := load(t, s, "") // publishes
	if got := load(t, r, before.Rev); committed.Rev == before.Rev || got.Rev != committed.Rev || !got.Delta || len(got.Items) != 1 {
		t.Errorf("after it: %+v, want %s", got, committed.Rev)
	}
}

// commitOnly commits c and leaves what the frame left, which Apply would mend. It
// reports whether the frame was appended.
func (w *writer) commitOnly(t *testing.T, c store.Change) bool {
	t.Helper()
	if err := w.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer w.leave()
	if err := w.commit(w.plan(c)); err != nil {
		t.Fatal(err)
	}
	return w.published.Size > 0
}
