package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/flagstead/flagstead/internal/protocol"
	"github.com/flagstead/flagstead/internal/redistest"
)

// examine runs doctor --json and returns its findings by check.
func examine(t *testing.T, args ...string) (code int, findings map[string]finding, all string) {
	t.Helper()
	code, out, errOut := call(t, append([]string{"doctor", "--json"}, args...)...)
	var report struct {
		Checks         []finding `json:"checks"`
		Failed, Warned int
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("status %d, %v: %s%s", code, err, out, errOut)
	}
	findings = map[string]finding{}
	failed := 0
	for _, f := range report.Checks {
		if _, twice := findings[f.Check]; twice || f.Found == "" {
			t.Errorf("finding %+v", f)
		}
		if f.Verdict == verdictFail {
			failed++
			if f.Remedy == "" {
				t.Errorf("no remedy for %+v", f)
			}
		}
		findings[f.Check] = f
	}
	if failed != report.Failed || (failed > 0) != (code == exitFailure) || code > exitFailure {
		t.Errorf("status %d with %d failures, %d reported", code, failed, report.Failed)
	}
	return code, findings, out + errOut
}

// expect fails t unless the check has the verdict and the text.
func expect(t *testing.T, findings map[string]finding, check, verdict, text string) {
	t.Helper()
	if f := findings[check]; f.Verdict != verdict || !strings.Contains(f.Found+" → "+f.Remedy, text) {
		t.Errorf("%s: %q %q → %q; want %s and %q", check, f.Verdict, f.Found, f.Remedy, verdict, text)
	}
}

// front is a server before a dev server that changes its answers.
func front(t *testing.T, to string, change func(*http.Response) error) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(proxyTo(t, to, change))
	t.Cleanup(srv.Close)
	return srv
}

func proxyTo(t *testing.T, to string, change func(*http.Response) error) http.Handler {
	t.Helper()
	u, err := url.Parse(strings.Replace(to, "ws://", "http://", 1))
	if err != nil {
		t.Fatal(err)
	}
	p := httputil.NewSingleHostReverseProxy(u)
	p.ModifyResponse = change
	return p
}

func TestDoctorAllWell(t *testing.T) {
	u, secret := dev(t, flagsFile(t))
	bolt := "bolt://" + filepath.Join(t.TempDir(), "x.db")
	start(t, "sync", bolt, "--url", u, "--secret", secret).says(t, "in sync")
	code, f, all := examine(t, bolt, "--url", u, "--secret", secret)
	if code != 0 || strings.Contains(all, secret) {
		t.Errorf("status %d: %s", code, all)
	}
	for check, text := range map[string]string{
		"secret": "of the environment", "featbit url": "127.0.0.1", "proxy": "none", "dns": "127.0.0.1", "tcp": "connected", "featbit http": "Healthy",
		"featbit clock": "the same", "featbit stream": "15 flags and 3 segments", "featbit events": "takes events", "directory": "mode",
		"store": "was read", "store content": "15 flags", "store latency": "p99", "store heartbeat": "FeatBit confirmed",
	} {
		expect(t, f, check, verdictOK, text)
	}
	expect(t, f, "lock", verdictWarn, fmt.Sprintf("held by process %d", os.Getpid()))
	_, f, _ = examine(t, bolt, "--as", "reader")
	expect(t, f, "lock", verdictOK, "held by process")
	if _, ok := f["secret"]; ok {
		t.Error("FeatBit was examined without a URL")
	}
	code, out, _ := call(t, "doctor", bolt)
	if code != 0 || !strings.Contains(out, "ok    store content    15 flags") || !strings.Contains(out, "→ bolt takes one writer") || !strings.Contains(out, "0 failed") {
		t.Errorf("status %d: %s", code, out)
	}
	if code, _, errOut := call(t, "doctor"); code != exitUsage || !strings.Contains(errOut, "nothing to examine") {
		t.Errorf("status %d: %s", code, errOut)
	}
}

