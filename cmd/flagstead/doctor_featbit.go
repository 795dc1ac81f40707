package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/http/httpproxy"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

const (
	clockWarn  = 10 * time.Second
	clockFail  = protocol.TokenWindow
	expirySoon = 21 * 24 * time.Hour
	// relayProxyPrefix begins FeatBit's keys for relay proxies, which have
	// relayProxyLen characters.
	relayProxyPrefix, relayProxyLen = "rp-", 43
)

// A server is FeatBit's evaluation server as the checks see it.
type server struct {
	base   *url.URL // with http or https
	proxy  func(*url.URL) (*url.URL, error)
	tls    *tls.Config
	client *http.Client
	skew   time.Duration // its clock minus ours
}

// featbit examines the way to FeatBit, step by step: what fails makes of the steps
// that need it ones that are skipped.
func (e *examination) featbit(ctx context.Context) {
	e.readSecret()
	s := e.address()
	if s == nil {
		return
	}
	defer s.client.CloseIdleConnections()
	const later = "the server cannot be reached"
	hop, ok := e.hop(ctx, s)
	if !ok || !e.resolve(ctx, hop) || !e.connect(ctx, hop) {
		for _, name := range []string{"featbit http", "featbit clock", "featbit stream", "featbit events"} {
			e.skip(name, later)
		}
		return
	}
	answered := e.http(ctx, s)
	switch {
	case !answered:
		e.skip("featbit stream", "the server does not answer")
		e.skip("featbit events", "the server does not answer")
	case e.secret == "":
		e.skip("featbit stream", "there is no secret to connect with")
		e.skip("featbit events", "there is no secret to connect with")
	default:
		e.stream(ctx, s)
		e.events(ctx, s)
	}
}

// readSecret finds the secret and says of what kind it is.
func (e *examination) readSecret() {
	const check = "secret"
	text, from := e.cmd.FeatBit.Secret, "given"
	if file := e.cmd.FeatBit.SecretFile; file != "" && !(e.con.typed["secret"] && !e.con.typed["secret-file"]) {
		b, err := os.ReadFile(file)
		if err != nil {
			e.add(check, verdictFail, "secret file: "+words(err), "name a file that this user may read")
			return
		}
		text, from = strings.TrimSpace(string(b)), "in "+file
		e.hide(text)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o044 != 0 {
			e.add("secret file", verdictWarn, fmt.Sprintf("%s has the mode %04o: others may read it", file, info.Mode().Perm()), "chmod 0600 "+file)
		}
	}
	secret := sdk.Secret(text)
	env, err := secret.EnvID()
	switch {
	case text == "":
		e.add(check, verdictFail, "there is none", "give --secret-file or set FLAGSTEAD_SECRET to the environment's server secret")
	case strings.HasPrefix(text, relayProxyPrefix) && len(text) == relayProxyLen:
		e.add(check, verdictFail, "it is the key of a relay proxy, not the secret of an environment", "give an environment's server secret; a relay proxy's key belongs in the configuration of flagstead serve")
	case err != nil:
		e.add(check, verdictFail, words(err), "copy the environment's server secret from FeatBit again, without spaces or quotes")
	default:
		e.secret = secret
		e.ok(check, "%s, of the environment %s", from, env)
	}
}

