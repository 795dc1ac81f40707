//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/relay"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/memory"
)

// secret is nobody's.
const secret = relay.Secret("eWaefCV03kCUS-B_wfkK5wW62PD8vZn0ahZXCGdyiVDg")

// usage is what a process has used.
type usage struct {
	Resident int64   // bytes
	CPU      float64 // seconds
}

func used() (usage, error) {
	var u usage
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return u, fmt.Errorf("memory is measured on Linux only: %w", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.ParseInt(strings.Fields(rest + " ?")[0], 10, 64)
	if err != nil {
		return u, fmt.Errorf("VmRSS in /proc/self/status: %w", err)
	}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return u, err
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Nano()) / 1e9 }
	return usage{kb << 10, seconds(r.Utime) + seconds(r.Stime)}, nil
}

// A subject is a server that is measured.
type subject interface {
	http.Handler

	// change makes a new version of a flag and sends it to all connections, or has
	// that begun.
	change(flag store.Item) error
}

// serve serves until stdin ends.
func serve(s settings, make func(ctx context.Context, flags []store.Item) (subject, func(), error)) error {
	if err := checkFiles(s.conns); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	flags := []store.Item{}
	for i := range s.flags {
		flags = append(flags, flagOf(i, 1))
	}
	sub, stop, err := make(ctx, flags)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: sub}
	ended := newSignal()
	go func() {
		defer ended.set()
		_ = web.Serve(listener)
	}()
	version := time.Now().UnixMilli()
	err = obey(func(command string) (any, error) {
		switch command {
		case "addr":
			return listener.Addr().String(), nil
		case "usage":
			return used()
		case "free":
			debug.FreeOSMemory()
			return used()
		case "change":
			version++
			began := time.Now().UnixNano()
			return began, sub.change(flagOf(0, version))
		}
		return nil, fmt.Errorf("no command %q", command)
	})
	_ = web.Close()
	<-ended
	cancel()
	stop()
	return err
}

type signal chan struct{}

func newSignal() signal { return make(signal) }
func (s signal) set()   { close(s) }

// flagOf returns a flag of about 600 bytes.
func flagOf(i int, version int64) store.Item {
	key := fmt.Sprint("flag-", i)
	return store.Item{Kind: store.Flag, Key: key, Version: version, Data: fmt.Appendf(nil,
		`{"id":"%08d-0000-4000-8000-000000000000","key":"%s","name":"%s","description":"%s","variationType":"boolean",`+
			`"variations":[{"id":"on","value":"true"},{"id":"off","value":"false"}],"targetUsers":[],"rules":[],"isEnabled":true,`+
			`"disabledVariationId":"off","fallthrough":{"dispatchKey":null,"variations":[{"id":"on","rollout":[0,1],"exptRollout":1}]},`+
			`"tags":[],"isArchived":false,"updatedAt":"%s"}`, i, key, key, strings.Repeat("x", 150), wire.FormatMillis(version))}
}

type relaySubject struct {
	*relay.Relay
	store *memory.Store
}

func newRelay(ctx context.Context, flags []store.Item) (subject, func(), error) {
	st := memory.New()
	if _, err := st.Apply(ctx, store.Change{Full: true, Items: flags}); err != nil {
		return nil, nil, err
	}
	r, err := relay.New(relay.Config{Store: st, Secrets: []relay.Secret{secret}})
	if err != nil {
		return nil, nil, err
	}
	ended := newSignal()
	go func() {
		defer ended.set()
		_ = r.Run(ctx)
	}()
	for !r.Ready() {
		time.Sleep(time.Millisecond)
	}
	return relaySubject{r, st}, func() { <-ended }, nil
}

func (s relaySubject) change(flag store.Item) error {
	_, err := s.store.Apply(context.Background(), store.Change{Items: []store.Item{flag}})
	return err
}

// bare is the server that is compared with.
type bare struct {
	upgrader websocket.Upgrader
	full     *websocket.PreparedMessage
	pong     *websocket.PreparedMessage

	mu    sync.Mutex
	conns map[*websocket.Conn]struct{}
	wg    sync.WaitGroup
}

func newBare(_ context.Context, flags []store.Item) (subject, func(), error) {
	full, err := websocket.NewPreparedMessage(websocket.TextMessage, wire.AppendDataSync(nil, wire.Full, flags))
	pong, err2 := websocket.NewPreparedMessage(websocket.TextMessage, protocol.PongFrame)
	b := &bare{full: full, pong: pong, conns: map[*websocket.Conn]struct{}{}}
	stop := func() {
		b.mu.Lock()
		for ws := range b.conns {
			_ = ws.Close()
		}
		b.mu.Unlock()
		b.wg.Wait()
	}
	return b, stop, errors.Join(err, err2)
}

func (b *bare) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	ws, err := b.upgrader.Upgrade(w, req, nil)
	if err != nil {
		return
	}
	b.mu.Lock()
	b.conns[ws] = struct{}{}
	b.wg.Go(func() { b.read(ws) })
	b.mu.Unlock()
}

// read answers. The SDKs are silent while there is a change, so nobody else writes.
func (b *bare) read(ws *websocket.Conn) {
	for {
		_, text, err := ws.ReadMessage()
		if err != nil {
			break
		}
		answer := b.full
		if bytes.Contains(text, []byte("ping")) {
			answer = b.pong
		}
		b.mu.Lock() // as change
		err = ws.WritePreparedMessage(answer)
		b.mu.Unlock()
		if err != nil {
			break
		}
	}
	_ = ws.Close()
	b.mu.Lock()
	delete(b.conns, ws)
	b.mu.Unlock()
}

func (b *bare) change(flag store.Item) error {
	m, err := websocket.NewPreparedMessage(websocket.TextMessage, wire.AppendDataSync(nil, wire.Patch, []store.Item{flag}))
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for ws := range b.conns {
		if err := ws.WritePreparedMessage(m); err != nil {
			return err
		}
	}
	return nil
}
