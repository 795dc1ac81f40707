package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	goredis "github.com/redis/go-redis/v9"
	bbolt "go.etcd.io/bbolt"

	"github.com/flagstead/flagstead/internal/redistest"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/bolt"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/redis"
)

// largeItems returns n boolean flags of 2 KB.
func largeItems(n int) []store.Item {
	condition := `{"id":"0123456789","conditions":[{"property":"country","op":"IsOneOf","value":"[\"de\",\"it\"]"}],"variations":[]},`
	rules := strings.TrimSuffix(strings.Repeat(condition, 16), ",")
	items := make([]store.Item, n)
	for i := range items {
		key := FlagKey(Boolean, i)
		items[i] = store.Item{Kind: store.Flag, Key: key, Version: 1748772000000, Data: fmt.Appendf(nil,
			`{"id":%q,"key":%q,"updatedAt":"2025-06-01T10:00:00.000Z","isEnabled":true,"isArchived":false,"variationType":"boolean","variations":[{"id":"a","value":"true"}],"rules":[%s],"fallthrough":{"variations":[{"id":"a","rollout":[0,1]}]}}`,
			uuid(key, "flag"), key, rules)}
	}
	return items
}

func document(items []store.Item) []byte {
	var b bytes.Buffer
	b.WriteString(`{"messageType":"data-sync","data":{"eventType":"full","featureFlags":[`)
	for i, it := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(it.Data)
	}
	b.WriteString(`],"segments":[]}}`)
	return b.Bytes()
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// started makes a client that reads a store, and evaluates a flag with it.
func started(b *testing.B, st store.Reader, n int) {
	b.Helper()
	c, err := sdk.New(sdk.Config{Store: st})
	must(b, err)
	must(b, c.WaitReady(context.Background()))
	u, err := sdk.NewUser("ann")
	must(b, err)
	if !c.Bool(FlagKey(Boolean, n-1), u, false) {
		b.Fatal("the value is wrong")
	}
	b.StopTimer()
	must(b, c.Close(context.Background()))
	b.StartTimer()
}

// BenchmarkStart is what a process waits until its first evaluation: the store is
// opened, the flags are loaded, and one is evaluated. Beside it stands the least that
// gets the same bytes out of the same place.
func BenchmarkStart(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		items := largeItems(n)
		b.Run(fmt.Sprintf("store=file/flags=%d", n), func(b *testing.B) { startFile(b, items) })
		b.Run(fmt.Sprintf("store=bolt/flags=%d", n), func(b *testing.B) { startBolt(b, items) })
		b.Run(fmt.Sprintf("store=redis/flags=%d", n), func(b *testing.B) { startRedis(b, items) })
	}
}

// sides runs the bare way and ours in turn, so that what disturbs one disturbs both.
func sides(b *testing.B, bare, ours func(b *testing.B)) {
	b.Run("peer=floor", func(b *testing.B) {
		for b.Loop() {
			bare(b)
		}
	})
	b.Run("peer=flagstead", func(b *testing.B) {
		for b.Loop() {
			ours(b)
		}
	})
}

func startFile(b *testing.B, items []store.Item) {
	path := filepath.Join(b.TempDir(), "flags.json")
	must(b, os.WriteFile(path, document(items), 0o600))
	sides(b, func(b *testing.B) {
		text, err := os.ReadFile(path)
		must(b, err)
		d := jsontext.NewDecoder(bytes.NewBuffer(text))
		for {
			if _, err := d.ReadToken(); err == io.EOF {
				return
			} else if err != nil {
				b.Fatal(err)
			}
		}
	}, func(b *testing.B) {
		st, err := file.Open(path, &file.Options{ReadOnly: true})
		must(b, err)
		started(b, st, len(items))
		b.StopTimer()
		must(b, st.Close())
		b.StartTimer()
	})
}

func startBolt(b *testing.B, items []store.Item) {
	path := filepath.Join(b.TempDir(), "flags.db")
	w, err := bolt.Open(path, nil)
	must(b, err)
	_, err = w.Apply(context.Background(), store.Change{Full: true, Items: items})
	must(b, err)
	must(b, w.Close())
	sides(b, func(b *testing.B) {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
		must(b, err)
		n, sum := 0, 0
		must(b, db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("items")).ForEach(func(_, v []byte) error {
				n, sum = n+1, sum+int(v[len(v)-1])
				return nil
			})
		}))
		must(b, db.Close())
		if n != len(items) || sum == 0 {
			b.Fatalf("%d items, want %d", n, len(items))
		}
	}, func(b *testing.B) {
		st, err := bolt.Open(path, &bolt.Options{ReadOnly: true})
		must(b, err)
		started(b, st, len(items))
		b.StopTimer()
		must(b, st.Close())
		b.StartTimer()
	})
}

func startRedis(b *testing.B, items []store.Item) {
	srv := redistest.Start(b)
	w, err := redis.Open(srv.URL()+"/0?env=bench", nil)
	must(b, err)
	_, err = w.Apply(context.Background(), store.Change{Full: true, Items: items})
	must(b, err)
	must(b, w.Close())
	probe := goredis.NewClient(&goredis.Options{Addr: srv.Addr()})
	keys, err := probe.Keys(context.Background(), "*").Result()
	must(b, err)
	hash := ""
	for _, key := range keys {
		if n, err := probe.HLen(context.Background(), key).Result(); err == nil && n >= int64(len(items)) {
			hash = key
		}
	}
	must(b, probe.Close())
	if hash == "" {
		b.Fatalf("no hash of flags among %q", keys)
	}
	sides(b, func(b *testing.B) {
		c := goredis.NewClient(&goredis.Options{Addr: srv.Addr()})
		all, err := c.HGetAll(context.Background(), hash).Result()
		must(b, err)
		if len(all) < len(items) {
			b.Fatalf("%d fields", len(all))
		}
		must(b, c.Close())
	}, func(b *testing.B) {
		st, err := redis.Open(srv.URL()+"/0?env=bench", nil)
		must(b, err)
		started(b, st, len(items))
		b.StopTimer()
		must(b, st.Close())
		b.StartTimer()
	})
}

// BenchmarkStores evaluates a flag of 1,000 that live in a store: once they are loaded,
// it does not matter where they live.
func BenchmarkStores(b *testing.B) {
	srv := redistest.Start(b)
	st, err := redis.Open(srv.URL()+"/0?env=bench", nil)
	must(b, err)
	defer st.Close()
	_, err = st.Apply(context.Background(), store.Change{Full: true, Items: largeItems(1000)})
	must(b, err)
	c, err := sdk.New(sdk.Config{Store: st})
	must(b, err)
	defer c.Close(context.Background())
	must(b, c.WaitReady(context.Background()))
	u, err := sdk.NewUser("ann")
	must(b, err)
	b.Run("peer=flagstead/store=redis", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Bool("boolean-77", u, false)
		}
	})
}
