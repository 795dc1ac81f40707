package redis

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"
)

func TestParseURL(t *testing.T) {
	for raw, want := range map[string]target{
		"redis://h":               {addrs: []string{"h:6379"}},
		"redis://u:p@h:1/3":       {addrs: []string{"h:1"}, username: "u", password: "p", db: 3},
		"REDISS://:p%40%2F@[::1]": {addrs: []string{"[::1]:6379"}, password: "p@/", tls: true},
		"redis://h?env=e&prefix=p&client_name=c&protocol=2&pool_size=7": {
			addrs: []string{"h:6379"}, env: "e", prefix: "p", clientName: "c", protocol: 2, poolSize: 7},
		"redis+sentinel://u:p@h1:1,h2,[::1]:3/4?master=m&sentinel_username=su&sentinel_password=sp": {
			topology: sentinel, addrs: []string{"h1:1", "h2:26379", "[::1]:3"}, username: "u", password: "p", db: 4,
			master: "m", sentinelUsername: "su", sentinelPassword: "sp"},
		"rediss+sentinel://h?master=m&ca=/a&cert=/b&key=/c": {
			topology: sentinel, tls: true, addrs: []string{"h:26379"}, master: "m", ca: "/a", cert: "/b", key: "/c"},
		"redis+cluster://u:p@h1:1,h2/": {topology: cluster, addrs: []string{"h1:1", "h2:6379"}, username: "u", password: "p"},
		"rediss+cluster://h/0":         {topology: cluster, tls: true, addrs: []string{"h:6379"}},
	} {
		got, err := parseURL(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if !slices.Equal(got.addrs, want.addrs) {
			t.Errorf("%s: addresses %q, want %q", raw, got.addrs, want.addrs)
		}
		got.addrs, want.addrs = nil, nil
		if same := got.topology == want.topology && got.tls == want.tls && got.username == want.username &&
			got.password == want.password && got.db == want.db && got.prefix == want.prefix && got.env == want.env &&
			got.master == want.master && got.sentinelUsername == want.sentinelUsername &&
			got.sentinelPassword == want.sentinelPassword && got.ca == want.ca && got.cert == want.cert && got.key == want.key &&
			got.clientName == want.clientName && got.protocol == want.protocol && got.poolSize == want.poolSize; !same {
			t.Errorf("%s: %+v, want %+v", raw, got, want)
		}
	}
}

func TestBadURLs(t *testing.T) {
	for raw, want := range map[string]string{
		"redis+sentinel://h":                                   `"master"`,
		"redis://h?master=m":                                   `"master" is only for`,
		"redis+cluster://h?sentinel_password=s3cret":           `"sentinel_password"`,
		"redis+sentinel://h?master=m&sentinel_username=u":      `"sentinel_username" without`,
		"redis+cluster://:s3cret@h/1":                          "no database 1",
		"redis://:s3cret@h1,h2":                                "several hosts",
		"redis+cluster://:s3cret@h1,,h2":                       "no host",
		"redis+cluster://:s3cret@h1:1:2":                       "host or port",
		"redis+cluster://:s3cret@h1:0":                         "port",
		"redis+cluster://:s3cret@h1:65536":                     "port",
		"redis://:s3cret@h?tiemout=1":                          `unknown parameter "tiemout"`,
		"redis://:s3cret@h?env=a&env=b":                        `"env" is given 2 times`,
		"redis://:s3cret@h?protocol=4":                         `"protocol" must be 2 or 3`,
		"redis://:s3cret@h?pool_size=s3cret":                   `"pool_size" must be a positive number`,
		"redis://:s3cret@h?ca=/x":                              "need TLS",
		"rediss://:s3cret@h?cert=/x":                           "go together",
		"rediss://:s3cret@h?ca=/does/not/exist":                "/does/not/exist",
		"rediss://:s3cret@h?cert=/does/not/exist&key=/neither": "/does/not/exist",
		"redis+tls://:s3cret@h":                                "rediss+cluster://",
		"redis://user:12?ab&s3cret@h":                          "percent-encoded",
	} {
		s, err := Open(raw, nil)
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", raw)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("rediss://h?ca="+empty, nil); err == nil || !strings.Contains(err.Error(), "no certificate in "+empty) {
		t.Errorf("a CA file without a certificate: %v", err)
	}
	if _, err := Open("redis://h", &Options{TLS: &tls.Config{}}); err == nil || !strings.Contains(err.Error(), "rediss://") {
		t.Errorf("TLS settings without TLS: %v", err)
	}
}

func TestOptionsWinOverLogin(t *testing.T) {
	s, err := Open("redis://u:p@h", &Options{Username: "other", Password: "word"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if o := s.client.(*goredis.Client).Options(); o.Username != "other" || o.Password != "word" {
		t.Errorf("user %q, password %q", o.Username, o.Password)
	}
}

func TestTLSOptionsAreCloned(t *testing.T) {
	own := &tls.Config{ServerName: "other"}
	s, err := Open("rediss://h", &Options{TLS: own})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	config := s.client.(*goredis.Client).Options().TLSConfig
	if own.MinVersion != 0 || config == own || config.ServerName != "other" || config.MinVersion != tls.VersionTLS12 {
		t.Errorf("%p became %p with %q, %x", own, config, config.ServerName, config.MinVersion)
	}
}
