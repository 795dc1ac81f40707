package file_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/flagstead/flagstead/internal/fswatch"
	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
)

const count = 50 // flags per document

// A change brings generation n to the file at dir/flags.json, or lets others do
// so before.
type change struct {
	name  string
	setup func(t *testing.T, dir string)          // makes generation 1; nil for a plain file
	make  func(t *testing.T, dir string, n int64) // called with 2 and 3

	// gap says that the file is missing or half there for a moment, of which
	// readers may be told. Without it they must see no error.
	gap bool
}

func fileIn(dir string) string { return filepath.Join(dir, "flags.json") }

// run runs a program that changes files.
func run(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
}

// edits are sed's commands, and vim's, that make generation n of the one before.
func edits(n int64) (name, date string) {
	return fmt.Sprintf(`s/"n%d"/"n%d"/g`, n-1, n), fmt.Sprintf(`s/\.%03dZ/.%03dZ/g`, n-1, n)
}

// vim edits the file with vim, or does what vim does where there is none.
func vim(backupcopy string) func(t *testing.T, dir string, n int64) {
	return func(t *testing.T, dir string, n int64) {
		if _, err := exec.LookPath("vim"); err == nil {
			name, date := edits(n)
			run(t, dir, "vim", "-es", "-u", "NONE", "-i", "NONE", "-N", "flags.json", "-c", "set nofixeol backup backupskip= backupcopy="+backupcopy,
				"-c", "%"+name, "-c", "%"+date, "-c", "wq")
			return
		}
		probe := filepath.Join(dir, "4913") // whether it may make files here
		write(t, probe, nil)
		if err := os.Remove(probe); err != nil {
			t.Fatal(err)
		}
		if backupcopy == "no" {
			rename(t, fileIn(dir), fileIn(dir)+"~")
		} else {
			run(t, dir, "cp", "-p", "flags.json", "flags.json~")
		}
		write(t, fileIn(dir), document(n, count))
	}
}

// stalled writes the file in two steps and waits in between.
func stalled(stall time.Duration) func(t *testing.T, dir string, n int64) {
	return func(t *testing.T, dir string, n int64) { writeInSteps(t, fileIn(dir), document(n, count), stall) }
}

