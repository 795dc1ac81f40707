// Package redistest starts real Redis servers for tests.
package redistest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const howToInstall = `redis-server is not on PATH. Run scripts/need-redis.sh, or install it:
  Debian, Ubuntu:  sudo apt-get install redis-server
  Fedora, RHEL:    sudo dnf install redis
  Alpine:          sudo apk add redis
  macOS:           brew install redis`

// patience is how long a server may take to start or to answer.
const patience = 20 * time.Second

// A Server is a redis-server process on a loopback port. It keeps nothing on
// disk: stopping it loses its data.
type Server struct {
	exe  string
	dir  string
	port int

	mu  sync.Mutex // guards what follows
	cmd *exec.Cmd  // nil while stopped
}

// Start starts a server that lives until t is done. It fails t if there is no
// redis-server: a test that needs one and is skipped proves nothing.
func Start(t testing.TB) *Server {
	t.Helper()
	s, stop, err := StartMain()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return s
}

// StartMain starts a server for a whole test binary, from TestMain. The caller
// calls the returned function before the process exits.
func StartMain() (*Server, func(), error) {
	exe, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, nil, errors.New(howToInstall)
	}
	dir, err := os.MkdirTemp("", "redistest")
	if err != nil {
		return nil, nil, err
	}
	s := &Server{exe: exe, dir: dir}
	// Between finding a free port and binding it, somebody else may take it.
	for range 5 {
		if s.port, err = freePort(); err != nil {
			break
		}
		if err = s.start(); err == nil {
			break
		}
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return s, func() {
		s.kill()
		os.RemoveAll(dir)
	}, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Addr returns host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL returns the server's redis:// URL.
func (s *Server) URL() string { return "redis://" + s.Addr() }

// Stop kills the server, as a crash would. It is no error if it is not running.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.kill()
}

// Restart starts the server again on the same port, empty. A running one is
// stopped first.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.kill()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

// FlushAll removes all data.
func (s *Server) FlushAll(t testing.TB) {
	t.Helper()
	if err := s.ask("FLUSHALL", "+OK"); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.cmd = nil
}

func (s *Server) start() error {
	cmd := exec.Command(s.exe,
		"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir,
		"--save", "", "--appendonly", "no", "--daemonize", "no")
	// A file instead of a buffer: no goroutine copies to it, which tests that
	// look for leaked goroutines would find.
	logName := filepath.Join(s.dir, "log")
	out, err := os.Create(logName)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("redistest: %w", err)
	}

	// Any server could answer on a port that somebody else took in the meantime;
	// only this one's process id proves that it is ours.
	want := fmt.Sprintf("process_id:%d", cmd.Process.Pid)
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.ask("PING", "+PONG")
		if err == nil {
			err = s.ask("INFO server", want)
		}
		if err == nil {
			s.mu.Lock()
			s.cmd = cmd
			s.mu.Unlock()
			return nil
		}
		log, _ := os.ReadFile(logName)
		if time.Now().After(deadline) || bytes.Contains(log, []byte("Failed listening")) {
			cmd.Process.Kill()
			cmd.Wait()
			return fmt.Errorf("redistest: redis-server on %s does not answer: %w\n%s", s.Addr(), err, log)
		}
		<-tick.C
	}
}

// ask sends an inline command and wants a text in the reply's first kilobytes.
// The package does without a client so that tests of clients can use it.
func (s *Server) ask(command, want string) error {
	c, err := net.DialTimeout("tcp", s.Addr(), time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "%s\r\nQUIT\r\n", command); err != nil {
		return err
	}
	var got strings.Builder
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if strings.Contains(lines.Text(), want) {
			return nil
		}
		got.WriteString(lines.Text() + "\n")
	}
	return fmt.Errorf("redistest: %s: no %q in the reply %.200q", command, want, got.String())
}