// address checks the URL.
func (e *examination) address() *server {
	const check = "featbit url"
	text := e.cmd.FeatBit.URL
	if err := checkURL(text); err != nil {
		e.add(check, verdictFail, words(err), "write it as wss://featbit.example")
		return nil
	}
	base, err := protocol.BaseURL(text, "http")
	if err != nil {
		e.add(check, verdictFail, words(err), "write it as wss://featbit.example")
		return nil
	}
	s := &server{base: base, proxy: httpproxy.FromEnvironment().ProxyFunc(), tls: &tls.Config{MinVersion: tls.VersionTLS12}}
	if e.cmd.CA != "" {
		pem, err := os.ReadFile(e.cmd.CA)
		s.tls.RootCAs = x509.NewCertPool()
		switch {
		case err != nil:
			e.add(check, verdictFail, "--ca: "+words(err), "name a file that this user may read")
			return nil
		case !s.tls.RootCAs.AppendCertsFromPEM(pem):
			e.add(check, verdictFail, "--ca: no certificate in "+e.cmd.CA, "give a file with PEM certificates")
			return nil
		}
	}
	s.client = s.newClient(s.tls)
	host := base.Hostname()
	ip := net.ParseIP(host)
	if base.Scheme == "http" && host != "localhost" && !(ip != nil && ip.IsLoopback()) {
		e.add(check, verdictWarn, redact(text)+" is not encrypted: whoever is on the way can read the secret", "use wss:// unless the network is yours alone")
	} else {
		e.ok(check, "%s", redact(text))
	}
	return s
}

func (s *server) newClient(config *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:           func(r *http.Request) (*url.URL, error) { return s.proxy(r.URL) },
			TLSClientConfig: config,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// A peer is what a connection is opened to first: the server or a proxy.
type peer struct{ host, port, kind string }

func (e *examination) hop(_ context.Context, s *server) (peer, bool) {
	e.began = time.Now()
	target := peer{s.base.Hostname(), cmp.Or(s.base.Port(), map[string]string{"http": "80", "https": "443"}[s.base.Scheme]), "FeatBit"}
	proxy, err := s.proxy(s.base)
	switch {
	case err != nil:
		e.add("proxy", verdictFail, "the proxy of the environment has no valid address", "correct HTTP_PROXY or HTTPS_PROXY, or add the host to NO_PROXY")
		return target, false
	case proxy == nil:
		e.ok("proxy", "none is used for %s", target.host)
		return target, true
	}
	if password, ok := proxy.User.Password(); ok {
		e.hide(password)
	}
	e.ok("proxy", "connections to %s go through %s (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)", target.host, proxy.Redacted())
	port := cmp.Or(proxy.Port(), map[string]string{"http": "80", "https": "443", "socks5": "1080"}[proxy.Scheme])
	return peer{proxy.Hostname(), port, "the proxy"}, true
}

func (e *examination) resolve(ctx context.Context, to peer) bool {
	ctx, cancel := e.start(ctx)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, to.host)
	if err != nil {
		e.add("dns", verdictFail, fmt.Sprintf("no address for %s: %s", to.host, words(err)), "check the name, and this host's resolver (/etc/resolv.conf)")
		e.skip("tcp", "there is no address")
		return false
	}
	e.ok("dns", "%s is %s (%s)", to.host, strings.Join(addrs[:min(len(addrs), 4)], ", "), inMillis(time.Since(e.began)))
	return true
}

func (e *examination) connect(ctx context.Context, to peer) bool {
	ctx, cancel := e.start(ctx)
	defer cancel()
	addr := net.JoinHostPort(to.host, to.port)
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		remedy := "check that " + to.kind + " runs and listens on that port"
		if errors.Is(err, context.DeadlineExceeded) {
			remedy = "a firewall may drop the packets: allow this host to reach " + addr
		}
		e.add("tcp", verdictFail, addr+": "+words(err), remedy)
		return false
	}
	conn.Close()
	e.ok("tcp", "connected to %s in %s", addr, inMillis(time.Since(e.began)))
	return true
}