var changes = []change{{
	name: "rename over",
	make: func(t *testing.T, dir string, n int64) { replace(t, fileIn(dir), document(n, count)) },
}, {
	name: "truncate and write",
	make: func(t *testing.T, dir string, n int64) { write(t, fileIn(dir), document(n, count)) },
}, {
	name: "truncate and write in two steps, with a stall",
	gap:  true, // it is long enough to look like the end
	make: stalled(2 * fswatch.SettleTime),
}, {
	name: "sed -i",
	make: func(t *testing.T, dir string, n int64) {
		name, date := edits(n)
		run(t, dir, "sed", "-i", "-e", name, "-e", date, "flags.json")
	},
}, {
	name: "vim, backupcopy=no",
	gap:  true,
	make: vim("no"),
}, {
	name: "vim, backupcopy=yes",
	make: vim("yes"),
}, {
	name: "cp over",
	make: func(t *testing.T, dir string, n int64) {
		write(t, fileIn(dir)+".new", document(n, count))
		run(t, dir, "cp", "flags.json.new", "flags.json")
	},
}, {
	name: "mv over",
	make: func(t *testing.T, dir string, n int64) {
		write(t, fileIn(dir)+".new", document(n, count))
		run(t, dir, "mv", "flags.json.new", "flags.json")
	},
}, {
	name: "mv over, from another directory",
	make: func(t *testing.T, dir string, n int64) {
		write(t, filepath.Join(filepath.Dir(dir), "new"), document(n, count))
		run(t, dir, "mv", "../new", "flags.json")
	},
}, {
	name: "cp -p over, of equal size and with the old time",
	make: func(t *testing.T, dir string, n int64) {
		old := fileIn(dir) + ".new"
		write(t, old, document(n, count))
		run(t, dir, "touch", "-d", "2020-01-01", "flags.json.new")
		run(t, dir, "cp", "-p", "flags.json.new", "flags.json")
	},
}, {
	name: "written in place, time restored with touch",
	make: func(t *testing.T, dir string, n int64) {
		write(t, fileIn(dir), document(n, count))
		run(t, dir, "touch", "-d", "2020-01-01T00:00:00Z", "flags.json")
	},
}, {
	name: "written through a hard link elsewhere",
	setup: func(t *testing.T, dir string) {
		mkdir(t, dir+".else")
		write(t, fileIn(dir), document(1, count))
		if err := os.Link(fileIn(dir), filepath.Join(dir+".else", "f")); err != nil {
			t.Fatal(err)
		}
	},
	make: func(t *testing.T, dir string, n int64) {
		write(t, filepath.Join(dir+".else", "f"), document(n, count))
	},
}, {
	name: "written through a mapping of its memory",
	make: mapAndWrite,
}, {
	name: "rename away and write anew",
	gap:  true,
	make: func(t *testing.T, dir string, n int64) {
		rename(t, fileIn(dir), fileIn(dir)+"~")
		write(t, fileIn(dir), document(n, count))
	},
}, {
	name: "delete and recreate",
	gap:  true,
	make: func(t *testing.T, dir string, n int64) {
		if err := os.Remove(fileIn(dir)); err != nil {
			t.Fatal(err)
		}
		pause(60 * time.Millisecond)
		replace(t, fileIn(dir), document(n, count))
	},
}, {
	name: "older modification time",
	make: func(t *testing.T, dir string, n int64) {
		write(t, fileIn(dir)+".new", document(n, count))
		old := time.Unix(1_000_000-n, 0)
		if err := os.Chtimes(fileIn(dir)+".new", old, old); err != nil {
			t.Fatal(err)
		}
		rename(t, fileIn(dir)+".new", fileIn(dir))
	},
}, {
	name: "symlink swapped",
	setup: func(t *testing.T, dir string) {
		mkdir(t, filepath.Join(dir, "v1"))
		write(t, filepath.Join(dir, "v1", "a.json"), document(1, count))
		symlink(t, filepath.Join("v1", "a.json"), fileIn(dir))
	},
	make: func(t *testing.T, dir string, n int64) {
		v := "v" + string(rune('0'+n))
		mkdir(t, filepath.Join(dir, v))
		write(t, filepath.Join(dir, v, "a.json"), document(n, count))
		symlink(t, filepath.Join(v, "a.json"), filepath.Join(dir, "next"))
		rename(t, filepath.Join(dir, "next"), fileIn(dir))
	},
}, {
	name: "ln -sfn",
	gap:  true, // some systems' ln removes the old link first
	setup: func(t *testing.T, dir string) {
		mkdir(t, filepath.Join(dir, "v1"))
		write(t, filepath.Join(dir, "v1", "a.json"), document(1, count))
		symlink(t, filepath.Join("v1", "a.json"), fileIn(dir))
	},
	make: func(t *testing.T, dir string, n int64) {
		v := fmt.Sprint("v", n)
		mkdir(t, filepath.Join(dir, v))
		write(t, filepath.Join(dir, v, "a.json"), document(n, count))
		run(t, dir, "ln", "-sfn", filepath.Join(v, "a.json"), "flags.json")
	},
}, {
	name: "symlink of a directory on the way swapped",
	setup: func(t *testing.T, dir string) {
		mkdir(t, dir+".v1")
		write(t, fileIn(dir+".v1"), document(1, count))
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		symlink(t, filepath.Base(dir)+".v1", dir)
	},
	make: func(t *testing.T, dir string, n int64) {
		next := fmt.Sprint(dir, ".v", n)
		mkdir(t, next)
		write(t, fileIn(next), document(n, count))
		symlink(t, filepath.Base(next), dir+".next")
		rename(t, dir+".next", dir)
	},
}, {
	name: "target of a symlink replaced",
	setup: func(t *testing.T, dir string) {
		mkdir(t, filepath.Join(dir, "elsewhere"))
		write(t, filepath.Join(dir, "elsewhere", "a.json"), document(1, count))
		symlink(t, filepath.Join(dir, "elsewhere", "a.json"), fileIn(dir))
	},
	make: func(t *testing.T, dir string, n int64) {
		replace(t, filepath.Join(dir, "elsewhere", "a.json"), document(n, count))
	},
}, {
	name:  "config map, old directory removed",
	setup: func(t *testing.T, dir string) { configMap(t, dir, 1) },
	make: func(t *testing.T, dir string, n int64) {
		configMap(t, dir, n)
		if err := os.RemoveAll(filepath.Join(dir, "..gen"+string(rune('0'+n-1)))); err != nil {
			t.Fatal(err)
		}
	},
}, {
	name:  "config map, old directory kept",
	setup: func(t *testing.T, dir string) { configMap(t, dir, 1) },
	make:  configMap,
}, {
	name: "directory replaced",
	gap:  true,
	make: func(t *testing.T, dir string, n int64) {
		mkdir(t, dir+".new")
		write(t, filepath.Join(dir+".new", "flags.json"), document(n, count))
		rename(t, dir, dir+".old"+string(rune('0'+n)))
		rename(t, dir+".new", dir)
	},
}}

