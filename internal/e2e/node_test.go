//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// install makes node/node_modules what node/package-lock.json says. A copy of
// the lock file in node_modules tells that it already is.
func install() error {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("the end-to-end test needs Node.js 18 or newer with npm, but there is no %s in PATH: install both from https://nodejs.org or as the packages nodejs and npm of your system", program)
		}
	}
	lock, err := os.ReadFile("node/package-lock.json")
	if err != nil {
		return err
	}
	stamp := filepath.Join("node", "node_modules", ".installed-lock.json")
	if have, err := os.ReadFile(stamp); err == nil && bytes.Equal(have, lock) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = "node"
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in internal/e2e/node, which needs the npm registry: %w\n%s", err, out)
	}
	return os.WriteFile(stamp, lock, 0o644)
}

// A nodeClient is FeatBit's Node SDK in a process of its own.
type nodeClient struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan []byte // closed at the end of stdout
	log   *lockedBuffer
	exit  func() error // waits for the process
}

func startNode(t *testing.T, url, secret string) *nodeClient {
	t.Helper()
	return startProgram(t, secret, "client.mjs", url, url)
}

// startProgram starts a program of the directory node, which gets the secret in its
// environment, and waits until it is ready.
func startProgram(t *testing.T, secret string, args ...string) *nodeClient {
	t.Helper()
	n := &nodeClient{
		cmd:   exec.Command("node", args...),
		lines: make(chan []byte, 1),
		log:   new(lockedBuffer),
	}
	n.cmd.Dir = "node"
	n.cmd.Env = append(os.Environ(), "FLAGSTEAD_E2E_SECRET="+secret)
	n.cmd.Stderr = n.log
	var err error
	if n.stdin, err = n.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(n.lines)
		r := bufio.NewReader(stdout)
		for {
			line, err := r.ReadBytes('\n')
			if err != nil {
				return
			}
			n.lines <- line
		}
	}()
	n.exit = sync.OnceValue(func() error {
		for range n.lines { // Wait closes the pipe, so it comes after the last line
		}
		return n.cmd.Wait()
	})
	t.Cleanup(func() {
		n.cmd.Process.Kill()
		n.exit()
		if t.Failed() {
			t.Logf("log of the Node SDK:\n%s", n.log)
		}
	})
	var hello struct{ Ready bool }
	n.answer(t, "ready", &hello)
	if !hello.Ready {
		t.Fatal("the Node SDK's first line is not that it is ready")
	}
	return n
}

// call sends a request and decodes its answer. There is one at a time.
func (n *nodeClient) call(t *testing.T, op string, request map[string]any, answer any) {
	t.Helper()
	if request == nil {
		request = map[string]any{}
	}
	request["op"] = op
	line, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.stdin.Write(append(line, '\n')); err != nil {
		t.Fatalf("asking the Node SDK to %s: %v", op, err)
	}
	n.answer(t, op, answer)
}

func (n *nodeClient) answer(t *testing.T, op string, into any) {
	t.Helper()
	late := time.NewTimer(patient)
	defer late.Stop()
	select {
	case line, ok := <-n.lines:
		if !ok {
			t.Fatalf("the Node SDK's process ended before it answered %q", op)
		}
		if err := json.Unmarshal(line, into); err != nil {
			t.Fatalf("the Node SDK's answer to %q: %v: %s", op, err, line)
		}
	case <-late.C:
		t.Fatalf("the Node SDK does not answer %q", op)
	}
}

// A nodeResult is what the SDK's detail calls give.
type nodeResult struct {
	Kind  string
	Value string
	Typed *struct {
		Kind  string
		Value any
	}
}

func (n *nodeClient) evaluate(t *testing.T, pairs []pair) []nodeResult {
	t.Helper()
	var answer struct{ Results []nodeResult }
	n.call(t, "evaluate", map[string]any{"pairs": pairs}, &answer)
	if len(answer.Results) != len(pairs) {
		t.Fatalf("the Node SDK gave %d results for %d pairs", len(answer.Results), len(pairs))
	}
	return answer.Results
}

// await returns once the SDK announced an update after which the flag has the
// value, or at once if it has.
func (n *nodeClient) await(t *testing.T, flag string, u user, value string) {
	t.Helper()
	n.call(t, "await", map[string]any{"flag": flag, "user": u, "value": value}, &struct{}{})
}

func (n *nodeClient) flush(t *testing.T) {
	t.Helper()
	var answer struct{ Flushed bool }
	n.call(t, "flush", nil, &answer)
	if !answer.Flushed {
		t.Error("the Node SDK could not flush its events")
	}
}

func (n *nodeClient) close(t *testing.T) {
	t.Helper()
	n.call(t, "close", nil, &struct{}{})
	ended := make(chan error, 1)
	go func() { ended <- n.exit() }()
	select {
	case err := <-ended:
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Errorf("the Node SDK's process ended with code %d", exit.ExitCode())
		} else if err != nil {
			t.Error(err)
		}
	case <-time.After(patient):
		t.Error("the Node SDK's process does not end")
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
