package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process is a child of the demo.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // its standard output, closed at its end
	done  chan struct{}
	err   error // of Wait, after done
	ended bool  // by us, and what came of it was looked at

	mu   sync.Mutex
	tail []string // of its standard error
}

// processes starts children and sees to it that none is left.
type processes struct {
	list []*process
}

// start runs a program and reads what it prints.
func (ps *processes) start(name, program string, env []string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(program, args...), lines: make(chan string, 256), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	// A group of its own: an interrupt from the terminal reaches the demo only,
	// which then ends its children in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	ps.list = append(ps.list, p)
	var readers sync.WaitGroup
	readers.Go(func() {
		scan := bufio.NewScanner(stdout)
		scan.Buffer(nil, 1<<20)
		for scan.Scan() {
			p.lines <- scan.Text()
		}
		close(p.lines)
	})
	readers.Go(func() {
		scan := bufio.NewScanner(stderr)
		for scan.Scan() {
			p.mu.Lock()
			p.tail = append(p.tail, scan.Text())
			p.tail = p.tail[max(0, len(p.tail)-5):]
			p.mu.Unlock()
		}
	})
	go func() {
		readers.Wait() // Wait closes the pipes, so all must be read before
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// said returns the end of what the process printed to standard error.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.tail, "\n")
}

// line waits for a line that contains text, and returns it.
func (p *process) line(ctx context.Context, text string) (string, error) {
	for {
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s never printed %q: %w", p.name, text, context.Cause(ctx))
		case line, ok := <-p.lines:
			if !ok {
				<-p.done
				return "", fmt.Errorf("%s ended: %v: %s", p.name, p.err, p.said())
			}
			if strings.Contains(line, text) {
				return line, nil
			}
		}
	}
}

// drain lets a process go on printing that nobody reads any more.
func (p *process) drain() {
	go func() {
		for range p.lines {
		}
	}()
}

// kill ends the process like a crash and waits for its end.
func (p *process) kill() {
	p.ended = true
	p.cmd.Process.Kill()
	p.drain()
	<-p.done
}

// stop asks the process to end, and makes it if it does not.
func (p *process) stop(patience time.Duration) error {
	if p.ended {
		return nil
	}
	p.ended = true
	p.stdin.Close()
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.drain()
	select {
	case <-p.done:
		if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
			status, ok := exit.Sys().(syscall.WaitStatus)
			if ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
				return nil // it did not listen yet, or no longer
			}
		}
		if p.err != nil {
			return fmt.Errorf("%s ended badly: %w: %s", p.name, p.err, p.said())
		}
		return nil
	case <-time.After(patience):
		p.kill()
		return fmt.Errorf("%s did not end within %v and was killed", p.name, patience)
	}
}

// stopAll ends what is left, last started first.
func (ps *processes) stopAll() error {
	var errs []error
	for i := len(ps.list) - 1; i >= 0; i-- {
		errs = append(errs, ps.list[i].stop(5*time.Second))
	}
	return errors.Join(errs...)
}

// startRedis starts a Redis server of our own and returns its URL.
func (ps *processes) startRedis(ctx context.Context, dir string) (string, *process, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, errors.New("STORE=redis needs redis-server, which is not installed; install it (Debian, Ubuntu: apt-get install redis-server; Fedora: dnf install redis; Alpine: apk add redis; macOS: brew install redis), or use STORE=bolt")
	}
	for range 5 { // somebody else may take the port between our look and Redis's
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", nil, err
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		l.Close()
		p, err := ps.start("redis-server", program, nil,
			"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir)
		if err != nil {
			return "", nil, err
		}
		if _, err := p.line(ctx, "eady to accept connections"); err != nil {
			if ctx.Err() != nil {
				return "", nil, err
			}
			continue
		}
		p.drain()
		return "redis://127.0.0.1:" + port + "/0", p, nil
	}
	return "", nil, errors.New("redis-server could not be started on any of five ports")
}
