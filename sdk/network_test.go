package sdk_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/wire"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/syncer"
)

// quick makes a client notice and mend trouble within the time of a test.
func quick() syncer.Config {
	return syncer.Config{BackoffMin: time.Millisecond, BackoffMax: 20 * time.Millisecond, Ping: 20 * time.Millisecond, DialTimeout: 300 * time.Millisecond}
}

// TestHostileStreams: whatever the first connections meet, the client gets its
// flags from the first one that works, and keeps them through the later ones.
func TestHostileStreams(t *testing.T) {
	for name, misbehave := range map[string]func(w http.ResponseWriter, r *http.Request){
		"refuses":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"not found": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
		"resets": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		},
		"says nothing": func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			defer conn.Close()
			io.Copy(io.Discard, conn)
		},
		"answers garbage": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(conn, "\x00\x01 no HTTP at all\r\n\r\n")
			conn.Close()
		},
		"accepts and closes": func(w http.ResponseWriter, r *http.Request) { upgrade(w, r, func(*websocket.Conn) {}) },
		"closes with 1000": func(w http.ResponseWriter, r *http.Request) {
			upgrade(w, r, func(c *websocket.Conn) {
				c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
			})
		},
		"sends garbage": func(w http.ResponseWriter, r *http.Request) {
			upgrade(w, r, func(c *websocket.Conn) {
				c.WriteMessage(websocket.TextMessage, []byte("no JSON"))
				c.ReadMessage()
				c.ReadMessage()
			})
		},
		"falls silent": func(w http.ResponseWriter, r *http.Request) {
			upgrade(w, r, func(c *websocket.Conn) {
				for {
					if _, _, err := c.ReadMessage(); err != nil {
						return
					}
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) <= 2 {
					misbehave(w, r)
					return
				}
				upgrade(w, r, func(c *websocket.Conn) {
					for {
						_, text, err := c.ReadMessage()
						if err != nil {
							return
						}
						answer := protocol.PongFrame
						if strings.Contains(string(text), "data-sync") {
							answer = document(sampleItems()...)
						}
						c.WriteMessage(websocket.TextMessage, answer)
					}
				})
			}))
			defer srv.Close()
			secret, _ := protocol.NewSecret(protocol.NewEnvID())
			c := newClient(t, sdk.Config{StreamingURL: srv.URL, EnvSecret: secret, DisableEvents: true, StartWait: 20 * time.Second, Sync: quick()})
			if !c.Ready() || !c.Bool("bool", newUser(t, "ann"), false) {
				t.Errorf("after %d requests: %+v", requests.Load(), c.Status())
			}
			if n := requests.Load(); n < 3 {
				t.Errorf("%d requests", n)
			}
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func upgrade(w http.ResponseWriter, r *http.Request, serve func(*websocket.Conn)) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	serve(c)
}

// TestHalfOpen: a stream that falls silent after the first flags is noticed, and
// the client says since when it has heard nothing.
func TestHalfOpen(t *testing.T) {
	var n atomic.Int32
	again := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) > 1 {
			<-again
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		upgrade(w, r, func(c *websocket.Conn) {
			c.ReadMessage()
			c.WriteMessage(websocket.TextMessage, document(sampleItems()...))
			<-again
		})
	}))
	defer srv.Close()
	defer close(again)
	secret, _ := protocol.NewSecret(protocol.NewEnvID())
	began := time.Now()
	c := newClient(t, sdk.Config{StreamingURL: srv.URL, EnvSecret: secret, DisableEvents: true, Sync: quick()})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.WaitFor(ctx, sdk.OK); err != nil {
		t.Fatal(err)
	}
	heard := time.Now()
	if err := c.WaitFor(ctx, sdk.Interrupted); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); s.StaleSince.Before(began) || s.StaleSince.After(heard) || s.Err == nil {
		t.Errorf("stale since %v, heard last between %v and %v: %+v", s.StaleSince, began, heard, s)
	}
	if !c.Bool("bool", newUser(t, "ann"), false) {
		t.Error("the flags are gone with the stream")
	}
}

