package faultstore_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/flagstead/flagstead/examples/sample"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/faultstore"
	"github.com/flagstead/flagstead/store/memory"
)

// What does a service do when its store accepts connections and answers nobody?
// It serves the last flags, and says that they may be old.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	st, faults := faultstore.Wrap(memory.New()) // in a test of yours: the store that you use
	defer st.Close()
	items, err := sdk.ParseItems(sample.Flags)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := st.Apply(ctx, store.Change{Full: true, Items: items}); err != nil {
		log.Fatal(err)
	}
	client, err := sdk.New(sdk.Config{
		Store:     st,
		StartWait: 5 * time.Second,
		Follow:    store.FollowOptions{Interval: 10 * time.Millisecond, Timeout: 50 * time.Millisecond},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)
	ann, err := sdk.NewUser("ann")
	if err != nil {
		log.Fatal(err)
	}

	faults.Hang(faultstore.Load)
	client.WaitFor(ctx, sdk.Interrupted)
	fmt.Println(client.Status().State, client.String("api-version", ann, "none"))

	faults.Reset()
	client.WaitFor(ctx, sdk.OK)
	fmt.Println(client.Status().State, client.String("api-version", ann, "none"))
	// Output:
	// interrupted 2026-01-01
	// ok 2026-01-01
}

// A commit whose answer gets lost is the hard case of every writer: it must be
// safe to try again.
func ExampleFaults_FailAfter() {
	ctx := context.Background()
	st, faults := faultstore.Wrap(memory.New())
	defer st.Close()
	lost := errors.New("connection reset by peer")
	faults.FailAfter(faultstore.Apply, lost, faultstore.Times(1))

	change := store.Change{Items: []store.Item{{Kind: store.Flag, Key: "a", Version: 1, Data: []byte("{}")}}}
	_, err := st.Apply(ctx, change)
	fmt.Println("first attempt:", err)
	committed, err := st.Load(ctx, "")
	if err != nil {
		log.Fatal(err)
	}
	rev, err := st.Apply(ctx, change)
	fmt.Println("second attempt:", err, rev == committed.Rev)
	fmt.Println("calls:", faults.Counts(faultstore.Apply).Calls)
	// Output:
	// first attempt: connection reset by peer
	// second attempt: <nil> true
	// calls: 2
}

// Three calls in ten take longer, the same ones in each run, and every fifth one
// fails.
func ExampleFaults_Delay() {
	ctx := context.Background()
	faults := faultstore.New(42)
	st := faults.Wrap(memory.New())
	defer st.Close()
	slow := faults.Delay(faultstore.Load, time.Millisecond, faultstore.Chance(0.3))
	faults.Fail(faultstore.Load, nil, faultstore.Every(5))
	failed := 0
	for range 100 {
		if _, err := st.Load(ctx, ""); err != nil {
			failed++
		}
	}
	fmt.Println(failed, "failed,", slow.Injected(), "were slow")
	// Output: 20 failed, 31 were slow
}
