package sdk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/flagstead/flagstead/examples/sample"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// offline returns a client of the sample environment, for the examples.
func offline() *sdk.Client {
	client, err := sdk.New(sdk.Config{Offline: true, Bootstrap: sample.Flags})
	if err != nil {
		log.Fatal(err)
	}
	return client
}

func user(key string, attrs ...sdk.Attr) *sdk.User {
	u, err := sdk.NewUser(key, attrs...)
	if err != nil {
		log.Fatal(err)
	}
	return u
}

// Flags come from FeatBit itself, and events go back.
func ExampleNew() {
	client, err := sdk.New(sdk.Config{
		StreamingURL: "wss://featbit.example",
		EventURL:     "https://featbit.example",
		EnvSecret:    sdk.Secret(os.Getenv("FLAGSTEAD_SECRET")),
		StartWait:    5 * time.Second,
	})
	if err != nil {
		log.Fatal(err) // the Config is wrong
	}
	defer client.Close(context.Background())
}

// Flags come from a store that a syncer fills; there is no connection to FeatBit.
func ExampleNew_reader() {
	st := memory.New() // or redis.Open, bolt.Open, file.Open
	defer st.Close()
	items, err := sdk.ParseItems(sample.Flags)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if _, err := st.Apply(ctx, store.Change{Full: true, Items: items}); err != nil {
		log.Fatal(err)
	}
	client, err := sdk.New(sdk.Config{Store: st, StartWait: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(ctx)
	fmt.Println(client.String("api-version", user("ann"), "2024-10-01"))
	// Output: 2026-01-01
}

// Flags come from a document; no network is used.
func ExampleNew_offline() {
	client, err := sdk.New(sdk.Config{Offline: true, Bootstrap: sample.Flags})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
	fmt.Println(client.Ready(), client.Offline())
	// Output: true true
}

func ExampleSetConfig() {
	// Once, at the start of the program:
	if err := sdk.SetConfig(sdk.Config{Offline: true, Bootstrap: sample.Flags}); err != nil {
		log.Fatal(err)
	}
	// Anywhere:
	client, err := sdk.Get()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Int("page-size", user("ann", sdk.String("plan", "pro")), 10))
	// Once, at the end:
	client.Close(context.Background())
	// Output: 100
}

func ExampleGet() {
	_, err := sdk.Get() // without SetConfig
	if errors.Is(err, sdk.ErrNoConfig) {
		fmt.Println("this program has no client of the process")
	}
}

func ExampleClient_WaitReady() {
	st := memory.New() // nobody fills it
	defer st.Close()
	client, err := sdk.New(sdk.Config{Store: st})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	err = client.WaitReady(ctx)
	fmt.Println(errors.Is(err, context.DeadlineExceeded), client.Ready())
	// Output: true false
}

func ExampleClient_Close() {
	client := offline()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := client.Close(ctx); err != nil {
		log.Print(err) // events were given up
	}
	// The last flags stay.
	fmt.Println(client.Bool("new-checkout", user("u-vip"), false))
	// Output: true
}

func ExampleClient_LoadJSON() {
	client, err := sdk.New(sdk.Config{Offline: true})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
	fmt.Println(client.IsFlagKnown("banner"))
	if err := client.LoadJSON(bytes.NewReader(sample.Flags)); err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.IsFlagKnown("banner"))
	// Output:
	// false
	// true
}

func ExampleConfig() {
	cfg := sdk.Config{
		StreamingURL: "wss://featbit.example",
		EnvSecret:    sdk.Secret(os.Getenv("FLAGSTEAD_SECRET")),

		// Serve these until FeatBit answers.
		BootstrapFile: "flags.json",

		// Deliver events every second, hold at most 20,000 of them, and try a
		// request three times.
		FlushInterval:      time.Second,
		EventCapacity:      20_000,
		EventAttempts:      3,
		EventRetryInterval: 100 * time.Millisecond,

		ConnectTimeout: 5 * time.Second,
		HTTPTimeout:    15 * time.Second,
		Logger:         slog.Default(),
	}
	// Configs are values: another environment is another secret.
	staging := cfg
	staging.EnvSecret = sdk.Secret(os.Getenv("FLAGSTEAD_STAGING_SECRET"))
}

