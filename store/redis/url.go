package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// A topology is how servers stand together.
type topology int

const (
	single topology = iota
	sentinel
	cluster
)

var schemes = map[string]struct {
	topology topology
	tls      bool
}{
	"redis":           {single, false},
	"rediss":          {single, true},
	"redis+sentinel":  {sentinel, false},
	"rediss+sentinel": {sentinel, true},
	"redis+cluster":   {cluster, false},
	"rediss+cluster":  {cluster, true},
}

const schemeList = "redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"

// A target is a URL taken apart.
type target struct {
	topology           topology
	tls                bool
	addrs              []string // host:port
	username, password string
	db                 int
	prefix, env        string
	layout, write      string

	master                             string // the name that the Sentinels know
	sentinelUsername, sentinelPassword string

	ca, cert, key string // PEM files

	clientName         string
	protocol, poolSize int
}

// errEscape is all that can be said of a URL that is cut in the wrong places:
// what looks like a path or a parameter may be half of a password.
var errEscape = errors.New("bad URL (special characters in a password must be percent-encoded)")

// plainName is what a parameter's name may look like to be quoted.
var plainName = regexp.MustCompile(`^[a-z][a-z_]*$`)

// parseURL takes a URL apart. Its errors quote nothing that may be part of a
// password, as for example what follows an unescaped slash.
func parseURL(raw string) (target, error) {
	var t target
	name, rest, _ := strings.Cut(raw, "://")
	scheme, ok := schemes[strings.ToLower(name)]
	if !ok {
		return t, errors.New("bad URL: it must begin with " + schemeList)
	}
	t.topology, t.tls = scheme.topology, scheme.tls
	// Package url knows no lists of hosts, so the list is taken out first.
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	if strings.Contains(tail, "@") || strings.Contains(tail, "#") {
		return t, errEscape
	}
	login, hosts := "", authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		login, hosts = authority[:i+1], authority[i+1:]
	}
	u, err := url.Parse("redis://" + login + "host" + tail)
	if err != nil {
		return t, errEscape
	}
	if u.User != nil {
		t.username = u.User.Username()
		t.password, _ = u.User.Password()
	}
	if err := t.hosts(hosts); err != nil {
		return t, err
	}
	if path := strings.Trim(u.Path, "/"); path != "" {
		if t.db, err = strconv.Atoi(path); err != nil || t.db < 0 {
			return t, errors.New("bad URL: what follows the host must be the number of a database")
		}
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return t, errors.New("bad URL: cannot read the parameters")
	}
	if err := t.parameters(q); err != nil {
		return t, err
	}
	return t, t.check()
}

func (t *target) hosts(list string) error {
	port := "6379"
	if t.topology == sentinel {
		port = "26379"
	}
	hosts := strings.Split(list, ",")
	if len(hosts) > 1 && t.topology == single {
		return errors.New("bad URL: several hosts need redis+sentinel:// or redis+cluster://")
	}
	for _, host := range hosts {
		u, err := url.Parse("redis://" + host)
		if err != nil || strings.Contains(u.Hostname(), ":") && !strings.HasPrefix(host, "[") {
			return errors.New("bad URL: bad host or port (special characters in a password must be percent-encoded)")
		}
		if u.Hostname() == "" {
			return errors.New("bad URL: no host")
		}
		p := u.Port()
		if p == "" {
			p = port
		}
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return errors.New("bad URL: a port must be a number from 1 to 65535")
		}
		t.addrs = append(t.addrs, net.JoinHostPort(u.Hostname(), p))
	}
	return nil
}

func (t *target) parameters(q url.Values) error {
	texts := map[string]*string{
		"prefix": &t.prefix, "env": &t.env, "layout": &t.layout, "write": &t.write,
		"master": &t.master, "sentinel_username": &t.sentinelUsername, "sentinel_password": &t.sentinelPassword,
		"ca": &t.ca, "cert": &t.cert, "key": &t.key,
		"client_name": &t.clientName,
	}
	numbers := map[string]*int{"protocol": &t.protocol, "pool_size": &t.poolSize}
	for name, values := range q {
		text, number := texts[name], numbers[name]
		switch {
		case !plainName.MatchString(name):
			return errors.New("bad URL: unknown parameter (special characters in a password must be percent-encoded)")
		case text == nil && number == nil:
			return fmt.Errorf("bad URL: unknown parameter %q", name)
		case len(values) > 1:
			return fmt.Errorf("bad URL: parameter %q is given %d times", name, len(values))
		case text != nil:
			*text = values[0]
		default:
			n, err := strconv.Atoi(values[0])
			if err != nil || n < 1 {
				return fmt.Errorf("bad URL: parameter %q must be a positive number", name)
			}
			*number = n
		}
	}
	return nil
}

// check refuses what is no use together.
func (t *target) check() error {
	switch {
	case t.topology == sentinel && t.master == "":
		return errors.New(`bad URL: Sentinel needs the parameter "master", the name of what it watches`)
	case t.topology != sentinel && t.master != "":
		return errors.New(`bad URL: the parameter "master" is only for redis+sentinel://`)
	case t.topology != sentinel && t.sentinelUsername+t.sentinelPassword != "":
		return errors.New(`bad URL: the parameters "sentinel_username" and "sentinel_password" are only for redis+sentinel://`)
	case t.sentinelUsername != "" && t.sentinelPassword == "":
		return errors.New(`bad URL: "sentinel_username" without "sentinel_password"`)
	case t.topology == cluster && t.db != 0:
		return fmt.Errorf("bad URL: a cluster has no database %d, only database 0", t.db)
	case t.protocol != 0 && t.protocol != 2 && t.protocol != 3:
		return errors.New(`bad URL: parameter "protocol" must be 2 or 3`)
	case !t.tls && t.ca+t.cert+t.key != "":
		return errors.New(`bad URL: the parameters "ca", "cert" and "key" need TLS, as in rediss://`)
	case (t.cert == "") != (t.key == ""):
		return errors.New(`bad URL: the parameters "cert" and "key" go together`)
	}
	return nil
}

// tlsConfig returns the settings for TLS: base with the files of the URL, or nil
// without TLS.
func (t *target) tlsConfig(base *tls.Config) (*tls.Config, error) {
	if !t.tls {
		if base != nil {
			return nil, errors.New("Options.TLS needs a URL with TLS, as in rediss://")
		}
		return nil, nil
	}
	config := &tls.Config{}
	if base != nil {
		config = base.Clone()
	}
	if config.MinVersion == 0 {
		config.MinVersion = tls.VersionTLS12
	}
	if t.ca != "" {
		pem, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fmt.Errorf(`parameter "ca": %w`, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf(`parameter "ca": no certificate in %s`, t.ca)
		}
	}
	if t.cert != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fmt.Errorf(`parameters "cert" and "key": %w`, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
