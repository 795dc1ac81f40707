package syncer

import "testing"

// TestFrozenWriteNeverEmpty: a frozen store whose content is not known is not
// overwritten with nothing.
func TestFrozenWriteNeverEmpty(t *testing.T) {
	m := &manager{freeze: freeze{on: true, restore: true, damaged: true}}
	if j, ok := m.frozenWrite(); ok {
		t.Errorf("would publish %d items: %+v", len(j.change.Items), j.change)
	}
}