// TestTLS: certificates are verified by the authorities given and by nothing
// else, a client certificate is shown to stream and event server, and not to
// verify is logged.
func TestTLS(t *testing.T) {
	srv := serve(t)
	apply(t, srv.store, true, sampleItems()...)
	until(t, "server is ready", srv.relay.Ready)
	dir := t.TempDir()
	authority, authorityKey := certificate(t, nil, nil)
	server, serverKey := certificate(t, authority, authorityKey)
	client, clientKey := certificate(t, authority, authorityKey)
	caFile, certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, caFile, "CERTIFICATE", authority.Raw)
	writePEM(t, certFile, "CERTIFICATE", client.Raw)
	der, err := x509.MarshalPKCS8PrivateKey(clientKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, keyFile, "PRIVATE KEY", der)

	pool := x509.NewCertPool()
	pool.AddCert(authority)
	secure := httptest.NewUnstartedServer(srv.relay)
	secure.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{server.Raw}, PrivateKey: serverKey}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // refused handshakes
	secure.StartTLS()
	defer secure.Close()
	ann := newUser(t, "ann")

	both, err := sdk.LoadTLS(caFile, certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, sdk.Config{StreamingURL: secure.URL, EnvSecret: srv.secret, TLS: both, StartWait: 20 * time.Second})
	if !c.Bool("bool", ann, false) {
		t.Fatalf("Status() = %+v", c.Status())
	}
	if err := c.Flush(t.Context()); err != nil || c.EventStats().Delivered != 1 {
		t.Errorf("Flush = %v, %+v", err, c.EventStats())
	}
	for name, cfg := range map[string]*tls.Config{
		"system's authorities":  nil,
		"no client certificate": {RootCAs: pool},
	} {
		c := newClient(t, sdk.Config{StreamingURL: secure.URL, EnvSecret: srv.secret, TLS: cfg, Sync: quick()})
		until(t, name+" is refused", func() bool { return c.Status().Err != nil })
		if c.Ready() {
			t.Errorf("%s: connected", name)
		}
	}
	var out logged
	insecure := both.Clone()
	insecure.InsecureSkipVerify, insecure.RootCAs = true, nil
	c = newClient(t, sdk.Config{StreamingURL: secure.URL, EnvSecret: srv.secret, TLS: insecure, StartWait: 20 * time.Second, Logger: out.logger()})
	if !c.Ready() || !strings.Contains(out.String(), "not verified") {
		t.Errorf("ready %t, logged %q", c.Ready(), out.String())
	}
	for _, files := range [][3]string{{"/none", "", ""}, {keyFile, "", ""}, {"", certFile, ""}, {"", certFile, caFile}} {
		if cfg, err := sdk.LoadTLS(files[0], files[1], files[2]); cfg != nil || err == nil {
			t.Errorf("LoadTLS%q = %v", files, err)
		}
	}
}