// http asks for the server's health, and learns from the answer about TLS and the
// clock, too. It reports whether there was an answer.
func (e *examination) http(ctx context.Context, s *server) bool {
	ctx, cancel := e.start(ctx)
	defer cancel()
	before := time.Now()
	resp, err := s.get(ctx, s.client, "/health/liveness")
	if s.base.Scheme == "https" {
		e.tls(ctx, s, resp, err)
	}
	if err != nil {
		switch certificate(err) {
		case "":
			remedy := "look at FeatBit's log, and at proxies and load balancers between"
			if errors.Is(err, context.DeadlineExceeded) {
				remedy = "something accepts connections and does not answer: check that the port is FeatBit's and that FeatBit is not overloaded"
			}
			e.add("featbit http", verdictFail, httpWords(err), remedy)
		default:
			e.skip("featbit http", "TLS does not work")
		}
		e.skip("featbit clock", "the server does not answer")
		return false
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	took := time.Since(before)
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		e.ok("featbit http", "/health/liveness says %q in %s", strings.TrimSpace(firstLine(body)), inMillis(took))
	case code >= 500, code == http.StatusTooManyRequests:
		e.add("featbit http", verdictFail, "/health/liveness answered "+resp.Status, "look at FeatBit's log; a gateway's 502 or 503 says that FeatBit behind it is down")
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusProxyAuthRequired:
		e.add("featbit http", verdictFail, "/health/liveness answered "+resp.Status, "something before FeatBit wants a login, which FeatBit never does: let /streaming and /api/public pass")
	default:
		e.add("featbit http", verdictWarn, "/health/liveness answered "+resp.Status, "check that the address is the evaluation server's (port 5100), not that of the UI or the API")
	}
	e.clock(s, resp.Header.Get("Date"), before, took)
	return true
}

func (s *server) get(ctx context.Context, client *http.Client, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base.JoinPath(path).String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", protocol.UserAgent)
	return client.Do(req)
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(string(b), "\n")
	return line[:min(len(line), 40)]
}

// httpWords leaves out the URL that net/http puts before its errors.
func httpWords(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return words(err)
}

// certificate returns what is wrong with a certificate, or "" if that is not it.
func certificate(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "it is signed by an authority that this host does not know"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "it is for another name"
	}
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if bad.Reason == x509.Expired {
			return "it has expired or is not valid yet"
		}
		return bad.Error()
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the server does not speak TLS on this port"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return words(err)
	}
	if text := err.Error(); strings.Contains(text, "tls: ") || strings.Contains(text, "server gave HTTP response to HTTPS client") {
		return httpWords(err)
	}
	return ""
}

func (e *examination) tls(ctx context.Context, s *server, resp *http.Response, err error) {
	const check = "tls"
	if err != nil {
		why := certificate(err)
		if why == "" {
			e.skip(check, "the server does not answer")
			return
		}
		found, remedy := "the certificate is refused: "+why, "renew the certificate"
		if cert := s.peek(ctx); cert != nil {
			found += fmt.Sprintf(" (for %s, from %s, valid from %s to %s)", names(cert), cert.Issuer.CommonName, cert.NotBefore.UTC().Format(time.DateOnly), cert.NotAfter.UTC().Format(time.DateOnly))
		}
		switch {
		case strings.Contains(why, "authority"):
			remedy = "add the authority to the host's, or name its file (--ca here, tls.ca in the configuration); a server that does not send its intermediate certificates looks like that, too"
		case strings.Contains(why, "another name"):
			remedy = "use the name that the certificate is for, or get one for this name"
		case strings.Contains(why, "expired"):
			remedy = "renew the certificate, or set this host's clock if that is wrong"
		case strings.Contains(why, "version"):
			found, remedy = "no common version of TLS: "+why, "enable TLS 1.2 or 1.3 at the server"
		case !strings.Contains(why, "certificate"):
			found, remedy = why, "check the port, and wss:// against ws://"
		}
		e.add(check, verdictFail, found, remedy)
		return
	}
	state := resp.TLS
	if state == nil || len(state.PeerCertificates) == 0 {
		e.skip(check, "the answer came without TLS")
		return
	}
	cert := state.PeerCertificates[0]
	left := time.Until(cert.NotAfter)
	found := fmt.Sprintf("%s, certificate for %s from %s, valid for %d more days", tls.VersionName(state.Version), names(cert), cert.Issuer.CommonName, int(left.Hours()/24))
	if left < expirySoon {
		e.add(check, verdictWarn, found, "renew the certificate before "+cert.NotAfter.UTC().Format(time.DateOnly))
		return
	}
	e.ok(check, "%s", found)
}

