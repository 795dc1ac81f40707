package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certificates are PEM files of an authority, and of a server and a client that
// it signed. The server's is for 127.0.0.1.
type Certificates struct {
	CA                string
	Server, ServerKey string
	Client, ClientKey string

	pool *x509.CertPool
	own  tls.Certificate
}

// NewCertificates makes certificates that last as long as t.
func NewCertificates(t testing.TB) *Certificates {
	t.Helper()
	dir := t.TempDir()
	c := &Certificates{
		CA:     filepath.Join(dir, "ca.pem"),
		Server: filepath.Join(dir, "server.pem"), ServerKey: filepath.Join(dir, "server.key"),
		Client: filepath.Join(dir, "client.pem"), ClientKey: filepath.Join(dir, "client.key"),
		pool: x509.NewCertPool(),
	}
	ca, caKey := certificate(t, c.CA, filepath.Join(dir, "ca.key"), &x509.Certificate{
		Subject: pkix.Name{CommonName: "redistest authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, nil, nil)
	c.pool.AddCert(ca)
	// A server is a client, too: replicas and the nodes of a cluster call others.
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	certificate(t, c.Server, c.ServerKey, &x509.Certificate{
		Subject: pkix.Name{CommonName: "redistest server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: both,
	}, ca, caKey)
	certificate(t, c.Client, c.ClientKey, &x509.Certificate{
		Subject: pkix.Name{CommonName: "redistest client"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: both[1:],
	}, ca, caKey)
	var err error
	if c.own, err = tls.LoadX509KeyPair(c.Client, c.ClientKey); err != nil {
		t.Fatal(err)
	}
	return c
}

// Config returns a client's settings, with its certificate or without one.
func (c *Certificates) Config(certificate bool) *tls.Config {
	config := &tls.Config{RootCAs: c.pool, MinVersion: tls.VersionTLS12}
	if certificate {
		config.Certificates = []tls.Certificate{c.own}
	}
	return config
}

func certificate(t testing.TB, file, keyFile string, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	must(err)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	must(err)
	cert, err := x509.ParseCertificate(der)
	must(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	must(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return cert, key
}
