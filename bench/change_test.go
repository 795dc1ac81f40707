package bench

import (
	"context"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/bolt"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/store/redis"
	"github.com/flagstead/flagstead/syncer"
)

// BenchmarkChange is how long a change takes from FeatBit, which our relay plays, to a
// reader's evaluation: over the WebSocket to the syncer, into the store, out of it by
// another handle. All of it is in this process. One flag changes at a time.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1000, many} {
		items := largeItems(n)
		for _, where := range []string{"none", "memory", "redis", "bolt", "file"} {
			b.Run(fmt.Sprintf("store=%s/flags=%d", where, n), func(b *testing.B) { change(b, where, items) })
		}
	}
}

func change(b *testing.B, where string, items []store.Item) {
	src := memory.New()
	b.Cleanup(func() { src.Close() })
	_, err := src.Apply(context.Background(), store.Change{Full: true, Items: items})
	must(b, err)
	url, secret := serve(b, src)
	cfg := sdk.Config{StreamingURL: url, EnvSecret: secret, DisableEvents: true} // directly
	if where != "none" {
		writer, reader := handles(b, where)
		sync, err := syncer.New(syncer.Config{URL: url, Secret: secret, Store: writer})
		must(b, err)
		background(b, func(ctx context.Context) { _ = sync.Run(ctx) })
		cfg = sdk.Config{Store: reader}
	}
	c, err := sdk.New(cfg)
	must(b, err)
	b.Cleanup(func() { must(b, c.Close(context.Background())) })
	must(b, c.WaitReady(context.Background()))
	u, err := sdk.NewUser("ann")
	must(b, err)
	changed := make(chan struct{}, 1)
	c.OnFlagChange(func(sdk.FlagChange) { changed <- struct{}{} })
	must(b, c.WaitFor(context.Background(), sdk.OK))
	var took []time.Duration
	at, on := items[7], true
	for b.Loop() {
		on = !on
		at.Version++
		at.Data = fmt.Appendf(nil, `{"key":%q,"updatedAt":%q,"isEnabled":true,"variationType":"boolean","variations":[{"id":"a","value":"%t"}],"fallthrough":{"variations":[{"id":"a","rollout":[0,1]}]}}`,
			at.Key, time.UnixMilli(at.Version).UTC().Format("2006-01-02T15:04:05.000Z"), on)
		began := time.Now()
		_, err := src.Apply(context.Background(), store.Change{Items: []store.Item{at}})
		must(b, err)
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			b.Fatal("the change does not arrive")
		}
		if c.Bool(at.Key, u, !on) != on {
			b.Fatal("the value is wrong")
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
}

// handles returns a writer and a reader of an empty store.
func handles(b *testing.B, where string) (store.DataStore, store.Reader) {
	dir := b.TempDir()
	var w store.DataStore
	var r store.Reader
	var err error
	switch where {
	case "memory":
		st := memory.New()
		w, r = st, st
	case "redis":
		url := redistest.Start(b).URL() + "/0?env=bench"
		w, err = redis.Open(url, nil)
		must(b, err)
		r, err = redis.Open(url, nil)
	case "bolt":
		name := filepath.Join(dir, "flags.db")
		w, err = bolt.Open(name, nil)
		must(b, err)
		r, err = bolt.Open(name, &bolt.Options{ReadOnly: true})
	case "file":
		name := filepath.Join(dir, "flags.json")
		w, err = file.Open(name, nil)
		must(b, err)
		r, err = file.Open(name, &file.Options{ReadOnly: true})
	}
	must(b, err)
	b.Cleanup(func() {
		for _, st := range []any{r, w} {
			_ = st.(interface{ Close() error }).Close() // a memory store's second time
		}
	})
	return w, r
}

// serve runs a relay for an environment, in the place of FeatBit.
func serve(b *testing.B, st store.Reader) (url string, secret sdk.Secret) {
	secret = "E0ZC__zC8EeQoxEDF-iR9g-JtrIvNK-k-bARYicOTNQA"
	r, err := relay.New(relay.Config{Store: st, Secrets: []relay.Secret{secret}})
	must(b, err)
	background(b, func(ctx context.Context) { _ = r.Run(ctx) })
	srv := httptest.NewServer(r)
	b.Cleanup(srv.Close)
	return srv.URL, secret
}

// background runs f until the benchmark ends.
func background(b *testing.B, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	b.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}
