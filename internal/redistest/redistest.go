// Package redistest starts real Redis servers for tests: one by itself, a master
// that Sentinels watch, or a cluster.
package redistest

import (
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
	"syscall"
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

// Options tunes servers. The zero value is a server as it comes.
type Options struct {
	// Args are further settings as on the command line: "--maxmemory", "10mb".
	Args []string

	// Password, if not empty, is what the servers ask for.
	Password string

	// SentinelPassword, if not empty, is what Sentinels ask for.
	SentinelPassword string

	// TLS, if not nil, has the servers speak TLS and nothing else.
	TLS *Certificates

	// ClientCertificates has the servers refuse clients without a certificate of
	// TLS's authority.
	ClientCertificates bool
}

// A Server is a redis-server process on a loopback port. It keeps nothing on
// disk: stopping it loses its data.
type Server struct {
	exe      string
	dir      string
	port     int
	opts     Options
	password string
	args     []string // after the usual ones
	bare     bool     // args are all

	mu  sync.Mutex // guards what follows
	cmd *exec.Cmd  // nil while stopped
}

// Start starts a server that lives until t is done. It fails t if there is no
// redis-server: a test that needs one and is skipped proves nothing.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartWith(t, Options{})
}

// StartWith is Start with options.
func StartWith(t testing.TB, o Options) *Server {
	t.Helper()
	s, stop, err := startNew(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return s
}

// StartMain starts a server for a whole test binary, from TestMain. The caller
// calls the returned function before the process exits.
func StartMain() (*Server, func(), error) { return startNew(Options{}, nil) }

// startNew starts a server, after prepare has made it what it is to be.
func startNew(o Options, prepare func(*Server) error) (*Server, func(), error) {
	exe, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, nil, errors.New(howToInstall)
	}
	dir, err := os.MkdirTemp("", "redistest")
	if err != nil {
		return nil, nil, err
	}
	s := &Server{exe: exe, dir: dir, opts: o, password: o.Password}
	// Between finding a free port and binding it, somebody else may take it.
	for range 5 {
		if s.port, err = freePort(); err != nil {
			break
		}
		if prepare != nil {
			if err = prepare(s); err != nil {
				break
			}
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

// URL returns the server's redis:// or rediss:// URL, without a password.
func (s *Server) URL() string { return s.scheme() + "://" + s.Addr() }

func (s *Server) scheme() string {
	if s.opts.TLS != nil {
		return "rediss"
	}
	return "redis"
}

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

// Freeze keeps the server from running until Thaw or Stop: it answers nobody,
// and its connections stay open.
func (s *Server) Freeze(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGSTOP)
}

// Thaw ends a Freeze.
func (s *Server) Thaw(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGCONT)
}

func (s *Server) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		t.Fatalf("redistest: %s does not run", s.Addr())
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// FlushAll removes all data.
func (s *Server) FlushAll(t testing.TB) {
	t.Helper()
	s.Must(t, "FLUSHALL")
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

// running reports whether the process was not stopped.
func (s *Server) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd != nil
}

// line returns the command line.
func (s *Server) line() []string {
	if s.bare {
		return s.args
	}
	line := []string{"--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--appendonly", "no", "--daemonize", "no",
		"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"}
	line = append(line, s.ports()...)
	if s.password != "" {
		line = append(line, "--requirepass", s.password, "--masterauth", s.password)
	}
	return append(append(line, s.opts.Args...), s.args...)
}

// ports returns what to listen on.
func (s *Server) ports() []string {
	port := strconv.Itoa(s.port)
	c := s.opts.TLS
	if c == nil {
		return []string{"--port", port}
	}
	ask := "no"
	if s.opts.ClientCertificates {
		ask = "yes"
	}
	return []string{"--port", "0", "--tls-port", port, "--tls-replication", "yes", "--tls-auth-clients", ask,
		"--tls-ca-cert-file", c.CA, "--tls-cert-file", c.Server, "--tls-key-file", c.ServerKey}
}

func (s *Server) start() error {
	cmd := exec.Command(s.exe, s.line()...)
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
	want := fmt.Sprintf("process_id:%d\r\n", cmd.Process.Pid)
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		info, err := s.Do("INFO", "server")
		if err == nil && !strings.Contains(info, want) {
			err = errors.New("another server has the port")
		}
		if err == nil {
			s.mu.Lock()
			s.cmd = cmd
			s.mu.Unlock()
			return nil
		}
		log, _ := os.ReadFile(logName)
		if time.Now().After(deadline) || bytes.Contains(log, []byte("Failed listening")) || bytes.Contains(log, []byte("FATAL")) {
			cmd.Process.Kill()
			cmd.Wait()
			return fmt.Errorf("redistest: redis-server on %s does not answer: %w\n%s", s.Addr(), err, log)
		}
		<-tick.C
	}
}

// until waits until ok returns nil.
func until(what string, ok func() error) error {
	deadline := time.Now().Add(3 * patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("redistest: waited in vain for %s: %w", what, err)
		}
		<-tick.C
	}
}
