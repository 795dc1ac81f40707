package store

import (
	"context"
	"testing"
)

// A fixed reader has one state.
type fixed Rev

func (f fixed) Load(context.Context, Rev) (Snapshot, error) { return Snapshot{Rev: Rev(f)}, nil }

// TestLayersTakeTheBest: a better layer that answers after it was decided not to
// wait for it any more is neither called empty nor forgotten.
func TestLayersTakeTheBest(t *testing.T) {
	l := Layered(fixed("a"), fixed("b"))
	defer l.Close()
	loads, _, err := l.ask("")
	if err != nil {
		t.Fatal(err)
	}
	for _, load := range loads {
		<-load.done
	}
	if snap, err := l.take(loads, 1); err != nil || snap.Rev != "0:a" || snap.Degraded != nil {
		t.Errorf("took %+v, %v", snap, err)
	}
}
