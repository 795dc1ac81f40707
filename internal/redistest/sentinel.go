package redistest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// MasterName is what Sentinels call the master.
const MasterName = "mymaster"

// downAfter is after how many milliseconds without a sign a master is down.
const downAfter = 700

// Sentinels are a master, its replicas, and three Sentinels that watch them.
type Sentinels struct {
	// Servers hold the data. The first one is the master until a failover.
	Servers []*Server

	sentinels []*Server
}

// StartSentinel starts a master with replicas and three Sentinels, all of which
// live until t is done, and waits until they know each other.
func StartSentinel(t testing.TB, replicas int, o Options) *Sentinels {
	t.Helper()
	r := &Sentinels{}
	for i := range replicas + 1 {
		s, stop, err := startNew(o, func(s *Server) error {
			if i > 0 {
				host, port, _ := net.SplitHostPort(r.Servers[0].Addr())
				s.args = []string{"--replicaof", host + " " + port}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		r.Servers = append(r.Servers, s)
	}
	for range 3 {
		s, stop, err := startNew(o, r.sentinelConfig)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		r.sentinels = append(r.sentinels, s)
	}
	if err := until("Sentinels that know each other", func() error { return r.settled(replicas) }); err != nil {
		t.Fatal(err)
	}
	return r
}

// sentinelConfig makes s a Sentinel. They keep their state in their configuration.
func (r *Sentinels) sentinelConfig(s *Server) error {
	master := r.Servers[0]
	var conf strings.Builder
	fmt.Fprintf(&conf, "bind 127.0.0.1\ndir %s\n", s.dir)
	fmt.Fprintf(&conf, "sentinel monitor %s 127.0.0.1 %d 2\n", MasterName, master.port)
	fmt.Fprintf(&conf, "sentinel down-after-milliseconds %s %d\n", MasterName, downAfter)
	fmt.Fprintf(&conf, "sentinel failover-timeout %s 5000\n", MasterName)
	if s.opts.Password != "" {
		fmt.Fprintf(&conf, "sentinel auth-pass %s %s\n", MasterName, s.opts.Password)
	}
	s.password = s.opts.SentinelPassword
	if s.password != "" {
		fmt.Fprintf(&conf, "requirepass %s\nsentinel sentinel-pass %s\n", s.password, s.password)
	}
	name := filepath.Join(s.dir, "sentinel.conf")
	s.bare, s.args = true, append([]string{name, "--sentinel"}, s.ports()...)
	return os.WriteFile(name, []byte(conf.String()), 0o600)
}

// settled says what is missing until a failover would work.
func (r *Sentinels) settled(replicas int) error {
	master, err := r.master()
	if err != nil {
		return err
	}
	info, err := master.Do("INFO", "replication")
	if err != nil {
		return err
	}
	if n := strings.Count(info, "state=online"); n < replicas {
		return fmt.Errorf("%d of %d replicas are online", n, replicas)
	}
	for _, s := range r.sentinels {
		if !s.running() {
			continue
		}
		info, err := s.Do("INFO", "sentinel")
		if err != nil {
			return err
		}
		if want := fmt.Sprintf("slaves=%d,sentinels=3", len(r.Servers)-1); !strings.Contains(info, want) || !strings.Contains(info, "status=ok") {
			return fmt.Errorf("a Sentinel knows %s", field(info, "master0"))
		}
	}
	return nil
}

// Addrs returns the Sentinels' host:port.
func (r *Sentinels) Addrs() []string { return addrs(r.sentinels) }

// URL returns the redis+sentinel:// URL, without passwords.
func (r *Sentinels) URL() string {
	return r.sentinels[0].scheme() + "+sentinel://" + strings.Join(r.Addrs(), ",") + "/0?master=" + MasterName
}

// Master returns who is the master according to the Sentinels.
func (r *Sentinels) Master(t testing.TB) *Server {
	t.Helper()
	s, err := r.master()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r *Sentinels) master() (*Server, error) {
	for _, s := range r.sentinels {
		if !s.running() {
			continue
		}
		reply, err := s.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName)
		if err != nil {
			return nil, err
		}
		host, port, _ := strings.Cut(reply, "\n")
		for _, d := range r.Servers {
			if d.Addr() == net.JoinHostPort(host, port) {
				return d, nil
			}
		}
		return nil, fmt.Errorf("the master is %q, which is none of ours", reply)
	}
	return nil, errors.New("no Sentinel runs")
}

// Replica returns a server that is not the master.
func (r *Sentinels) Replica(t testing.TB) *Server {
	t.Helper()
	master := r.Master(t)
	for _, s := range r.Servers {
		if s != master && s.running() {
			return s
		}
	}
	t.Fatal("redistest: no replica runs")
	return nil
}

// Failover has the Sentinels replace the master, which becomes a replica, and
// waits until another one accepts writes. It returns the old master.
func (r *Sentinels) Failover(t testing.TB) *Server {
	t.Helper()
	old := r.Master(t)
	if err := until("a failover to begin", func() error {
		_, err := r.sentinels[0].Do("SENTINEL", "FAILOVER", MasterName)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r.AwaitFailover(t, old)
	return old
}

// KillMaster kills the master and waits until another one accepts writes. It
// returns the dead one, which can be restarted and then becomes a replica.
func (r *Sentinels) KillMaster(t testing.TB) *Server {
	t.Helper()
	old := r.Master(t)
	old.Stop(t)
	r.AwaitFailover(t, old)
	return old
}

// AwaitFailover waits until another server than old is the master.
func (r *Sentinels) AwaitFailover(t testing.TB, old *Server) {
	t.Helper()
	if err := until("another master", func() error {
		s, err := r.master()
		if err != nil {
			return err
		}
		if s == old {
			return errors.New("still the same")
		}
		return writes(s)
	}); err != nil {
		t.Fatal(err)
	}
}

// AwaitAgreement waits until all Sentinels that run name the same master. For a
// moment after a failover one of them may send clients to the old one.
func (r *Sentinels) AwaitAgreement(t testing.TB) {
	t.Helper()
	if err := until("Sentinels that agree", func() error {
		named := ""
		for _, s := range r.sentinels {
			if !s.running() {
				continue
			}
			reply, err := s.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName)
			if err != nil {
				return err
			}
			if named != "" && named != reply {
				return fmt.Errorf("one says %q, another %q", named, reply)
			}
			named = reply
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// writes reports why a server is no master.
func writes(s *Server) error {
	info, err := s.Do("INFO", "replication")
	if err == nil && field(info, "role") != "master" {
		err = errors.New("not a master yet")
	}
	return err
}

func addrs(servers []*Server) []string {
	var all []string
	for _, s := range servers {
		all = append(all, s.Addr())
	}
	return all
}

// Sentinels returns the Sentinels themselves.
func (r *Sentinels) Sentinels() []*Server { return slices.Clone(r.sentinels) }
