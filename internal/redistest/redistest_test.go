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
	must := func(command, want string) {
		t.Helper()
		if err := s.ask(command, want); err != nil {
			t.Fatal(err)
		}
	}
	must("SET a 1", "+OK")
	must("GET a", "1")
	s.FlushAll(t)
	must("GET a", "$-1")

	must("SET a 1", "+OK")
	s.Stop(t)
	s.Stop(t)
	if err := s.ask("PING", "+PONG"); err == nil {
		t.Fatal("a stopped server answers")
	}
	addr := s.Addr()
	s.Restart(t)
	must("GET a", "$-1")
	s.Restart(t)
	must("PING", "+PONG")
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