func TestDoctorSecret(t *testing.T) {
	u, good := dev(t, flagsFile(t))
	other, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(open, []byte(good+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args          []string
		check, detail string
		verdict       string
	}{
		"wrong":       {[]string{"--secret", string(other)}, "featbit stream", "refused the secret (4003)", verdictFail},
		"none":        {nil, "secret", "there is none", verdictFail},
		"cut off":     {[]string{"--secret", good[:20]}, "secret", "20 characters", verdictFail},
		"relay proxy": {[]string{"--secret", "rp-MDcwNTEzNDExNzQ3MQtXO7IPcN6U-z5fAktj18CQ"}, "secret", "key of a relay proxy", verdictFail},
		"no file":     {[]string{"--secret-file", open + "x"}, "secret", "no such file", verdictFail},
		"open file":   {[]string{"--secret-file", open}, "secret file", "others may read it", verdictWarn},
	} {
		_, f, all := examine(t, append(tc.args, "--url", u)...)
		expect(t, f, tc.check, tc.verdict, tc.detail)
		expect(t, f, "featbit http", verdictOK, "") // the rest is examined all the same
		for _, hidden := range []string{good[:20], string(other), "MDcwNTEz"} {
			if strings.Contains(all, hidden) {
				t.Errorf("%s: printed %q: %s", name, hidden, all)
			}
		}
	}
	// A server that knows the secret as a client's answers as FeatBit does.
	up := websocket.Upgrader{}
	client := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != protocol.StreamingPath {
			return
		}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		if r.URL.Query().Get("type") != "client" {
			c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(protocol.CloseInvalid, ""), time.Now().Add(time.Second))
			c.ReadMessage()
			return
		}
		if _, _, err := c.ReadMessage(); err == nil {
			c.WriteMessage(websocket.TextMessage, protocol.PongFrame)
			c.ReadMessage()
		}
	}))
	defer client.Close()
	_, f, _ := examine(t, "--url", client.URL, "--secret", good)
	expect(t, f, "featbit stream", verdictFail, "it is a client secret")
}

func TestDoctorUnreachable(t *testing.T) {
	u, secret := dev(t, flagsFile(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	mute, _ := muteServer(t)
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	defer down.Close()
	quiet := front(t, u, nil) // lets everything pass but the stream's answers
	quiet.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != protocol.StreamingPath {
			return
		}
		if c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil); err == nil {
			defer c.Close()
			for err == nil {
				_, _, err = c.ReadMessage()
			}
		}
	})
	quiet.Start()
	for name, tc := range map[string]struct {
		url, check, verdict, text string
	}{
		"closed port":   {"ws://" + closed, "tcp", verdictFail, "connection refused"},
		"no such name":  {"ws://no.such.host.invalid", "dns", verdictFail, "no address for no.such.host.invalid"},
		"black hole":    {"ws://" + mute, "featbit http", verdictFail, "no answer in time"},
		"other server":  {web.URL, "featbit stream", verdictFail, "not a FeatBit"},
		"not its paths": {web.URL, "featbit events", verdictFail, "nothing that takes events"},
		"gateway":       {down.URL, "featbit http", verdictFail, "502"},
		"no answer":     {quiet.URL, "featbit stream", verdictFail, "it answered, but sent no flags"},
		"bad URL":       {"ws://u:hunter2@h:port", "featbit url", verdictFail, "port is not a number"},
		"password":      {"ws://u:hunter2@" + closed, "featbit url", verdictFail, "must not have a user or a password"},
	} {
		began := time.Now()
		_, f, all := examine(t, "--url", tc.url, "--secret", secret, "--timeout", "700ms")
		expect(t, f, tc.check, tc.verdict, tc.text)
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("%s took %v", name, took)
		}
		if strings.Contains(all, "hunter2") || strings.Contains(all, secret) {
			t.Errorf("%s: printed a secret: %s", name, all)
		}
	}
	if code, f, _ := examine(t, "--url", "ws://"+closed, "--secret", secret); code != exitFailure || f["featbit stream"].Verdict != verdictSkip || f["featbit clock"].Verdict != verdictSkip {
		t.Errorf("status %d: %v", code, f)
	}
}

func TestDoctorProxy(t *testing.T) {
	u, secret := dev(t, flagsFile(t))
	t.Setenv("HTTP_PROXY", "http://me:hunter2@127.0.0.1:1")
	t.Setenv("NO_PROXY", "")
	_, f, all := examine(t, "--url", strings.Replace(u, "127.0.0.1", "featbit.invalid", 1), "--secret", secret)
	expect(t, f, "proxy", verdictOK, "go through http://me:xxxxx@127.0.0.1:1")
	expect(t, f, "tcp", verdictFail, "127.0.0.1:1")
	if strings.Contains(all, "hunter2") {
		t.Errorf("printed the proxy's password: %s", all)
	}
	t.Setenv("NO_PROXY", "featbit.invalid")
	_, f, _ = examine(t, "--url", strings.Replace(u, "127.0.0.1", "featbit.invalid", 1), "--secret", secret)
	expect(t, f, "proxy", verdictOK, "none is used for featbit.invalid")
}