// configMap lays generation n out as the kubelet does.
func configMap(t *testing.T, dir string, n int64) {
	t.Helper()
	gen := "..gen" + string(rune('0'+n))
	mkdir(t, filepath.Join(dir, gen))
	write(t, filepath.Join(dir, gen, "flags.json"), document(n, count))
	symlink(t, gen, filepath.Join(dir, "..data_tmp"))
	rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
	if n == 1 {
		symlink(t, filepath.Join("..data", "flags.json"), fileIn(dir))
	}
}

func TestWatchSeesEveryKindOfChange(t *testing.T) {
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "d")
			mkdir(t, dir)
			if c.setup != nil {
				c.setup(t, dir)
			} else {
				write(t, fileIn(dir), document(1, count))
			}
			got := followed(t, open(t, fileIn(dir), &file.Options{ReadOnly: true}))
			awaitGeneration(t, got, count, 1, time.Now())
			for n := int64(2); n <= 3; n++ { // twice: a watch may survive one change only
				c.make(t, dir, n)
				began := time.Now()
				seen := await(t, got, count, fmt.Sprint("generation ", n), func(got news) bool {
					if got.err != nil {
						if !c.gap {
							t.Errorf("before generation %d: %v", n, got.err)
						}
						return false
					}
					if g := generation(got.snap.Items); !got.snap.Delta && g != n-1 && g != n {
						t.Errorf("generation %d came before %d", g, n)
					}
					return !got.snap.Delta && generation(got.snap.Items) == n
				})
				t.Logf("generation %d after %v", n, seen.at.Sub(began))
			}
		})
	}
}

func TestReaderWaitsForAFileInADirectoryThatDoesNotExist(t *testing.T) {
	top := filepath.Join(t.TempDir(), "later")
	path := fileIn(filepath.Join(top, "still later"))
	got := followed(t, open(t, path, &file.Options{ReadOnly: true}))
	for n := int64(1); n <= 2; n++ {
		await(t, got, count, "missing file", func(n news) bool { return errors.Is(n.err, fs.ErrNotExist) })
		mkdir(t, top)
		mkdir(t, filepath.Dir(path))
		replace(t, path, document(n, count))
		awaitGeneration(t, got, count, n, time.Now())
		if err := os.RemoveAll(top); err != nil {
			t.Fatal(err)
		}
	}
}

