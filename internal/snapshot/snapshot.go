// Package snapshot turns what a store holds into what is evaluated.
package snapshot

import (
	"errors"
	"fmt"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/store"
)

// Apply returns the set after snap, which a store gave, and what changed. A
// Delta continues set, anything else replaces it. set may be nil for none yet.
func Apply(set *flags.Set, snap store.Snapshot) (*flags.Set, flags.Changes) {
	if set == nil {
		set = new(flags.Set)
	}
	items := make([]flags.Source, len(snap.Items))
	for i, it := range snap.Items {
		items[i] = flags.Source{
			Segment:  it.Kind == store.Segment,
			Key:      it.Key,
			Version:  it.Version,
			Archived: it.Archived,
			Data:     it.Data,
		}
	}
	return set.Apply(!snap.Delta, items)
}

// Items returns the items of a FeatBit data-sync document. An item that cannot
// be read is an error here, because a document that somebody wrote by hand
// should not lose flags in silence.
func Items(text []byte) ([]store.Item, error) {
	doc, err := wire.Parse(text)
	if err != nil {
		return nil, err
	}
	if len(doc.Skipped) > 0 {
		return nil, fmt.Errorf("%w: %w", wire.ErrNotDataSync, errors.Join(doc.Skipped...))
	}
	return doc.Items, nil
}

// Parse returns the set of the items in a FeatBit data-sync document.
func Parse(text []byte) (*flags.Set, error) {
	items, err := Items(text)
	if err != nil {
		return nil, err
	}
	set, _ := Apply(nil, store.Snapshot{Items: items})
	return set, nil
}