func names(cert *x509.Certificate) string {
	all := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return cmp.Or(cert.Subject.CommonName, "no name")
	}
	return strings.Join(all[:min(len(all), 3)], ", ")
}

// peek returns the certificate of a server whose certificate was refused. Nothing
// is sent on that connection but a request for the health.
func (s *server) peek(ctx context.Context) (cert *x509.Certificate) {
	config := s.tls.Clone()
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) > 0 {
			cert = state.PeerCertificates[0]
		}
		return errors.New("seen")
	}
	client := s.newClient(config)
	defer client.CloseIdleConnections()
	if resp, err := s.get(ctx, client, "/health/liveness"); err == nil {
		resp.Body.Close()
	}
	return cert
}

// clock compares the clocks. A Date header has whole seconds.
func (e *examination) clock(s *server, date string, before time.Time, took time.Duration) {
	const check = "featbit clock"
	at, err := http.ParseTime(date)
	if err != nil {
		e.add(check, verdictWarn, "FeatBit's answers have no Date header", "compare the clocks by hand: FeatBit refuses tokens that are more than 30 s off")
		return
	}
	skew := at.Add(time.Second / 2).Sub(before.Add(took / 2)).Round(time.Second)
	s.skew = skew
	found := fmt.Sprintf("FeatBit's clock is %v ahead of this host's", skew)
	if skew < 0 {
		found = fmt.Sprintf("FeatBit's clock is %v behind this host's", -skew)
	}
	remedy := "synchronise the clocks (chrony, systemd-timesyncd); flagstead sync corrects its own tokens, other SDKs do not"
	switch off := skew.Abs(); {
	case off > clockFail:
		e.add(check, verdictFail, found+"; FeatBit refuses what is more than 30 s off", remedy)
	case off > clockWarn:
		e.add(check, verdictWarn, found, remedy)
	case off < 2*time.Second:
		e.ok(check, "the same as this host's, to about a second")
	default:
		e.ok(check, "%s", found)
	}
}

// stream does what a syncer does, into memory.
func (e *examination) stream(ctx context.Context, s *server) {
	const check = "featbit stream"
	ctx, cancel := e.start(ctx)
	defer cancel()
	reach := &contact{}
	runCtx, done := context.WithCancelCause(ctx)
	defer done(nil)
	reach.hangUpWith(runCtx)
	st := memory.New()
	defer st.Close()
	good := errors.New("good")
	proxied := func(r *http.Request) (*url.URL, error) { return s.proxy(r.URL) }
	sy, err := syncer.New(syncer.Config{
		URL: e.cmd.FeatBit.URL, Secret: e.secret, Store: st, TLS: s.tls, Proxy: proxied, NetDial: reach.dial, Logger: e.con.log,
		OnStatus: func(now syncer.Status) {
			switch {
			case now.State == syncer.OK:
				done(good)
			case now.Err != nil:
				done(now.Err)
			}
		},
	})
	if err != nil {
		e.add(check, verdictFail, words(err), "this is not expected: say so to whoever maintains flagstead")
		return
	}
	err = sy.Run(runCtx)
	cause := context.Cause(runCtx)
	took := time.Since(e.began)
	switch {
	case errors.Is(cause, good):
		snap, err := st.Load(ctx, "")
		if err != nil {
			e.add(check, verdictFail, words(err), "this is not expected: say so to whoever maintains flagstead")
			return
		}
		flags, segments := count(snap.Items)
		e.served = environments(snap.Items)
		found := fmt.Sprintf("the secret is accepted; %s and %s in %s", plural(flags, "flag"), plural(segments, "segment"), inMillis(took))
		if flags == 0 {
			e.add(check, verdictWarn, found, "if the environment has flags, the secret is another environment's")
			return
		}
		e.ok(check, "%s", found)
	case errors.Is(err, syncer.ErrUnauthorized) || errors.Is(cause, syncer.ErrUnauthorized):
		e.refused(ctx, s)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.add(check, verdictFail, fmt.Sprintf("no flags within %v: %s", e.cmd.Timeout, reach.why()), "look at FeatBit's log: it does not answer what it cannot read from its database or its Redis")
	default:
		remedy := "look at FeatBit's log"
		if cause != nil && strings.Contains(cause.Error(), "not a FeatBit") {
			remedy = "check the address, and that proxies and load balancers let WebSockets pass (the headers Upgrade and Connection); where they cannot, poll"
		}
		e.add(check, verdictFail, words(cmp.Or(cause, err)), remedy)
	}
}

