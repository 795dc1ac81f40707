package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// A featbit serves an environment that changes all the time, and remembers every
// state that it had.
type featbit struct {
	addr   string
	secret protocol.Secret
	store  *memory.Store

	mu      sync.Mutex
	state   map[string]store.Item
	history map[int64][8]byte // by newest version, of which each state has another
	changes int
	newest  int64
	moments []moment // when each state came to be
}

// base is the version of the first state.
const base = 1_700_000_000_000

func item(key string, version int64, archived bool, size int) store.Item {
	data := fmt.Sprintf(`{"id":"%s","key":"%s","envId":"torture","isArchived":%v,"updatedAt":"%s","description":"%s"}`,
		key, key, archived, wire.FormatMillis(version), strings.Repeat("x", size))
	return store.Item{Kind: store.Flag, Key: key, Version: version, Archived: archived, Data: []byte(data)}
}

// serve starts the server. It ends with ctx, and wg waits for it.
func serve(ctx context.Context, wg *sync.WaitGroup, flags int) (*featbit, error) {
	secret, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		return nil, err
	}
	f := &featbit{secret: secret, store: memory.New(), state: map[string]store.Item{}, history: map[int64][8]byte{}, newest: base}
	first := store.Change{Full: true}
	for i := range flags {
		first.Items = append(first.Items, item(fmt.Sprintf("f%04d", i), base, false, 100))
	}
	if err := f.commit(ctx, first); err != nil {
		return nil, err
	}
	r, err := relay.New(relay.Config{Store: f.store, Secrets: []relay.Secret{secret}})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.addr = l.Addr().String()
	srv := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	wg.Go(func() { srv.Serve(l) })
	wg.Go(func() { r.Run(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		srv.Close()
		f.store.Close()
	})
	return f, nil
}

// commit makes a change, which must be known before anybody can see it.
func (f *featbit) commit(ctx context.Context, c store.Change) error {
	f.mu.Lock()
	for _, it := range c.Items {
		f.state[it.Key] = it
	}
	newest, digest := describe(f.state)
	f.history[newest], f.newest = digest, newest
	f.changes++
	f.moments = append(f.moments, moment{newest, time.Now()})
	f.mu.Unlock()
	_, err := f.store.Apply(ctx, c)
	return err
}

// change keeps changing flags until ctx ends.
func (f *featbit) change(ctx context.Context, random *rand.Rand, flags int) error {
	for {
		c := store.Change{}
		version := f.now()
		for _, i := range random.Perm(flags + flags/10)[:1+random.IntN(5)] { // some are new
			version++ // no two items have the same: the relay would give them others
			c.Items = append(c.Items, item(fmt.Sprintf("f%04d", i), version, random.IntN(10) == 0, random.IntN(2000)))
		}
		if err := f.commit(ctx, c); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(random.ExpFloat64() * float64(20*time.Millisecond))):
		}
	}
}

// now returns the newest version.
func (f *featbit) now() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.newest
}

// had returns the digest of the state of a version.
func (f *featbit) had(version int64) ([8]byte, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	digest, ok := f.history[version]
	return digest, ok
}
