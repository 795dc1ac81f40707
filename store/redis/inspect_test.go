package redis

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/flagstead/flagstead/internal/redistest"
)

func TestServerInfo(t *testing.T) {
	srv := redistest.StartWith(t, redistest.Options{Args: []string{"--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru", "--min-replicas-to-write", "0"}})
	s := open(t, srv, "x")
	info, err := s.ServerInfo(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Role != "master" || info.Mode != "standalone" || info.MaxMemory != 50<<20 || info.UsedMemory == 0 || !info.Evicts() || info.AOF || info.SaveFailed || info.MinReplicas || !strings.Contains(info.Version, ".") {
		t.Errorf("%+v", info)
	}
	srv.Must(t, "CONFIG", "SET", "maxmemory-policy", "volatile-lru", "min-replicas-to-write", "1", "appendonly", "yes")
	if info, err = s.ServerInfo(bounded(t)); err != nil || info.Evicts() || !info.MinReplicas || !info.AOF {
		t.Errorf("%+v, %v", info, err)
	}
	srv.Must(t, "ACL", "SETUSER", "noinfo", "on", ">pw", "~*", "+@all", "-info")
	if _, err := as2(t, srv, "noinfo").ServerInfo(bounded(t)); err == nil || !strings.Contains(err.Error(), "lacks a permission") {
		t.Errorf("without +info: %v", err)
	}
}

func as2(t *testing.T, srv *redistest.Server, user string) *Store {
	t.Helper()
	return openURL(t, srv.URL(), "prod", &Options{Username: user, Password: "pw"})
}

// TestMissingRights takes each command from users in turn. One that may ask the
// server and one that has to try come to the same, and leave nothing behind.
func TestMissingRights(t *testing.T) {
	srv := redistest.Start(t)
	for _, role := range []struct {
		name  string
		rules string
		all   []string
	}{{"reader", readerRules, readRights}, {"syncer", syncerRules, append(slices.Clone(readRights), writeRights...)}} {
		write := role.name == "syncer"
		for _, ask := range []string{"", "+acl|dryrun"} {
			for _, without := range append([]string{""}, role.all...) {
				rules := append([]string{"ACL", "SETUSER", "u", "reset", "on", ">pw"}, strings.Fields(role.rules+" "+ask)...)
				want := []string(nil)
				if without != "" {
					rules, want = append(rules, "-"+without), []string{without}
				}
				srv.Must(t, rules...)
				got, err := as2(t, srv, "u").MissingRights(bounded(t), write)
				if without == "unlink" && ask == "" {
					// Without the right to remove it, HSET is not tried.
					if err != nil || !slices.Contains(got, "unlink") {
						t.Errorf("%s without unlink: %v, %v", role.name, got, err)
					}
					continue
				}
				if without == "ping" && err == nil && len(got) == 0 && ask == "" {
					t.Errorf("%s without ping: nothing is missing", role.name)
					continue
				}
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%s %q without %q: %v, %v", role.name, ask, without, got, err)
				}
			}
		}
		// Another environment's keys and channel are not the user's.
		srv.Must(t, append([]string{"ACL", "SETUSER", "u", "reset", "on", ">pw"}, strings.Fields(role.rules)...)...)
		other := openURL(t, srv.URL(), "other", &Options{Username: "u", Password: "pw"})
		if got, err := other.MissingRights(bounded(t), write); err != nil || !slices.Contains(got, "hget") || !slices.Contains(got, "subscribe") {
			t.Errorf("%s elsewhere: %v, %v", role.name, got, err)
		}
	}
	if keys := srv.Must(t, "DBSIZE"); keys != "0" {
		t.Errorf("%s keys are left", keys)
	}
	if _, err := openURL(t, srv.URL(), "prod", &Options{Username: "u", Password: "wr0ng"}).MissingRights(bounded(t), true); err == nil || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("with a wrong password: %v", err)
	}
	featbit := openURL(t, srv.URL()+"?layout=featbit", "0f8fad5b-d9cb-469f-a165-70867728950e", nil)
	if _, err := featbit.MissingRights(bounded(t), false); !errors.Is(err, ErrRightsUnknown) {
		t.Errorf("in FeatBit's layout: %v", err)
	}
}

func TestMissingRightsOnSentinelAndCluster(t *testing.T) {
	for name, raw := range map[string]string{
		"sentinel": redistest.StartSentinel(t, 1, redistest.Options{}).URL(),
		"cluster":  redistest.StartCluster(t, redistest.Options{}).URL(),
	} {
		s := openURL(t, raw, "prod", nil)
		if missing, err := s.MissingRights(bounded(t), true); err != nil || len(missing) > 0 {
			t.Errorf("%s: %v, %v", name, missing, err)
		}
		if info, err := s.ServerInfo(bounded(t)); err != nil || info.Role != "master" {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
	}
}

// What MissingRights looks for is what the documentation gives.
func TestRightsAreThoseOfTheRules(t *testing.T) {
	for rules, names := range map[string][]string{readerRules: readRights, syncerRules: append(slices.Clone(readRights), writeRights...)} {
		var given []string
		for _, field := range strings.Fields(rules) {
			if name, ok := strings.CutPrefix(field, "+"); ok {
				given = append(given, name)
			}
		}
		if !slices.Equal(given, names) {
			t.Errorf("the rules give %v, examined are %v", given, names)
		}
	}
}
