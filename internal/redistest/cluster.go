package redistest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// A Cluster is three masters with a replica each.
type Cluster struct {
	// Servers are the nodes, of which the first three began as masters.
	Servers []*Server
}

const slots = 16384

// StartCluster starts a cluster that lives until t is done, and waits until it
// works and every master has its replica.
func StartCluster(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := &Cluster{}
	bus := map[*Server]string{}
	for range 6 {
		s, stop, err := startNew(o, func(s *Server) error {
			port, err := freePort()
			if err != nil {
				return err
			}
			bus[s] = strconv.Itoa(port)
			s.args = []string{"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
				"--cluster-node-timeout", "1000", "--cluster-port", bus[s]}
			if o.TLS != nil {
				s.args = append(s.args, "--tls-cluster", "yes")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		c.Servers = append(c.Servers, s)
	}
	first := c.Servers[0]
	for i, s := range c.Servers {
		s.Must(t, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		if i < 3 {
			s.Must(t, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/3), strconv.Itoa((i+1)*slots/3-1))
		}
		if i > 0 {
			s.Must(t, "CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(first.port), bus[first])
		}
	}
	for i, s := range c.Servers[3:] {
		id := c.Servers[i].Must(t, "CLUSTER", "MYID")
		if err := until("a replica that knows its master", func() error {
			_, err := s.Do("CLUSTER", "REPLICATE", id)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	c.Await(t, 3)
	return c
}

// Addrs returns the nodes' host:port.
func (c *Cluster) Addrs() []string { return addrs(c.Servers) }

// URL returns the redis+cluster:// URL, without a password.
func (c *Cluster) URL() string {
	return c.Servers[0].scheme() + "+cluster://" + strings.Join(c.Addrs(), ",")
}

// Await waits until all nodes that run call the cluster well, and until so many
// replicas are in step with their masters.
func (c *Cluster) Await(t testing.TB, replicas int) {
	t.Helper()
	if err := until("a cluster that works", func() error { return c.settled(replicas) }); err != nil {
		t.Fatal(err)
	}
}

func (c *Cluster) settled(replicas int) error {
	online := 0
	for _, s := range c.Servers {
		if !s.running() {
			continue
		}
		info, err := s.Do("CLUSTER", "INFO")
		if err != nil {
			return err
		}
		if state, nodes := field(info, "cluster_state"), field(info, "cluster_known_nodes"); state != "ok" || nodes != "6" {
			return fmt.Errorf("%s calls the cluster %q, of %s nodes", s.Addr(), state, nodes)
		}
		if info, err = s.Do("INFO", "replication"); err != nil {
			return err
		}
		if field(info, "master_link_status") == "up" {
			online++
		}
	}
	if online < replicas {
		return fmt.Errorf("%d of %d replicas are in step", online, replicas)
	}
	return nil
}

// MasterOf returns the master that holds key.
func (c *Cluster) MasterOf(t testing.TB, key string) *Server {
	t.Helper()
	s, err := c.masterOf(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// masterOf asks every node that runs, except one, who holds key, and they have to
// agree.
func (c *Cluster) masterOf(key string, except *Server) (*Server, error) {
	var master *Server
	for _, s := range c.Servers {
		if s == except || !s.running() {
			continue
		}
		slot, err := s.Do("CLUSTER", "KEYSLOT", key)
		if err != nil {
			return nil, err
		}
		nodes, err := s.Do("CLUSTER", "NODES")
		if err != nil {
			return nil, err
		}
		addr := holder(nodes, slot)
		for _, m := range c.Servers {
			if m.Addr() != addr {
				continue
			}
			if master != nil && master != m {
				return nil, errors.New("the nodes do not agree")
			}
			master = m
		}
	}
	if master == nil {
		return nil, fmt.Errorf("nobody holds %q", key)
	}
	return master, nil
}

// holder finds the master of a slot in the reply of CLUSTER NODES.
func holder(nodes, slot string) string {
	want, _ := strconv.Atoi(slot)
	for line := range strings.Lines(nodes) {
		f := strings.Fields(line) // id addr@bus flags master ping pong epoch link slots...
		if len(f) < 9 || !strings.Contains(f[2], "master") {
			continue
		}
		for _, part := range f[8:] {
			from, to, isRange := strings.Cut(part, "-")
			if !isRange {
				to = from
			}
			low, err1 := strconv.Atoi(from)
			high, err2 := strconv.Atoi(to)
			if err1 == nil && err2 == nil && low <= want && want <= high {
				addr, _, _ := strings.Cut(f[1], "@")
				return addr
			}
		}
	}
	return ""
}

// KillMasterOf kills the master that holds key and waits until its replica has
// taken over. It returns the dead one, which can be restarted and then becomes a
// replica.
func (c *Cluster) KillMasterOf(t testing.TB, key string) *Server {
	t.Helper()
	old := c.MasterOf(t, key)
	old.Stop(t)
	c.AwaitFailover(t, key, old)
	return old
}

// FailoverOf has the replica of the master that holds key take over without a
// loss, and waits until it has. It returns the old master, which becomes a
// replica.
func (c *Cluster) FailoverOf(t testing.TB, key string) *Server {
	t.Helper()
	old := c.MasterOf(t, key)
	id := old.Must(t, "CLUSTER", "MYID")
	for _, s := range c.Servers {
		if s.running() && strings.Contains(s.Must(t, "CLUSTER", "NODES"), "myself,slave "+id) {
			s.Must(t, "CLUSTER", "FAILOVER")
			c.AwaitFailover(t, key, old)
			return old
		}
	}
	t.Fatalf("redistest: %s has no replica", old.Addr())
	return nil
}

// AwaitFailover waits until another node than old holds key. Old is not asked.
func (c *Cluster) AwaitFailover(t testing.TB, key string, old *Server) {
	t.Helper()
	if err := until("another master", func() error {
		s, err := c.masterOf(key, old)
		if err != nil {
			return err
		}
		if s == old {
			return errors.New("still the same")
		}
		info, err := s.Do("CLUSTER", "INFO")
		if err == nil && field(info, "cluster_state") != "ok" {
			err = errors.New("the cluster is not well")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