// writeInSteps truncates the file and writes data in two halves. It returns the
// longest time for which the file was left alone in between.
func writeInSteps(t *testing.T, path string, data []byte, stall time.Duration) (longest time.Duration) {
	t.Helper()
	last := time.Now()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, half := range [][]byte{data[:len(data)/2], data[len(data)/2:]} {
		pause(stall)
		if _, err := f.Write(half); err != nil {
			t.Fatal(err)
		}
		longest, last = max(longest, time.Since(last)), time.Now()
	}
	return longest
}

func TestHalfWrittenFileIsNotRead(t *testing.T) {
	path := fileIn(t.TempDir())
	write(t, path, document(1, count))
	got := followed(t, open(t, path, &file.Options{ReadOnly: true}))
	awaitGeneration(t, got, count, 1, time.Now())
	for n := int64(2); n < 20; n++ {
		longest := writeInSteps(t, path, document(n, count), 60*time.Millisecond)
		first := await(t, got, count, "anything", func(news) bool { return true })
		if first.err == nil && generation(first.snap.Items) == n {
			return
		}
		if longest < fswatch.SettleTime {
			t.Fatalf("first news of a slow write: generation %d, error %v, want generation %d", generation(first.snap.Items), first.err, n)
		}
		awaitGeneration(t, got, count, n, time.Now()) // the machine is too busy: another try
	}
}

func TestStalledWriterIsReportedAndRecoveredFrom(t *testing.T) {
	path := fileIn(t.TempDir())
	write(t, path, document(1, count))
	got := followed(t, open(t, path, &file.Options{ReadOnly: true}))
	awaitGeneration(t, got, count, 1, time.Now())
	writeInSteps(t, path, document(2, count), 400*time.Millisecond)
	await(t, got, count, "a broken document", func(n news) bool { return errors.Is(n.err, file.ErrBroken) })
	awaitGeneration(t, got, count, 2, time.Now())
}

func TestDeletedFileKeepsReadersWaiting(t *testing.T) {
	path := fileIn(t.TempDir())
	write(t, path, document(1, count))
	got := followed(t, open(t, path, &file.Options{ReadOnly: true}))
	awaitGeneration(t, got, count, 1, time.Now())
	for n := int64(2); n <= 3; n++ {
		rename(t, path, path+".away")
		await(t, got, count, "missing file", func(n news) bool { return errors.Is(n.err, fs.ErrNotExist) })
		rename(t, path+".away", path)
		await(t, got, count, "recovery", func(n news) bool { return n.err == nil && n.snap.Delta })
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		await(t, got, count, "deleted file", func(n news) bool { return errors.Is(n.err, fs.ErrNotExist) })
		replace(t, path, document(n, count))
		awaitGeneration(t, got, count, n, time.Now())
	}
}

// Inodes are used again at once, and times have the granularity of a clock tick:
// neither may make a new file look like the old one.
func TestFastRenamesAreAllNoticed(t *testing.T) {
	path := fileIn(t.TempDir())
	s := open(t, path, &file.Options{ReadOnly: true})
	for n := int64(100); n < 300; n++ {
		replace(t, path, document(n, 2))
		if n%2 == 0 {
			replace(t, path, document(n+500, 2))
			replace(t, path, document(n, 2))
		}
		if got := generation(load(t, s).Items); got != n {
			t.Fatalf("Load right after generation %d was renamed into place = generation %d", n, got)
		}
	}
}

func TestWatchEndsWithTheStoreOrItsContext(t *testing.T) {
	path := fileIn(t.TempDir())
	s := open(t, path, nil)
	for _, test := range []struct {
		name string
		end  func(cancel func())
		want error
	}{
		{"context", func(cancel func()) { cancel() }, context.Canceled},
		{"close", func(func()) { s.Close() }, store.ErrClosed},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		started, ended := make(chan struct{}, 1), make(chan error, 1)
		go func() {
			ended <- s.Watch(ctx, func() {
				select {
				case started <- struct{}{}:
				default:
				}
			})
		}()
		<-started
		test.end(cancel)
		if err := <-ended; !errors.Is(err, test.want) {
			t.Errorf("%s: Watch = %v, want %v", test.name, err, test.want)
		}
	}
}
