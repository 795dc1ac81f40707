package file_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
)

// childEnv makes the test binary a writer process: role, path and more.
const childEnv = "FLAGSTEAD_FILE_TEST_CHILD"

// TestChild is the writer process; without its variable it has nothing to do.
func TestChild(t *testing.T) {
	role, path, _ := strings.Cut(os.Getenv(childEnv), " ")
	switch role {
	case "generations":
		writeGenerations(t, path)
	case "follow":
		followAndTell(t, path)
	case "heartbeats":
		who, path, _ := strings.Cut(path, " ")
		writeHeartbeats(t, who, path)
	case "patches":
		who, path, _ := strings.Cut(path, " ")
		writePatches(t, who, path)
	}
}

// writeGenerations commits whole generations until it is killed and prints each
// that is acknowledged.
func writeGenerations(t *testing.T, path string) {
	s := open(t, path, nil)
	for n := generation(load(t, s).Items) + 1; ; n++ {
		items := make([]store.Item, count)
		for i := range items {
			items[i] = flag(fmt.Sprintf("flag-%d", i), n)
		}
		apply(t, s, store.Change{Items: items})
		fmt.Printf("ack %d\n", n)
	}
}

const patchesPerWriter = 40

func writePatches(t *testing.T, who, path string) {
	s := open(t, path, nil)
	for i := range patchesPerWriter {
		apply(t, s, store.Change{Items: []store.Item{flag(fmt.Sprintf("%s-%d", who, i), 1), flag("shared", int64(i))}})
	}
}

func child(t *testing.T, ctx context.Context, role string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestChild$", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), childEnv+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestProcessesWriteToOneFile(t *testing.T) {
	path := fileIn(t.TempDir())
	var all []*exec.Cmd
	for _, who := range []string{"x", "y"} {
		cmd := child(t, t.Context(), "patches "+who+" "+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	writePatches(t, "z", path)
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Errorf("writer process: %v", err)
		}
	}
	if got, want := len(load(t, open(t, path, nil)).Items), 3*patchesPerWriter+1; got != want {
		t.Errorf("after three writers: %d items, want %d", got, want)
	}
}

// runUntilKilled kills a writer after d and returns the last generation that it
// acknowledged.
func runUntilKilled(t *testing.T, path string, d time.Duration) int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := child(t, ctx, "generations "+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	lines := bufio.NewReader(out)
	var last int64
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if err != io.EOF || last == 0 {
				t.Errorf("writer process: %v after generation %d", err, last)
			}
			return last
		}
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "ack "); ok {
			if last == 0 {
				defer time.AfterFunc(d, func() { cmd.Process.Kill() }).Stop()
			}
			if last, err = strconv.ParseInt(text, 10, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestKilledWriterLeavesAWholeFile(t *testing.T) {
	path := fileIn(t.TempDir())
	reader := open(t, path, &file.Options{ReadOnly: true})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var acked int64
	for range 20 {
		acked = max(acked, runUntilKilled(t, path, time.Duration(random.IntN(int(20*time.Millisecond)))))
		items := load(t, reader).Items
		if n := generation(items); len(items) != count || n != acked && n != acked+1 {
			t.Fatalf("after a kill: %d items of generation %d, want %d of %d or the next", len(items), n, count, acked)
		}
	}
	apply(t, open(t, path, nil), store.Change{Items: []store.Item{flag("last", 1)}})
	if found := strays(t, filepath.Dir(path)); len(found) != 0 {
		t.Errorf("temporary files of killed writers are still there: %q", found)
	}
}
