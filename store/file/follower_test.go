package file_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
)

// followAndTell is a reader process: it prints what store.Follow delivers and
// what the store logs, until the parent closes its input.
func followAndTell(t *testing.T, path string) {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	s := open(t, path, &file.Options{ReadOnly: true, Logger: log})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	o := store.FollowOptions{Interval: time.Hour, MaxBackoff: 100 * time.Millisecond}
	store.Follow(ctx, s, o, func(snap store.Snapshot, err error) {
		switch {
		case err != nil:
			fmt.Println("error", err)
		case snap.Delta:
			fmt.Println("unchanged")
		default:
			fmt.Println("generation", generation(snap.Items), "of", len(snap.Items))
		}
	})
}

// publicDir returns a directory that every user can look into.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "flagstead-file-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Chmod(filepath.Join(dir, "d"), 0o700)
		os.RemoveAll(dir)
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// nobody is the user that reader processes run as if the test runs as root, whom
// no permissions stop.
const nobody = 65534

// startFollower starts a reader process on path, not as root, and returns the
// lines it prints.
func startFollower(t *testing.T, dir, path string) <-chan string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := child(t, t.Context(), "follow "+path)
	if os.Getuid() == 0 {
		copied := filepath.Join(dir, "follower") // the original is in a private directory
		text, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied, text, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd.Path = copied
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		in.Close()
		<-done
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("reader process: %v", err)
		}
	})
	return lines
}

// awaitLine waits for a line that begins so and has the text. Generations on the
// way must be whole.
func awaitLine(t *testing.T, lines <-chan string, begin, text string) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		select {
		case line := <-lines:
			if strings.HasPrefix(line, "generation") && !strings.HasSuffix(line, fmt.Sprint("of ", count)) || strings.HasPrefix(line, "generation -") {
				t.Fatalf("the reader saw %s", line)
			}
			if strings.HasPrefix(line, begin) && strings.Contains(line, text) {
				return
			}
		case <-limit.C:
			t.Fatalf("the reader did not print %s … %s within %v", begin, text, patience)
		}
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// replacePublic is replace with a file that every user can read.
func replacePublic(t *testing.T, path string, data []byte) {
	t.Helper()
	write(t, path+".new", data)
	chmod(t, path+".new", 0o644)
	rename(t, path+".new", path)
}

func TestPermissionLostAndRegained(t *testing.T) {
	top := publicDir(t)
	dir := filepath.Join(top, "d")
	mkdir(t, dir)
	chmod(t, dir, 0o755)
	replacePublic(t, fileIn(dir), document(1, count))
	lines := startFollower(t, top, fileIn(dir))
	awaitLine(t, lines, "generation 1 ", "")
	for n := int64(2); n <= 3; n++ {
		chmod(t, fileIn(dir), 0)
		awaitLine(t, lines, "error", "permission denied")
		chmod(t, fileIn(dir), 0o644)
		awaitLine(t, lines, "unchanged", "")
		chmod(t, dir, 0)
		awaitLine(t, lines, "error", "permission denied")
		chmod(t, dir, 0o755)
		awaitLine(t, lines, "unchanged", "")
		replacePublic(t, fileIn(dir), document(n, count))
		awaitLine(t, lines, fmt.Sprint("generation ", n, " "), "")
	}
}

// A directory that may be passed but not looked into sends no events. Readers
// poll then and say so, and say so too when that is over.
func TestDirectoryWithoutEventsIsPolled(t *testing.T) {
	top := publicDir(t)
	dir := filepath.Join(top, "d")
	mkdir(t, dir)
	chmod(t, dir, 0o311)
	replacePublic(t, fileIn(dir), document(1, count))
	lines := startFollower(t, top, fileIn(dir))
	awaitLine(t, lines, "", "by polling only")
	for n := int64(2); n <= 3; n++ {
		began := time.Now()
		replacePublic(t, fileIn(dir), document(n, count))
		awaitLine(t, lines, fmt.Sprint("generation ", n, " "), "")
		t.Logf("found by polling after %v", time.Since(began))
	}
	chmod(t, dir, 0o755)
	awaitLine(t, lines, "", "by events again")
	replacePublic(t, fileIn(dir), document(4, count))
	awaitLine(t, lines, "generation 4 ", "")
}