func ExampleConfig_Defaults() {
	client, err := sdk.New(sdk.Config{
		Offline:  true,
		Defaults: map[string]any{"max-upload": 25},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
	fmt.Println(client.Int("max-upload", user("ann"), 10))
	// Output: 25
}

// A source of one's own, here one that reads a document once a minute.
func ExampleConfig_DataSource() {
	source := func(ctx context.Context, st sdk.DataStore, report func(sdk.State, error)) error {
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for {
			items, err := sdk.ParseItems(sample.Flags) // fetched from somewhere
			if err == nil {
				_, err = st.Apply(ctx, store.Change{Full: true, Items: items})
			}
			if err != nil {
				report(sdk.Interrupted, err)
			} else {
				report(sdk.OK, nil)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	client, err := sdk.New(sdk.Config{DataSource: source, StartWait: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
	fmt.Println(client.Ready())
	// Output: true
}

// printer is a sink that prints evaluations.
type printer struct{}

func (printer) Record(e sdk.Event) {
	if e.Kind == sdk.EvaluationEvent {
		fmt.Println(e.User.Key(), e.FlagKey, e.Value, e.Reason)
	}
}

func (printer) Flush(context.Context) error { return nil }

func ExampleConfig_EventSink() {
	client, err := sdk.New(sdk.Config{Offline: true, Bootstrap: sample.Flags, EventSink: printer{}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
	client.Bool("new-checkout", user("u-vip"), false)
	// Output: u-vip new-checkout true target match
}

func ExampleConfig_OnStatus() {
	client, err := sdk.New(sdk.Config{
		Offline: true,
		OnStatus: func(s sdk.Status) {
			if s.State == sdk.Off {
				fmt.Println(s.State, s.Err)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	client.Close(context.Background())
	// Output: off sdk: client is closed
}

// Stream and events through one proxy that asks for a password.
func ExampleConfig_Proxy() {
	proxy := &url.URL{
		Scheme: "http", Host: "proxy.example:3128",
		User: url.UserPassword("flags", os.Getenv("PROXY_PASSWORD")),
	}
	client, err := sdk.New(sdk.Config{
		StreamingURL: "wss://featbit.example",
		EnvSecret:    sdk.Secret(os.Getenv("FLAGSTEAD_SECRET")),
		Proxy:        http.ProxyURL(proxy),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
}

// Authorities of one's own, and a certificate to show.
func ExampleLoadTLS() {
	tls, err := sdk.LoadTLS("ca.pem", "client.pem", "client.key")
	if err != nil {
		log.Fatal(err)
	}
	client, err := sdk.New(sdk.Config{
		StreamingURL: "wss://featbit.example",
		EnvSecret:    sdk.Secret(os.Getenv("FLAGSTEAD_SECRET")),
		TLS:          tls,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())
}

func ExampleNewUser() {
	ann, err := sdk.NewUser("ann",
		sdk.Name("Ann"),
		sdk.String("plan", "pro"),
		sdk.Int("age", 42),
		sdk.Float64("score", 0.5),
		sdk.Bool("beta", true),
	)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ann.Key(), ann.Name())
	_, err = sdk.NewUser(" ")
	fmt.Println(err)
	// Output:
	// ann Ann
	// user key is blank
}

func ExampleParseUser() {
	ann, err := sdk.ParseUser([]byte(`{"key": "ann", "name": "Ann", "plan": "pro", "age": 42, "beta": true}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ann.Key(), ann.Name())
	// Output: ann Ann
}

func ExampleClient_Bool() {
	client := offline()
	defer client.Close(context.Background())
	if client.Bool("new-checkout", user("u-vip"), false) {
		fmt.Println("the new checkout")
	}
	// Output: the new checkout
}

func ExampleClient_String() {
	client := offline()
	defer client.Close(context.Background())
	fmt.Println(client.String("api-version", user("ann", sdk.String("client", "legacy-3")), "2024-10-01"))
	// Output: 2024-10-01
}

func ExampleClient_Int() {
	client := offline()
	defer client.Close(context.Background())
	fmt.Println(client.Int("page-size", user("ann", sdk.String("plan", "pro")), 20))
	// Output: 100
}

func ExampleClient_Float64() {
	client := offline()
	defer client.Close(context.Background())
	fmt.Println(client.Float64("discount", user("ann"), 0.5))
	// Output: 0
}

func ExampleClient_Variation() {
	client := offline()
	defer client.Close(context.Background())
	ann := user("ann")
	for _, key := range []string{"maintenance", "api-version", "page-size", "limits", "no-such-flag"} {
		value := client.Variation(key, ann, "default")
		fmt.Printf("%T %v\n", value, value)
	}
	// Output:
	// bool false
	// string 2026-01-01
	// float64 20
	// map[string]interface {} map[burst:10 perMinute:60]
	// string default
}

func ExampleJSON() {
	client := offline()
	defer client.Close(context.Background())
	type limits struct{ PerMinute, Burst int }
	l := sdk.JSON(client, "limits", user("ann"), limits{PerMinute: 30})
	fmt.Printf("%+v\n", l)
	// Output: {PerMinute:60 Burst:10}
}

func ExampleClient_BoolDetail() {
	client := offline()
	defer client.Close(context.Background())
	d := client.BoolDetail("new-checkout", user("u-vip"), false)
	fmt.Println(d.Value, d.Reason, d.FlagName, d.Err)
	d = client.BoolDetail("page-size", user("u-vip"), true)
	fmt.Println(d.Value, d.Reason, errors.Is(d.Err, sdk.ErrWrongType))
	// Output:
	// true target match New checkout <nil>
	// true wrong type true
}

func ExampleClient_VariationDetail() {
	client := offline()
	defer client.Close(context.Background())
	d := client.VariationDetail("no-such-flag", user("ann"), 7)
	fmt.Println(d.Value, d.Reason, d.Reason.IsDefault())
	// Output: 7 flag not found true
}

func ExampleClient_AllFlags() {
	client := offline()
	defer client.Close(context.Background())
	all := client.AllFlags(user("ann"))
	if err := all.Err(); err != nil {
		log.Fatal(err)
	}
	for key, d := range all.All() { // records no events
		if d.Reason == sdk.ReasonOff {
			fmt.Println(key, d.Value)
		}
	}
	// Output: maintenance false
}

func ExampleAllFlags_Get() {
	client := offline()
	defer client.Close(context.Background())
	all := client.AllFlags(user("ann"))
	fmt.Println(all.Get("page-size", 10).Value) // records an event
	// Output: 20
}

func ExampleClient_IsFlagKnown() {
	client := offline()
	defer client.Close(context.Background())
	fmt.Println(client.IsFlagKnown("banner"), client.IsFlagKnown("no-such-flag"))
	// Output: true false
}

// All evaluations of one request agree, also if the flags change meanwhile.
func ExampleClient_Snapshot() {
	client := offline()
	defer client.Close(context.Background())
	handle := func(flags sdk.Evaluator, u *sdk.User) {
		fmt.Println(flags.Int("page-size", u, 10), flags.Bool("maintenance", u, false))
	}
	handle(client.Snapshot(), user("ann"))
	// Output: 20 false
}

func ExampleClient_Identify() {
	client := offline() // of an online client, FeatBit gets to know ann
	defer client.Close(context.Background())
	client.Identify(user("ann", sdk.Name("Ann"), sdk.String("plan", "pro")))
}

func ExampleClient_TrackMetric() {
	client := offline()
	defer client.Close(context.Background())
	ann := user("ann")
	if client.String("pricing-test", ann, "control") == "higher" {
		fmt.Println("a higher price")
	}
	client.TrackMetric(ann, "bought", 1)
	client.TrackMetric(ann, "revenue", 19.90)
}

func ExampleClient_TrackMetrics() {
	client := offline()
	defer client.Close(context.Background())
	client.TrackMetrics(user("ann"), map[string]float64{"bought": 1, "revenue": 19.90})
}

func ExampleClient_Flush() {
	client := offline()
	defer client.Close(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := client.Flush(ctx); err != nil {
		log.Print(err) // not all is delivered yet
	}
	st := client.EventStats()
	fmt.Println(st.Recorded == st.Delivered+st.Dropped+st.Failed+st.Pending)
	// Output: true
}

func ExampleClient_Status() {
	client := offline()
	defer client.Close(context.Background())
	if err := client.WaitFor(context.Background(), sdk.OK); err != nil {
		log.Fatal(err)
	}
	s := client.Status()
	fmt.Println(s.State, s.Flags, s.Segments, s.Err)
	// Output: ok 15 3 <nil>
}

func ExampleClient_OnFlagChange() {
	client := offline()
	defer client.Close(context.Background())
	changed := make(chan sdk.FlagChange)
	remove := client.OnFlagChange(func(c sdk.FlagChange) { changed <- c })
	defer remove()
	if err := client.LoadJSON(bytes.NewReader(bytes.Replace(sample.Flags, []byte(`"value": "hybrid"`), []byte(`"value": "fused"`), 1))); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", <-changed)
	// Output: {Key:search-engine Removed:false}
}

func ExampleOnValueChanged() {
	client := offline()
	defer client.Close(context.Background())
	done := make(chan struct{})
	remove := sdk.OnValueChanged(client, "api-version", user("ann"), "", func(previous, current string) {
		fmt.Println(previous, "->", current)
		close(done)
	})
	defer remove()
	if err := client.LoadJSON(bytes.NewReader(bytes.ReplaceAll(sample.Flags, []byte("2026-01-01"), []byte("2026-07-01")))); err != nil {
		log.Fatal(err)
	}
	<-done
	// Output: 2026-01-01 -> 2026-07-01
}

func ExampleOnValueMaybeChanged() {
	client := offline()
	defer client.Close(context.Background())
	values := make(chan int)
	remove := sdk.OnValueMaybeChanged(client, "page-size", user("ann"), 10, func(current int) { values <- current })
	defer remove()
	// Only the other variation changes, which ann does not get.
	if err := client.LoadJSON(bytes.NewReader(bytes.ReplaceAll(sample.Flags, []byte(`"value": "100"`), []byte(`"value": "150"`)))); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-values)
	// Output: 20
}
