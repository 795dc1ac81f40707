package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/flagstead/flagstead/sdk"
)

// demoWorkerCmd is one reader of the demo, a process of its own: it evaluates
// in a loop until its standard input ends and reports in lines of JSON.
type demoWorkerCmd struct {
	Store  string `required:""`
	Expect string `required:"" help:"File with the right values of each step."`
	Events string `required:"" help:"Where events go."`
	Secret string `required:"" env:"FLAGSTEAD_SECRET"`
}

// workerReport is a line that a worker prints.
type workerReport struct {
	Event   string        `json:"event"` // ready, seen, wrong or end
	Step    int           `json:"step,omitempty"`
	Latency time.Duration `json:"latency,omitempty"`
	Text    string        `json:"text,omitempty"`

	Evaluations int           `json:"evaluations,omitempty"`
	Checks      int           `json:"checks,omitempty"`
	Wrong       int           `json:"wrong,omitempty"`
	Elapsed     time.Duration `json:"elapsed,omitempty"`
	Events      uint64        `json:"events,omitempty"` // delivered
}

// expectation is what Expect holds: per step and user the values of all flags.
type expectation []map[string]string

// demoUsers are the users that the demo evaluates for.
func demoUsers() ([]*sdk.User, error) {
	var users []*sdk.User
	countries := []string{"de", "us", "fr", "xx"}
	plans := []string{"free", "pro", "enterprise"}
	for i := range 12 {
		u, err := sdk.NewUser(fmt.Sprintf("u-%d", i),
			sdk.Name(fmt.Sprintf("User %d", i)),
			sdk.String("country", countries[i%len(countries)]),
			sdk.String("plan", plans[i%len(plans)]),
			sdk.Int("age", int64(10+4*i)),
			sdk.Bool("beta", i%5 == 0),
			sdk.String("email", []string{"ann@example.com", "ext-bob@other.example", "eve@other.example"}[i%3]),
		)
		if err != nil {
			return nil, err
		}
		users = append(users, u)
	}
	return users, nil
}

// valuesOf returns the step that all are at and their values in one text.
func valuesOf(all sdk.AllFlags) (int, string, error) {
	step := stepValue{Step: -1}
	var b strings.Builder
	for key, d := range all.All() {
		text, err := json.Marshal(d.Value)
		if err != nil {
			return 0, "", err
		}
		if key == stepKey {
			if err := json.Unmarshal(text, &step); err != nil {
				return 0, "", err
			}
			continue
		}
		fmt.Fprintf(&b, "%s=%s (%s)\n", key, text, d.Reason)
	}
	return step.Step, b.String(), nil
}

// Run evaluates until standard input ends.
func (c *demoWorkerCmd) Run(ctx context.Context, con *console) error {
	text, err := os.ReadFile(c.Expect)
	if err != nil {
		return err
	}
	var expect expectation
	if err := json.Unmarshal(text, &expect); err != nil {
		return err
	}
	users, err := demoUsers()
	if err != nil {
		return err
	}
	st, err := openStore(con, c.Store, "")
	if err != nil {
		return err
	}
	defer st.Close()
	// Two clients on one store: one evaluates as fast as it may, the other one
	// reports its evaluations to FeatBit.
	fast, err := sdk.New(sdk.Config{Store: st})
	if err != nil {
		return err
	}
	defer fast.Close(context.Background())
	reporting, err := sdk.New(sdk.Config{Store: st, EventURL: c.Events, EnvSecret: sdk.Secret(c.Secret)})
	if err != nil {
		return err
	}
	defer reporting.Close(context.Background())
	for _, client := range []*sdk.Client{fast, reporting} {
		if err := waitReady(ctx, client, 20*time.Second); err != nil {
			return err
		}
	}

	w := &worker{con: con, fast: fast, users: users, expect: expect, lines: make(chan workerReport, 64)}
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with the process: a read of standard input cannot be interrupted
		io.Copy(io.Discard, con.in)
		cancel()
	}()
	defer fast.OnFlagChange(func(ch sdk.FlagChange) { w.seen(ch, reporting) })()
	w.lines <- workerReport{Event: "ready"}
	w.loop(ctx)
	flushCtx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	reporting.Close(flushCtx)
	w.print(workerReport{
		Event: "end", Evaluations: w.evaluations, Checks: w.checks, Wrong: w.wrong, Elapsed: w.elapsed,
		Events: reporting.EventStats().Delivered,
	})
	return nil
}

type worker struct {
	con    *console
	fast   *sdk.Client
	users  []*sdk.User
	expect expectation
	lines  chan workerReport // from the listener to the loop, which prints

	evaluations, checks, wrong int
	elapsed                    time.Duration
}

func (w *worker) print(r workerReport) {
	text, err := json.Marshal(r)
	if err != nil {
		return
	}
	w.con.printf("%s\n", text)
}

// seen reports a step when its flag changed.
func (w *worker) seen(ch sdk.FlagChange, reporting *sdk.Client) {
	if ch.Key != stepKey {
		return
	}
	now := time.Now().UnixNano()
	step := sdk.JSON(w.fast, stepKey, w.users[0], stepValue{})
	w.lines <- workerReport{Event: "seen", Step: step.Step, Latency: time.Duration(now - step.At)}
	reporting.Bool("new-checkout", w.users[step.Step%len(w.users)], false)
}

// loop evaluates in bursts with a millisecond of rest between them: four
// workers without rest would leave no processor to the syncer.
func (w *worker) loop(ctx context.Context) {
	began := time.Now()
	rest := time.NewTicker(time.Millisecond)
	defer rest.Stop()
	for i := 0; ; i++ {
		for j := range 100 {
			u := w.users[(i+j)%len(w.users)]
			w.fast.Bool("new-checkout", u, false)
			w.fast.String("search-engine", u, "")
			w.fast.Int("page-size", u, 0)
			w.fast.Bool("staff-tools", u, false)
		}
		w.evaluations += 400
		w.check(w.users[i%len(w.users)])
		select {
		case <-ctx.Done():
			w.elapsed = time.Since(began)
			return
		case r := <-w.lines:
			w.print(r)
		case <-rest.C:
		}
	}
}

// check compares the values of all flags at one moment with what they must be
// at the step that they are at.
func (w *worker) check(u *sdk.User) {
	w.checks++
	step, got, err := valuesOf(w.fast.AllFlags(u))
	if err == nil && step >= 0 && step < len(w.expect) && w.expect[step][u.Key()] == got {
		return
	}
	w.wrong++
	if w.wrong <= 3 {
		want := "(no such step)"
		if step >= 0 && step < len(w.expect) {
			want = w.expect[step][u.Key()]
		}
		w.print(workerReport{Event: "wrong", Step: step, Text: fmt.Sprintf("user %s: got %s want %s (%v)", u.Key(), got, want, err)})
	}
}
