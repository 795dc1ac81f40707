//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
)

// receipts say when a change arrived, in Unix nanoseconds.
type receipts struct{ First, Median, Last int64 }

// fleet is all SDKs of the measurement, as far as the server can see.
type fleet struct {
	conns []*websocket.Conn
	times []int64
	next  atomic.Int64  // in times
	got   atomic.Int64  // in times, too
	all   chan struct{} // gets a value when the last one has a change
	wg    sync.WaitGroup
	lost  atomic.Pointer[error]
}

// perAddress is how many connections to one server an address of ours gets: there
// are that many ports to be had.
const perAddress = 20_000

// connect plays the SDKs until stdin ends.
func connect(s settings, addr string) error {
	if err := checkFiles(s.conns); err != nil {
		return err
	}
	f := &fleet{times: make([]int64, s.conns), all: make(chan struct{}, 1)}
	stop := make(chan struct{})
	err := obey(func(command string) (any, error) {
		if lost := f.lost.Load(); lost != nil {
			return nil, *lost
		}
		switch command {
		case "connect":
			err := f.connect(s, addr)
			f.wg.Go(func() { f.ping(s.ping, stop) })
			return err == nil, err
		case "arm":
			f.next.Store(0)
			f.got.Store(0)
			return true, nil
		case "received":
			select {
			case <-f.all:
			case <-time.After(time.Minute):
				return nil, fmt.Errorf("%d of %d SDKs got the change within a minute", f.got.Load(), s.conns)
			}
			first, last := f.times[0], f.times[0]
			for _, t := range f.times {
				first, last = min(first, t), max(last, t)
			}
			return receipts{first, middle(f.times), last}, nil
		}
		return nil, fmt.Errorf("no command %q", command)
	})
	close(stop)
	for _, ws := range f.conns {
		_ = ws.Close()
	}
	f.wg.Wait()
	return err
}

// connect opens all connections and waits until each has all flags.
func (f *fleet) connect(s settings, addr string) error {
	f.conns = make([]*websocket.Conn, s.conns)
	const dialers = 32
	var next atomic.Int64
	var dialing sync.WaitGroup
	errs := make([]error, dialers)
	for d := range dialers {
		dialing.Go(func() {
			for errs[d] == nil {
				i := int(next.Add(1)) - 1
				if i >= s.conns {
					return
				}
				f.conns[i], errs[d] = dial(addr, i)
			}
		})
	}
	dialing.Wait()
	if err := errors.Join(errs...); err != nil {
		f.conns = nil
		return err
	}
	for _, ws := range f.conns {
		f.wg.Go(func() { f.read(ws) })
	}
	return nil
}

func dial(addr string, i int) (*websocket.Conn, error) {
	from := net.Dialer{
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i/perAddress))},
		Control:   chooseLate,
	}
	d := websocket.Dialer{
		HandshakeTimeout: 30 * time.Second,
		NetDial:          from.Dial,
		ReadBufferSize:   1 << 10, WriteBufferSize: 256,
	}
	q := url.Values{"type": {"server"}, "token": {protocol.Token(secret, time.Now())}}
	ws, _, err := d.Dial("ws://"+addr+protocol.StreamingPath+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	if err := ws.WriteMessage(websocket.TextMessage, protocol.DataSyncRequest(0)); err != nil {
		return nil, err
	}
	_, text, err := ws.ReadMessage()
	if err == nil && !bytes.Contains(text, []byte(`"full"`)) {
		err = fmt.Errorf("the first answer is %.100q", text)
	}
	return ws, err
}

// chooseLate makes the kernel choose the port when it knows where to: choosing one that
// would do for every server takes ever longer the fewer are left.
func chooseLate(_, _ string, raw syscall.RawConn) (err error) {
	const bindAddressNoPort = 24 // IP_BIND_ADDRESS_NO_PORT
	failed := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, bindAddressNoPort, 1)
	})
	return errors.Join(failed, err)
}

// read notes when changes arrive.
func (f *fleet) read(ws *websocket.Conn) {
	for {
		_, text, err := ws.ReadMessage()
		if err != nil {
			f.lost.CompareAndSwap(nil, &err)
			return
		}
		if !bytes.Contains(text, []byte(`"patch"`)) {
			continue
		}
		f.times[f.next.Add(1)-1] = time.Now().UnixNano()
		if f.got.Add(1) == int64(len(f.times)) {
			f.all <- struct{}{}
		}
	}
}

// ping makes each SDK ping once per interval.
func (f *fleet) ping(interval time.Duration, stop <-chan struct{}) {
	const steps = 50
	tick := time.NewTicker(interval / steps)
	defer tick.Stop()
	for step := 0; ; step = (step + 1) % steps {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		for i := step; i < len(f.conns); i += steps {
			_ = f.conns[i].WriteMessage(websocket.TextMessage, []byte(`{"messageType":"ping","data":{}}`))
		}
	}
}
