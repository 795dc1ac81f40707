package bench

import (
	"context"
	"net/http"

	"github.com/flagstead/flagstead/sdk"
)

func init() {
	register(Peer{
		Name: "flagstead", Title: "Flagstead", Module: "github.com/flagstead/flagstead",
		Document: featBit, Open: openFlagstead,
	})
}

type flagstead struct {
	client *sdk.Client
	user   *sdk.User
}

func openFlagstead(document []byte, events bool) (Session, error) {
	cfg := sdk.Config{Offline: true, Bootstrap: document}
	if events {
		cfg = sdk.Config{
			Bootstrap: document, EnvSecret: "E0ZC__zC8EeQoxEDF-iR9g-JtrIvNK-k-bARYicOTNQA", EventURL: "http://events.invalid",
			HTTPClient: &http.Client{Transport: BlackHole{}},
			// The flags are those of the document; nothing else arrives.
			DataSource: func(ctx context.Context, _ sdk.DataStore, _ func(sdk.State, error)) error {
				<-ctx.Done()
				return ctx.Err()
			},
		}
	}
	client, err := sdk.New(cfg)
	if err != nil {
		return nil, err
	}
	user, err := sdk.NewUser(TheUser.Key, sdk.Name(TheUser.Name), sdk.String("country", TheUser.Country),
		sdk.Int("age", int64(TheUser.Age)), sdk.String("plan", TheUser.Plan), sdk.String("email", TheUser.Email))
	if err != nil {
		return nil, err
	}
	return &flagstead{client, user}, nil
}

func (f *flagstead) Bool(key string, def bool) bool { return f.client.Bool(key, f.user, def) }

func (f *flagstead) All() int {
	n := 0
	for range f.client.AllFlags(f.user).All() {
		n++
	}
	return n
}

func (f *flagstead) Events() (recorded, dropped uint64, ok bool) {
	st := f.client.EventStats()
	return st.Recorded, st.Dropped, true
}

func (f *flagstead) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = f.client.Close(ctx) // what is still held is not of interest
}
