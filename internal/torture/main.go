// Command torture tries to make readers of a Redis store see what was never
// committed.
//
// It plays FeatBit with an environment that changes all the time, runs two syncers
// and some readers as processes of their own on a real redis-server behind a
// proxy, and keeps injecting faults: it kills and freezes every process, empties
// the server, cuts and holds up connections. Each state that a reader sees must be
// one that FeatBit had, and no older than the one before it. After each fault
// everybody has to catch up.
//
//	go run ./internal/torture -for 10m
//
// With -profile ha it kills and freezes one syncer of the two at a time and nothing
// else, and measures how long changes take to the readers, around such moments and
// at others.
//
//	go run ./internal/torture -profile ha -for 5m
//
// It needs redis-server on the PATH. The exit status is 1 if anything was wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"
)

// settings are what the command line says.
type settings struct {
	duration time.Duration
	seed     uint64
	readers  int
	flags    int
	profile  string
	verbose  bool
}

func main() {
	switch role := os.Getenv("TORTURE_ROLE"); role {
	case "":
	case "syncer":
		os.Exit(exit(runSyncer()))
	case "reader":
		os.Exit(exit(runReader()))
	default:
		os.Exit(exit(fmt.Errorf("no role %q", role)))
	}
	var s settings
	flag.DurationVar(&s.duration, "for", time.Minute, "how long to inject faults")
	flag.Uint64Var(&s.seed, "seed", rand.Uint64()%1e6, "which faults, in which order")
	flag.IntVar(&s.readers, "readers", 3, "reader processes")
	flag.IntVar(&s.flags, "flags", 200, "flags in the environment")
	flag.StringVar(&s.profile, "profile", "all", "all: every fault; ha: only those of one syncer at a time, with the latency of changes")
	flag.BoolVar(&s.verbose, "v", false, "print every fault, and what the processes say")
	flag.Parse()
	if flag.NArg() > 0 || s.duration <= 0 || s.readers < 1 || s.flags < 2 || s.profile != "all" && s.profile != "ha" {
		fmt.Fprintln(os.Stderr, "torture: want -for above 0, -readers of at least 1, -flags of at least 2 and -profile all or ha, and nothing else")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(exit(torture(ctx, s)))
}

func exit(err error) int {
	if err == nil || errors.Is(err, context.Canceled) {
		return 0
	}
	fmt.Fprintln(os.Stderr, "torture:", err)
	return 1
}
