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
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"
)

// cli is the command line.
type cli struct {
	Dev    devCmd    `cmd:"" help:"Serve a flags file to SDKs of any language: a FeatBit for development and tests."`
	Sync   syncCmd   `cmd:"" help:"Keep a store equal to a FeatBit environment."`
	Eval   evalCmd   `cmd:"" help:"Evaluate one flag, or all flags, for a user."`
	Watch  watchCmd  `cmd:"" help:"Print each change of a flag, with its latency."`
	Verify verifyCmd `cmd:"" help:"Run files of evaluation cases; exit 1 if one fails."`
	Demo   demoCmd   `cmd:"" help:"Show the whole path at work: one syncer writes, four workers read."`

	DemoWorker demoWorkerCmd `cmd:"" hidden:""`

	Verbose bool             `short:"v" help:"Log changes of state to stderr."`
	Version kong.VersionFlag `help:"Print the version."`
}

// A console is where a command reads and prints.
type console struct {
	in       io.Reader
	out, err io.Writer
	log      *slog.Logger
	typed    map[string]bool // flags that were given as arguments, by name: they go before the environment
}

// warnings returns a log that people should see without asking for one.
func (c *console) warnings() *slog.Logger {
	plain := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}
	return slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: plain}))
}

// loud returns the log that was asked for, or that of warnings.
func (c *console) loud() *slog.Logger {
	if c.log.Enabled(context.Background(), slog.LevelInfo) {
		return c.log
	}
	return c.warnings()
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

func (c *console) printf(format string, args ...any) { fmt.Fprintf(c.out, format, args...) }

func main() {
	// go-redis prints each failed attempt to connect; what matters of that is in
	// the error that a command ends with.
	redis.SetLogger(quiet{})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
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
	parsed, err := parser.Parse(joinSecret(args))
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
	if c.Verbose {
		con.log = slog.New(slog.NewTextHandler(errOut, nil))
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run(con)
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(errOut, "flagstead: %v (see flagstead --help)\n", err)
		return exitUsage
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errSilent):
		return exitFailure
	case errors.Is(err, errInterrupted):
		fmt.Fprintf(errOut, "flagstead: %v\n", err)
		return exitInterrupted
	}
	fmt.Fprintf(errOut, "flagstead: %v\n", err)
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

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return "flagstead " + info.Main.Version
	}
	return "flagstead (unknown version)"
}
