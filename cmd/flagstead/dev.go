package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
)

type devCmd struct {
	Flags        string `arg:"" placeholder:"FILE" type:"path" help:"Flags file: what FeatBit's latest-all returns. It is watched."`
	Addr         string `default:"127.0.0.1:6100" help:"Address to listen on; port 0 takes a free one."`
	EndWithStdin bool   `hidden:"" help:"End when standard input does, as a child of a program that may crash."`

	Secret string `env:"FLAGSTEAD_SECRET" placeholder:"SECRET" help:"Server secret that SDKs must use. Default: a new one for each run."`
}

// Run serves the file until ctx ends.
func (c *devCmd) Run(ctx context.Context, con *console) error {
	if c.EndWithStdin {
		var cancel context.CancelFunc
		ctx, cancel = endWith(ctx, con.in)
		defer cancel()
	}
	secret, err := c.secret()
	if err != nil {
		return err
	}
	st, err := file.Open(c.Flags, &file.Options{ReadOnly: true, Logger: con.warnings()})
	if err != nil {
		return err
	}
	defer st.Close()
	first, err := st.Load(ctx, "") // a file that is wrong from the start is a mistake, not a state
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%s is in use by another program; choose another --addr", c.Addr)
		}
		return fmt.Errorf("cannot listen on %s: %w", c.Addr, err)
	}
	r, err := relay.New(relay.Config{Store: st, Secrets: []relay.Secret{secret}, Logger: con.log})
	if err != nil {
		listener.Close()
		return err
	}
	return c.serve(ctx, con, r, st, listener, secret, first)
}

func (c *devCmd) serve(ctx context.Context, con *console, r *relay.Relay, st store.Reader, listener net.Listener, secret sdk.Secret, first store.Snapshot) error {
	ctx, cancel := context.WithCancel(ctx)
	srv := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { r.Run(ctx) })
	wg.Go(func() { store.Follow(ctx, st, store.FollowOptions{}, c.report(con, first.Rev)) })
	wg.Go(func() {
		<-ctx.Done()
		stopCtx, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		if srv.Shutdown(stopCtx) != nil {
			srv.Close()
		}
	})

	awaitReady(ctx, r)
	flags, segments := count(first.Items)
	addr := listener.Addr()
	con.printf("serving %s: %s, %s\n\n", c.Flags, plural(flags, "flag"), plural(segments, "segment"))
	con.printf("  streaming  ws://%s\n", addr)
	con.printf("  events     http://%s\n", addr)
	if c.Secret == "" {
		con.printf("  secret     %s\n", string(secret))
	} else {
		con.printf("  secret     the given one\n") // what is printed is often kept
	}
	con.printf("  status     http://%s/\n\n", addr)
	con.printf("Point an SDK's streaming and event URLs here. Edit the file: SDKs see each change at once.\n")
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// awaitReady waits until SDKs are served and not refused: who reads the address
// may connect at once. The file was readable a moment ago, so that is soon, unless
// somebody broke it meanwhile.
func awaitReady(ctx context.Context, r *relay.Relay) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !r.Ready() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// report prints what happens to the file.
func (c *devCmd) report(con *console, rev store.Rev) func(store.Snapshot, error) {
	last := ""
	return func(snap store.Snapshot, err error) {
		now := time.Now().Format("15:04:05")
		if err != nil {
			if text := err.Error(); text != last { // a broken file is looked at again and again
				last = text
				con.alert("%v; still serving what was there before", err)
			}
			return
		}
		if snap.Rev != rev || last != "" {
			flags, segments := count(snap.Items)
			if snap.Delta {
				con.printf("%s  file is readable again\n", now)
			} else {
				con.printf("%s  file changed: %s, %s\n", now, plural(flags, "flag"), plural(segments, "segment"))
			}
		}
		rev, last = snap.Rev, ""
	}
}

func (c *devCmd) secret() (sdk.Secret, error) {
	if c.Secret == "" {
		return protocol.NewSecret(protocol.NewEnvID())
	}
	secret := sdk.Secret(c.Secret)
	_, err := secret.EnvID()
	return secret, err
}

// count returns how many flags and segments are not archived.
func count(items []store.Item) (flags, segments int) {
	for _, it := range items {
		switch {
		case it.Archived:
		case it.Kind == store.Segment:
			segments++
		default:
			flags++
		}
	}
	return flags, segments
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