// logged collects a client's log.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func writePEM(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate returns one for 127.0.0.1 that parent signed, or an authority.
func certificate(t *testing.T, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: serial.String()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage, template.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// proxy is an HTTP proxy that asks for a password, and counts what goes through
// it.
type proxy struct {
	tunnels, forwards, refused atomic.Int32
	target                     string // all names lead here
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("joe:pa:ss"))
	if r.Header.Get("Proxy-Authorization") != want {
		p.refused.Add(1)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if r.Method != http.MethodConnect {
		p.forwards.Add(1)
		out, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+p.target+r.URL.Path, r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		out.Header = r.Header
		resp, err := http.DefaultClient.Do(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
		return
	}
	p.tunnels.Add(1)
	up, err := net.Dial("tcp", p.target)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer up.Close()
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(up, conn)
		up.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(conn, up)
	conn.Close()
	<-done
}

// TestProxy: stream and events go through the proxy, with its password, which is
// in no message when it is wrong.
func TestProxy(t *testing.T) {
	srv := serve(t)
	apply(t, srv.store, true, sampleItems()...)
	until(t, "server is ready", srv.relay.Ready)
	p := &proxy{target: strings.TrimPrefix(srv.url, "http://")}
	through := httptest.NewServer(p)
	defer through.Close()
	defer http.DefaultClient.CloseIdleConnections()

	u, err := url.Parse(through.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("joe", "pa:ss")
	// Only the proxy knows this host.
	cfg := sdk.Config{StreamingURL: "ws://featbit.internal", EnvSecret: srv.secret, Proxy: http.ProxyURL(u), StartWait: 20 * time.Second}
	c := newClient(t, cfg)
	if !c.Bool("bool", newUser(t, "ann"), false) {
		t.Fatalf("Status() = %+v", c.Status())
	}
	if err := c.Flush(t.Context()); err != nil || c.EventStats().Delivered != 1 {
		t.Errorf("Flush = %v, %+v", err, c.EventStats())
	}
	if p.tunnels.Load() != 1 || p.forwards.Load() != 1 || p.refused.Load() != 0 {
		t.Errorf("%d tunnels, %d forwards, %d refused", p.tunnels.Load(), p.forwards.Load(), p.refused.Load())
	}
	u.User = url.UserPassword("joe", "hunter2")
	cfg.StartWait = 0
	c = newClient(t, cfg)
	until(t, "refused by the proxy", func() bool { return c.Status().Err != nil })
	if text := c.Status().Err.Error(); strings.Contains(text, "hunter2") {
		t.Errorf("Err = %q", text)
	}
}

// TestCustomHTTPClient: events go where the caller's client takes them.
func TestCustomHTTPClient(t *testing.T) {
	rec := &recorder{}
	events := httptest.NewServer(rec)
	defer events.Close()
	secret, _ := protocol.NewSecret(protocol.NewEnvID())
	transport := &countingTransport{}
	c := newClient(t, sdk.Config{DataSource: static(sampleItems()...), EnvSecret: secret, EventURL: events.URL, HTTPClient: &http.Client{Transport: transport}})
	waitReady(t, c)
	c.Bool("bool", newUser(t, "ann"), false)
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if transport.n.Load() != 1 || len(rec.take()) != 1 {
		t.Error("the event did not take the caller's client")
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

type countingTransport struct{ n atomic.Int32 }

func (c *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return http.DefaultTransport.RoundTrip(r)
}

// TestCloseWhileNothingAnswers: Close is bounded by its context, not by the
// servers.
func TestCloseWhileNothingAnswers(t *testing.T) {
	release := make(chan struct{})
	hang := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-release
	}))
	defer hang.Close()
	defer close(release)
	secret, _ := protocol.NewSecret(protocol.NewEnvID())
	c := newClient(t, sdk.Config{StreamingURL: hang.URL, EnvSecret: secret, Bootstrap: document(sampleItems()...)})
	c.Bool("bool", newUser(t, "ann"), false)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close = %v", err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
	if st := c.EventStats(); st.Recorded != 1 || st.Failed != 1 || st.Pending != 0 {
		t.Errorf("EventStats() = %+v", st)
	}
}

// TestNothingSecretIsLogged: a client in all kinds of trouble logs and reports
// neither its secret nor its users.
func TestNothingSecretIsLogged(t *testing.T) {
	events := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	defer events.Close()
	stream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrade(w, r, func(c *websocket.Conn) {
			c.WriteMessage(websocket.TextMessage, wire.AppendDataSync(nil, wire.Full, []store.Item{flagJSON("bool", "boolean", "true", "false", "", 1)}))
			c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4003, ""), time.Now().Add(time.Second))
		})
	}))
	defer stream.Close()
	secret, _ := protocol.NewSecret(protocol.NewEnvID())
	var out logged
	c := newClient(t, sdk.Config{
		StreamingURL: stream.URL, EventURL: events.URL, EnvSecret: secret,
		Logger: out.logger(),
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.WaitFor(ctx, sdk.Off); err != nil {
		t.Fatal(err)
	}
	c.Identify(newUser(t, "private-user", sdk.String("mail", "private@example.org")))
	c.Close(t.Context())
	text := out.String() + fmt.Sprintf("%v %+v %#v", c.Status(), c.Status(), c.Status().Err)
	for _, private := range []string{string(secret), "private", "token="} {
		if strings.Contains(text, private) {
			t.Errorf("%q is in %s", private, text)
		}
	}
	if !strings.Contains(text, "4003") {
		t.Errorf("nothing about the refusal: %s", text)
	}
}
