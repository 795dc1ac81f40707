package main

import (
	"context"
	"net"
	"sync"
	"time"
)

// A proxy stands between the processes and a server, and can cut or hold up what
// goes through it.
type proxy struct {
	addr   string
	target string
	listen net.Listener

	mu    sync.Mutex
	gate  chan struct{} // closed while things flow
	conns map[net.Conn]bool
}

// newProxy starts a proxy that ends with ctx; wg waits for it.
func newProxy(ctx context.Context, wg *sync.WaitGroup, target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{addr: l.Addr().String(), target: target, listen: l, gate: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(p.gate)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(ctx, c) })
		}
	})
	wg.Go(func() {
		<-ctx.Done()
		l.Close()
		p.cut()
	})
	return p, nil
}

func (p *proxy) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	s, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		return
	}
	defer s.Close()
	p.mu.Lock()
	p.conns[c], p.conns[s] = true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		delete(p.conns, s)
	}()
	if ctx.Err() != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(ctx, c, s) })
	wg.Go(func() { p.copy(ctx, s, c) })
	wg.Wait()
}

func (p *proxy) copy(ctx context.Context, to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		gate := p.gate
		p.mu.Unlock()
		select {
		case <-gate:
		case <-ctx.Done():
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// hold lets nothing through until the returned function is called.
func (p *proxy) hold() (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gate := make(chan struct{})
	p.gate = gate
	return func() { close(gate) }
}
