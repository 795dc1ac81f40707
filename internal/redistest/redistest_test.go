package redistest

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLifeOfAServer(t *testing.T) {
	s := Start(t)
	must := func(want string, command ...string) {
		t.Helper()
		if got := s.Must(t, command...); got != want {
			t.Fatalf("%q: %q, want %q", command, got, want)
		}
	}
	must("OK", "SET", "a", "1")
	must("1", "GET", "a")
	s.FlushAll(t)
	must("", "GET", "a")

	must("OK", "SET", "a", "1")
	s.Stop(t)
	s.Stop(t)
	if _, err := s.Do("PING"); err == nil {
		t.Fatal("a stopped server answers")
	}
	addr := s.Addr()
	s.Restart(t)
	must("", "GET", "a")
	s.Restart(t)
	must("PONG", "PING")
	if s.Addr() != addr || s.URL() != "redis://"+addr {
		t.Fatalf("address %s, URL %s; before %s", s.Addr(), s.URL(), addr)
	}
}

func TestStopRemovesEverything(t *testing.T) {
	s, stop, err := StartMain()
	if err != nil {
		t.Fatal(err)
	}
	pid := s.cmd.Process
	stop()
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("directory: %v", err)
	}
	if err := pid.Signal(os.Interrupt); err == nil {
		t.Error("the process still runs")
	}
}

func TestWithoutRedisServer(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, _, err := StartMain(); err == nil || !strings.Contains(err.Error(), "need-redis.sh") {
		t.Fatalf("got %v, want how to install", err)
	}
}

func TestPortTaken(t *testing.T) {
	s := Start(t)
	other := &Server{exe: s.exe, dir: t.TempDir(), port: s.port}
	if err := other.start(); err == nil {
		t.Fatal("started on a port that was taken")
	}
}

func TestPasswordAndTLS(t *testing.T) {
	c := NewCertificates(t)
	s := StartWith(t, Options{Password: "s3cret", TLS: c, ClientCertificates: true, Args: []string{"--maxmemory", "50mb"}})
	if got := s.Must(t, "CONFIG", "GET", "maxmemory"); got != "maxmemory\n52428800" {
		t.Errorf("CONFIG GET: %q", got)
	}
	if !strings.HasPrefix(s.URL(), "rediss://") {
		t.Errorf("URL %s", s.URL())
	}
	s.password = ""
	if _, err := s.Do("PING"); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without a password: %v", err)
	}
}

func TestSentinel(t *testing.T) {
	for _, o := range []Options{{}, {Password: "s3cret", SentinelPassword: "an0ther"}} {
		r := StartSentinel(t, 1, o)
		first := r.Master(t)
		if first != r.Servers[0] || r.Replica(t) != r.Servers[1] {
			t.Fatal("the first server is not the master")
		}
		first.Must(t, "SET", "a", "1")
		if old := r.KillMaster(t); old != first {
			t.Fatalf("killed %s", old.Addr())
		}
		next := r.Master(t)
		if next == first {
			t.Fatal("no failover")
		}
		next.Must(t, "SET", "b", "1")
		if !strings.HasPrefix(r.URL(), "redis+sentinel://"+r.Addrs()[0]+",") {
			t.Errorf("URL %s", r.URL())
		}
	}
}

func TestCluster(t *testing.T) {
	for _, o := range []Options{{}, {TLS: NewCertificates(t)}} {
		c := StartCluster(t, o)
		first := c.MasterOf(t, "a")
		first.Must(t, "SET", "a", "1")
		if old := c.FailoverOf(t, "a"); old != first {
			t.Fatalf("%s failed over, want %s", old.Addr(), first.Addr())
		}
		c.Await(t, 3)
		if old := c.KillMasterOf(t, "a"); old == first {
			t.Fatal("killed the old master")
		}
		if next := c.MasterOf(t, "a"); next != first {
			t.Fatalf("%s is the master, want %s", next.Addr(), first.Addr())
		}
		if got := first.Must(t, "GET", "a"); got != "1" {
			t.Errorf("got %q", got)
		}
	}
}
