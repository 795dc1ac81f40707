package syncer

import (
	"fmt"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// items returns n flags of a version.
func items(n int, version int64) []store.Item {
	out := make([]store.Item, n)
	for i := range out {
		out[i] = store.Item{Kind: store.Flag, Key: fmt.Sprintf("f%03d", i), Version: version, Data: []byte("{}")}
	}
	return out
}

// settled returns a manager without goroutines whose store has flags, at r1.
func settled(t *testing.T, flags []store.Item) *manager {
	t.Helper()
	m := newManager(&Syncer{cfg: Config{}.withDefaults(), beats: make(chan struct{}, 1)})
	for _, timer := range []**time.Timer{&m.openLimit, &m.retry, &m.doubtful} {
		*timer = time.NewTimer(time.Hour)
		t.Cleanup(func() { (*timer).Stop() })
	}
	m.open(beginning{1, make(chan int64, 1)})
	m.compare(store.Snapshot{})
	m.opened(true)
	m.full1(flags)
	j := m.next(t)
	m.done(result{job: j, rev: "r1"})
	m.ask()
	m.rebaseOn(true)
	return m
}

// full1 takes a full state.
func (m *manager) full1(items []store.Item) {
	m.take(delivery{wire.DataSync{EventType: wire.Full, Items: items}, m.connection})
}

func (m *manager) push(it store.Item) {
	m.take(delivery{wire.DataSync{EventType: wire.Patch, Items: []store.Item{it}}, m.connection})
}

func (m *manager) next(t *testing.T) job {
	t.Helper()
	j, ok := m.write()
	if !ok {
		t.Fatal("there is nothing to write")
	}
	return j
}

func (m *manager) version(key string) int64 {
	return m.held[store.ID{Kind: store.Flag, Key: key}].Version
}

// TestRefusalLosesNoPush: what was pushed since a full state that is refused is
// held, and will be written, whatever was asked meanwhile.
func TestRefusalLosesNoPush(t *testing.T) {
	m := settled(t, items(20, 1))
	m.full1(items(2, 7))
	m.push(items(10, 5)[9])
	m.push(items(1, 7)[0]) // the refused state has it, too
	m.asking = true
	m.opened(false) // the store could not be read
	m.rebase(store.Snapshot{Rev: "r1", Delta: true})
	m.write()
	if m.doubt == nil {
		t.Fatal("not refused")
	}
	for key, want := range map[string]int64{"f000": 7, "f009": 5, "f001": 1} {
		if got := m.version(key); got != want {
			t.Errorf("%s has version %d after the refusal, want %d", key, got, want)
		}
	}
	if len(m.dirty) != 2 {
		t.Errorf("%d to write, want 2", len(m.dirty))
	}
}

// TestRefusalGoesBackToTheLast: what is held after a refusal is the last state
// that was accepted, also if that was being written when the refused one came.
func TestRefusalGoesBackToTheLast(t *testing.T) {
	m := settled(t, items(20, 1))
	m.full1(items(19, 2))
	j := m.next(t)
	m.push(items(4, 3)[3])
	m.ask()
	m.rebaseOn(true)
	m.full1(items(2, 2))
	m.done(result{job: j, rev: "r2"})
	m.write()
	if m.doubt == nil {
		t.Fatal("not refused")
	}
	if len(m.held) != 19 || m.version("f000") != 2 || m.version("f003") != 3 {
		t.Errorf("held are %d, with versions %d and %d", len(m.held), m.version("f000"), m.version("f003"))
	}
}

// TestRefusalWhileRefilling: a push that came while a flushed store was refilled,
// and before a full state that is refused, will be written.
func TestRefusalWhileRefilling(t *testing.T) {
	m := settled(t, items(20, 1))
	m.compare(store.Snapshot{})
	m.forEmpty = true
	j := m.next(t)
	m.push(items(4, 3)[3])
	m.full1(items(2, 2))
	m.done(result{job: j, rev: "x1"})
	m.write()
	_, dirty := m.dirty[store.ID{Kind: store.Flag, Key: "f003"}]
	if m.doubt == nil || len(m.held) != 20 || m.version("f003") != 3 || !dirty || len(m.dirty) != 1 {
		t.Errorf("doubt %v, held are %d, f003 has version %d, to write are %d", m.doubt, len(m.held), m.version("f003"), len(m.dirty))
	}
}

// TestRefusalLooksAgain: what others wrote while a full state was worked out on it
// is known after that was refused.
func TestRefusalLooksAgain(t *testing.T) {
	m := settled(t, items(20, 1))
	m.full1(items(2, 1))
	m.done(result{job: job{change: store.Change{Full: true, Base: "r1"}}, err: store.ErrConflict})
	m.rebase(store.Snapshot{Rev: "r2", Delta: true, Items: items(6, 9)[5:]})
	m.write()
	if m.doubt == nil {
		t.Fatal("not refused")
	}
	snap := store.Snapshot{Rev: "r2", Items: items(20, 1)}
	snap.Items[5].Version = 9
	if m.wantLoad {
		m.compare(snap)
	}
	if got := m.version("f005"); got != 9 {
		t.Errorf("held is version %d, the store has 9", got)
	}
}

// TestGuardOfDamagedStore: content that cannot be read is no reason to replace it
// by what would be refused otherwise.
func TestGuardOfDamagedStore(t *testing.T) {
	m := settled(t, items(20, 1))
	m.done(result{job: job{load: true, since: "r1"}, err: store.ErrDamaged})
	m.full1(nil)
	m.write()
	j := m.next(t)
	if m.doubt == nil || !j.change.Full || len(j.change.Items) != 20 {
		t.Errorf("wrote %d items; doubt %v", len(j.change.Items), m.doubt)
	}
}

// TestGuardCountsNoTombstones: archived flags that are gone for good are no loss.
func TestGuardCountsNoTombstones(t *testing.T) {
	flags := items(20, 1)
	for i := range 6 {
		flags[8+i].Archived = true
	}
	m := settled(t, flags)
	m.push(store.Item{Kind: store.Flag, Key: "f014", Version: 2, Archived: true})
	m.push(store.Item{Kind: store.Flag, Key: "f015", Version: 2, Archived: true})
	m.done(result{job: m.next(t), rev: "r2"})
	m.ask()
	m.rebaseOn(true)
	m.full1(append(items(4, 1), items(20, 1)[18:]...))
	m.write()
	if m.doubt != nil {
		t.Errorf("refused: %v", m.doubt.err)
	}
	m = settled(t, flags)
	m.full1(items(20, 1)[8:14])
	m.write()
	if m.doubt == nil || m.doubt.err.Stored != 14 || m.doubt.err.Removed != 14 {
		t.Errorf("doubt %+v", m.doubt)
	}
}