func TestDoctorClock(t *testing.T) {
	u, secret := dev(t, flagsFile(t))
	for _, tc := range []struct {
		off     time.Duration
		verdict string
		text    string
	}{{20 * time.Second, verdictWarn, "ahead of this host's"}, {-5 * time.Minute, verdictFail, "behind this host's"}, {0, verdictOK, "the same"}} {
		srv := front(t, u, func(r *http.Response) error {
			r.Header.Set("Date", time.Now().Add(tc.off).UTC().Format(http.TimeFormat))
			return nil
		})
		srv.Start()
		_, f, _ := examine(t, "--url", srv.URL, "--secret", secret)
		expect(t, f, "featbit clock", tc.verdict, tc.text)
	}
	none := front(t, u, nil)
	none.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header()["Date"] = nil })
	none.Start()
	_, f, _ := examine(t, "--url", none.URL, "--secret", secret)
	expect(t, f, "featbit clock", verdictWarn, "no Date header")
}

// pki makes an authority's file, and certificates for 127.0.0.1 that end at a time.
type pki struct {
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{file: filepath.Join(t.TempDir(), "ca.pem")}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-9000 * time.Hour), NotAfter: time.Now().Add(9000 * time.Hour)}
	var der []byte
	p.key, der = sign(t, template, template, nil)
	var err error
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func sign(t *testing.T, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parentKey == nil {
		parentKey = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

func (p *pki) server(t *testing.T, end time.Time, host string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: end.Add(-8000 * time.Hour), NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	key, der := sign(t, template, p.cert, p.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestDoctorTLS(t *testing.T) {
	u, secret := dev(t, flagsFile(t))
	authority := newPKI(t)
	year := time.Now().Add(8000 * time.Hour)
	for name, tc := range map[string]struct {
		cert    tls.Certificate
		max     uint16
		ca      string
		verdict string
		text    string
	}{
		"good":            {authority.server(t, year, "127.0.0.1"), 0, authority.file, verdictOK, "TLS 1.3, certificate for 127.0.0.1 from test authority"},
		"expires soon":    {authority.server(t, time.Now().Add(50*time.Hour), "127.0.0.1"), 0, authority.file, verdictWarn, "valid for 2 more days"},
		"expired":         {authority.server(t, time.Now().Add(-time.Hour), "127.0.0.1"), 0, authority.file, verdictFail, "has expired"},
		"another name":    {authority.server(t, year, "featbit.example"), 0, authority.file, verdictFail, "another name (for featbit.example"},
		"unknown":         {authority.server(t, year, "127.0.0.1"), 0, "", verdictFail, "authority that this host does not know"},
		"another one":     {authority.server(t, year, "127.0.0.1"), 0, newPKI(t).file, verdictFail, "authority"},
		"an old protocol": {authority.server(t, year, "127.0.0.1"), tls.VersionTLS11, authority.file, verdictFail, "no common version"},
	} {
		srv := front(t, u, nil)
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{tc.cert}, MinVersion: tls.VersionTLS10, MaxVersion: tc.max}
		srv.StartTLS()
		args := []string{"--url", strings.Replace(srv.URL, "https", "wss", 1), "--secret", secret}
		if tc.ca != "" {
			args = append(args, "--ca", tc.ca)
		}
		_, f, _ := examine(t, args...)
		t.Log(name)
		expect(t, f, "tls", tc.verdict, tc.text)
		if tc.verdict == verdictFail {
			expect(t, f, "featbit stream", verdictSkip, "")
		} else {
			expect(t, f, "featbit stream", verdictOK, "15 flags")
		}
	}
	_, f, _ := examine(t, "--url", strings.Replace(u, "ws:", "wss:", 1), "--secret", secret)
	expect(t, f, "tls", verdictFail, "HTTP response to HTTPS client")
}

func TestDoctorRedis(t *testing.T) {
	u, secret := dev(t, flagsFile(t))
	srv := redistest.StartWith(t, redistest.Options{Args: []string{"--maxmemory", "64mb"}})
	place := srv.URL() + "?env=prod"
	_, f, _ := examine(t, place, "--as", "reader")
	expect(t, f, "store content", verdictFail, "nothing was ever written")
	expect(t, f, "store heartbeat", verdictWarn, "there is none")
	s := start(t, "sync", place, "--url", u, "--secret", secret)
	s.says(t, "in sync")

	code, f, all := examine(t, place, "--url", u, "--secret", secret)
	if code != 0 {
		t.Errorf("status %d: %s", code, all)
	}
	expect(t, f, "redis rights", verdictOK, "all that a syncer needs")
	expect(t, f, "redis memory", verdictOK, "noeviction")
	expect(t, f, "redis role", verdictOK, "master")
	expect(t, f, "store heartbeat", verdictOK, "FeatBit confirmed")

	srv.Must(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
	_, f, _ = examine(t, place)
	expect(t, f, "redis memory", verdictFail, "CONFIG SET maxmemory-policy noeviction")
	srv.Must(t, "CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "900kb")
	_, f, _ = examine(t, place)
	expect(t, f, "redis memory", verdictWarn, "give it more memory")
	srv.Must(t, "CONFIG", "SET", "maxmemory", "0")

	// Users with too few rights: of each the missing commands are named.
	reader := strings.Fields("resetchannels &{flagstead:prod}:c %R~{flagstead:prod}:* -@all +evalsha_ro +eval_ro +hlen +hget +hmget +hkeys +hgetall +zcard +zcount +zrangebyscore +time +subscribe +ping")
	srv.Must(t, append([]string{"ACL", "SETUSER", "reader", "on", ">hunter2"}, reader...)...)
	as := strings.Replace(place, "redis://", "redis://reader:hunter2@", 1)
	_, f, all = examine(t, as, "--as", "reader")
	expect(t, f, "redis rights", verdictOK, "all that a reader needs")
	expect(t, f, "redis server", verdictWarn, "may not ask (INFO)")
	_, f, more := examine(t, as)
	expect(t, f, "redis rights", verdictFail, "+publish")
	srv.Must(t, "ACL", "SETUSER", "reader", "-zcount", "-subscribe")
	_, f, _ = examine(t, as, "--as", "reader")
	expect(t, f, "redis rights", verdictFail, "ACL SETUSER … +zcount +subscribe")
	_, f, wrong := examine(t, strings.Replace(as, "hunter2", "hunter3", 1))
	expect(t, f, "store", verdictFail, "refuses the login")
	if text := all + more + wrong; strings.Contains(text, "hunter") {
		t.Errorf("printed a password: %s", text)
	}

	// Flags of another environment.
	other, err := protocol.NewSecret(protocol.NewEnvID())
	if err != nil {
		t.Fatal(err)
	}
	_, f, _ = examine(t, place, "--url", "ws://127.0.0.1:1", "--secret", string(other))
	expect(t, f, "store content", verdictFail, "one place holds one environment")

	expect(t, f, "store control", verdictOK, "not frozen")
	if code, _, errOut := call(t, "freeze", place, "--reason", "a launch"); code != 0 {
		t.Fatal(errOut)
	}
	_, f, _ = examine(t, place)
	expect(t, f, "store control", verdictWarn, "a launch")
	if code, _, errOut := call(t, "unfreeze", place); code != 0 {
		t.Fatal(errOut)
	}

	s.stop()
	_, f, _ = examine(t, place, "--as", "reader")
	expect(t, f, "store heartbeat", verdictWarn, "its source is off")

	replica := redistest.Start(t)
	host, port, _ := net.SplitHostPort(srv.Addr())
	replica.Must(t, "REPLICAOF", host, port)
	until(t, "the replica is in sync", func() bool { return strings.Contains(replica.Must(t, "INFO", "replication"), "master_link_status:up") })
	_, f, _ = examine(t, replica.URL()+"?env=prod")
	expect(t, f, "redis role", verdictFail, "takes no changes")
	_, f, _ = examine(t, replica.URL()+"?env=prod", "--as", "reader")
	expect(t, f, "redis role", verdictWarn, "replica")
	_, f, _ = examine(t, place)
	expect(t, f, "redis replication", verdictWarn, "min-replicas-to-write 1")
	srv.Must(t, "CONFIG", "SET", "min-replicas-to-write", "1")
	_, f, _ = examine(t, place)
	expect(t, f, "redis replication", verdictOK, "limits")

	srv.Freeze(t)
	began := time.Now()
	_, f, _ = examine(t, place, "--timeout", "500ms")
	srv.Thaw(t)
	expect(t, f, "store", verdictFail, "does not answer")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestDoctorFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "flags.json")
	_, f, _ := examine(t, "file://"+path)
	expect(t, f, "store content", verdictWarn, "a syncer fills it")
	expect(t, f, "disk", verdictOK, "MB free")
	if err := os.WriteFile(path, []byte("{\n nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, f, _ = examine(t, "file://"+path)
	expect(t, f, "store", verdictFail, "line 2, column")
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	_, f, _ = examine(t, "file://"+path)
	expect(t, f, "directory", verdictWarn, "everybody may replace the flags")
	_, f, _ = examine(t, "bolt:///proc/none/flags.db", "--as", "reader")
	expect(t, f, "directory", verdictFail, "no such file")
	_, f, _ = examine(t, "bolt:///proc/flags.db")
	expect(t, f, "directory", verdictFail, "may not write there")
	_, f, _ = examine(t, "mysql://u:hunter2@h/db")
	expect(t, f, "store", verdictFail, "unknown kind of store")
}
