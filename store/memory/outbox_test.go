package memory_test

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/store/storetest"
)

func TestOutbox(t *testing.T) {
	storetest.RunOutbox(t, storetest.OutboxOptions{
		Open: func(testing.TB) storetest.Outbox { return memory.New() },
	})
}

func TestOutboxOfTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		if err := s.AppendEvents(t.Context(), []store.Event{{ID: "a", Data: []byte("{}")}}); err != nil {
			t.Fatal(err)
		}
		for i, want := range []int{1, 0, 1} {
			events, err := s.ReadEvents(t.Context(), fmt.Sprint("c", i), 10)
			if err != nil || len(events) != want {
				t.Errorf("consumer %d: %v, %v", i, events, err)
			}
			time.Sleep(store.OutboxClaim * 3 / 4)
		}
	})
}

func TestOutboxIsBounded(t *testing.T) {
	s := memory.New()
	big := bytes.Repeat([]byte("x"), 60<<10)
	for i := range 2000 {
		if err := s.AppendEvents(t.Context(), []store.Event{{ID: fmt.Sprint(i), Data: big}}); err != nil {
			t.Fatal(err)
		}
	}
	st, err := s.OutboxStats(t.Context())
	if err != nil || st.Added != st.Pending+st.Trimmed || st.Bytes > 64<<20 || st.Bytes < 63<<20 {
		t.Errorf("%+v, %v", st, err)
	}
	events, err := s.ReadEvents(t.Context(), "c", 1)
	if err != nil || len(events) != 1 || events[0].ID != fmt.Sprint(st.Trimmed) {
		t.Errorf("the oldest is %v, %v", events, err)
	}
}
