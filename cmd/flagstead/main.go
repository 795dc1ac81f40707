// Command flagstead syncs FeatBit feature flags into a store, serves them to
// SDKs, and evaluates, watches and verifies them from the shell.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"
)

// cli is the command line.
type cli struct {
	Dev    devCmd    `cmd:"" help:"Serve a flags file to SDKs of any language: a FeatBit for development and tests."`
	Sync   syncCmd   `cmd:"" help:"Keep a store equal to a FeatBit environment."`
	Serve  serveCmd  `cmd:"" help:"Run what a configuration file says: many environments, the relay, metrics."`
	Eval   evalCmd   `cmd:"" help:"Evaluate one flag, or all flags, for a user."`
	Watch  watchCmd  `cmd:"" help:"Print each change of a flag, with its latency."`
	Verify verifyCmd `cmd:"" help:"Run files of evaluation cases; exit 1 if one fails."`
	Doctor doctorCmd `cmd:"" help:"Examine the way to FeatBit and a store: a verdict and a remedy for each step."`
	Demo   demoCmd   `cmd:"" help:"Show the whole path at work: one syncer writes, four workers read."`

	Revisions revisionsCmd `cmd:"" help:"List the last revisions of a store."`
	Diff      diffCmd      `cmd:"" help:"Say what differs between two revisions."`
	Freeze    freezeCmd    `cmd:"" help:"Stop publication: the store keeps the flags it has, whatever FeatBit says."`
	Unfreeze  unfreezeCmd  `cmd:"" help:"Go on with publication."`
	Rollback  rollbackCmd  `cmd:"" help:"Publish an earlier revision again, and freeze it."`
	Readers   readersCmd   `cmd:"" help:"List the readers of a store that report."`
	Wait      waitCmd      `cmd:"" help:"Wait until the readers of a store have a flag; exit 1 if they do not in time."`

	DemoWorker demoWorkerCmd `cmd:"" hidden:""`

	Logging logging          `embed:""`
	Version kong.VersionFlag `help:"Print the version."`
}

// A console is where a command reads and prints.
type console struct {
	in       io.Reader
	out, err io.Writer
	log      *slog.Logger
	asked    bool            // log is what was asked for, and not silence
	json     bool            // stderr is for programs: one object per line
	typed    map[string]bool // flags that were given as arguments, by name: they go before the environment
}

// endWith returns a context that ends with in, too. The goroutine that reads it
// ends with the process: a read of standard input cannot be ended.
func endWith(ctx context.Context, in io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		io.Copy(io.Discard, in)
		cancel()
	}()
	return ctx, cancel
}

// complain says why a command ends, as its log is written.
func (c *console) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if c.json {
		slog.New(newHandler(c.err, true, slog.LevelError)).Error("flagstead ends", "error", text)
		return
	}
	fmt.Fprintf(c.err, "flagstead: %s\n", text)
}

// alert says what happened while a command runs on, as its log is written.
func (c *console) alert(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if c.json {
		c.log.Warn(text)
		return
	}
	fmt.Fprintf(c.err, "%s  %s\n", time.Now().Format("15:04:05"), text)
}

func (c *console) printf(format string, args ...any) { fmt.Fprintf(c.out, format, args...) }

func main() {
	// go-redis prints each failed attempt to connect; what matters of that is in
	// the error that a command ends with.
	redis.SetLogger(quiet{})
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !slices.Contains(os.Args, "serve") { // which reads its configuration again then
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	context.AfterFunc(ctx, stop) // the second signal ends the program at once
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// errSilent ends the program with status 1 when everything was said already.
var errSilent = errors.New("")

// errInterrupted says that a command was interrupted before it did its work.
var errInterrupted = errors.New("interrupted")

// A usageError is about the arguments, not about what they name.
type usageError string

func (e usageError) Error() string { return string(e) }

// A codedError ends the program with a status of its own.
type codedError struct {
	error
	code int
}

func (e codedError) Unwrap() error { return e.error }

// The exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitRefused     = 3   // of sync --once: the guard refused what FeatBit sent
	exitForbidden   = 4   // of sync --once: FeatBit refused the secret
	exitInterrupted = 130 // as shells have it
)

// run is the program without its process.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) (code int) {
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("flagstead"),
		kong.Description("FeatBit feature flags from any store: one process writes, many read."),
		kong.Vars{"version": version()},
		kong.Writers(out, errOut),
		kong.Exit(func(code int) { exited = code }),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		fmt.Fprintf(errOut, "flagstead: %v\n", err)
		return exitUsage
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(waitVersion(joinSecret(args)))
	if exited >= 0 {
		return exited // --help or --version
	}
	if err != nil {
		fmt.Fprintf(errOut, "flagstead: %v (see flagstead --help)\n", err)
		return exitUsage
	}
	con := &console{in: in, out: out, err: errOut, log: slog.New(slog.DiscardHandler), typed: map[string]bool{}}
	for _, p := range parsed.Path {
		if p.Flag != nil {
			con.typed[p.Flag.Name] = true
		}
	}
	c.Logging.set(con)
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run(con)
	if _, ok := errors.AsType[usageError](err); ok {
		con.complain("%v (see flagstead --help)", err)
		return exitUsage
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errSilent):
		return exitFailure
	case errors.Is(err, errInterrupted):
		con.complain("%v", err)
		return exitInterrupted
	}
	con.complain("%v", err)
	if coded, ok := errors.AsType[codedError](err); ok {
		return coded.code
	}
	return exitFailure
}

// joinSecret writes --secret X as --secret=X: a secret may begin with a hyphen,
// which the parser would take for another flag, and would repeat in its error.
func joinSecret(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--secret" && i+1 < len(args) {
			out = append(out, "--secret="+args[i+1])
			i++
			continue
		}
		out = append(out, args[i])
	}
	return out
}

// waitVersion makes the --version of wait, which is a flag's, another flag than the
// one that prints the program's.
func waitVersion(args []string) []string {
	if i := slices.IndexFunc(args, func(a string) bool { return !strings.HasPrefix(a, "-") }); i < 0 || args[i] != "wait" {
		return args
	}
	out := slices.Clone(args)
	for i, a := range out {
		if rest, ok := strings.CutPrefix(a, "--version"); ok && (rest == "" || rest[0] == '=') {
			out[i] = "--flag-version" + rest
		}
	}
	return out
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return "flagstead " + info.Main.Version
	}
	return "flagstead (unknown version)"
}