// refused finds out why FeatBit answered 4003.
func (e *examination) refused(ctx context.Context, s *server) {
	const check = "featbit stream"
	switch {
	case s.clientSecret(ctx, e.secret):
		e.add(check, verdictFail, "it is a client secret; FeatBit refuses it for servers (4003)", "use the environment's server secret: both are in the environment's settings")
	case s.skew.Abs() > clockFail:
		e.add(check, verdictFail, "FeatBit refused the connection (4003), and the clocks differ", "synchronise the clocks, then examine again")
	default:
		e.add(check, verdictFail, "FeatBit refused the secret (4003)", "it is wrong, revoked, or its environment was deleted: copy the server secret from FeatBit again")
	}
}

// clientSecret reports whether FeatBit takes the secret from a client-side SDK.
func (s *server) clientSecret(ctx context.Context, secret sdk.Secret) bool {
	u := *s.base
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	address, err := url.Parse(protocol.StreamingURL(&u, protocol.Token(secret, time.Now().Add(s.skew))))
	if err != nil {
		return false
	}
	q := address.Query()
	q.Set("type", "client")
	address.RawQuery = q.Encode()
	d := websocket.Dialer{TLSClientConfig: s.tls.Clone(), Proxy: func(r *http.Request) (*url.URL, error) { return s.proxy(r.URL) }}
	conn, _, err := d.DialContext(ctx, address.String(), nil)
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// A ping, and no user: FeatBit would remember that one.
	if conn.WriteMessage(websocket.TextMessage, protocol.PingFrame) != nil {
		return false
	}
	conn.SetReadLimit(64 << 10)
	_, _, err = conn.ReadMessage()
	return err == nil
}

// events posts an empty list, which records nothing.
func (e *examination) events(ctx context.Context, s *server) {
	const check = "featbit events"
	ctx, cancel := e.start(ctx)
	defer cancel()
	base := s.base
	if e.cmd.Events != "" {
		err := checkURL(e.cmd.Events)
		if err == nil {
			base, err = protocol.BaseURL(e.cmd.Events, "http")
		}
		if err != nil {
			e.add(check, verdictFail, "--events: "+words(err), "write it as https://featbit.example")
			return
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base.JoinPath(protocol.InsightPath).String(), strings.NewReader("[]"))
	if err != nil {
		e.add(check, verdictFail, words(err), "this is not expected: say so to whoever maintains flagstead")
		return
	}
	req.Header.Set("Authorization", string(e.secret))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", protocol.UserAgent)
	resp, err := s.client.Do(req)
	if err != nil {
		e.add(check, verdictFail, httpWords(err), "check the address of the event server; evaluation works without it, insights do not")
		return
	}
	resp.Body.Close()
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		e.ok(check, "%s takes events (%s)", base.Host, inMillis(time.Since(e.began)))
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		e.add(check, verdictFail, "events are refused: "+resp.Status, "check the secret, and what is before FeatBit")
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed:
		e.add(check, verdictFail, "there is nothing that takes events: "+resp.Status, "give FeatBit's evaluation server with --events")
	default:
		e.add(check, verdictFail, "events are not taken: "+resp.Status, "look at FeatBit's log")
	}
}
