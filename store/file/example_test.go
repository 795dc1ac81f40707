package file_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
)

// A program that evaluates flags from a file follows it for as long as it runs.
func Example() {
	dir, err := os.MkdirTemp("", "flags")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "flags.json")
	export := `{"messageType":"data-sync","data":{"eventType":"full",
		"featureFlags":[{"key":"new-checkout","updatedAt":"2026-05-01T10:00:00Z"}],"segments":[]}}`
	if err := os.WriteFile(path, []byte(export), 0o600); err != nil {
		log.Fatal(err)
	}

	s, err := file.Open(path, &file.Options{ReadOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	ctx, cancel := context.WithCancel(context.Background())
	store.Follow(ctx, s, store.FollowOptions{}, func(snap store.Snapshot, err error) {
		if err != nil {
			log.Print(err) // the last state stays in use
			return
		}
		for _, it := range snap.Items {
			fmt.Println(it.Kind, it.Key)
		}
		cancel() // enough for an example
	})
	// Output: flag new-checkout
}

// A program that receives flags writes them where others follow.
func ExampleStore_Apply() {
	dir, err := os.MkdirTemp("", "flags")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	s, err := file.Open(filepath.Join(dir, "flags.json"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	_, err = s.Apply(context.Background(), store.Change{Full: true, Items: []store.Item{{
		Kind: store.Flag, Key: "new-checkout", Version: 1777629600000,
		Data: []byte(`{"key":"new-checkout","updatedAt":"2026-05-01T10:00:00Z"}`),
	}}})
	if err != nil {
		log.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "flags.json"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", text)
	// Output: {"messageType":"data-sync","data":{"eventType":"full","featureFlags":[{"key":"new-checkout","updatedAt":"2026-05-01T10:00:00Z"}],"segments":[]}}
}
