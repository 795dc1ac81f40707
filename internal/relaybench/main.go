//go:build linux

// Command relaybench measures what a relay costs: memory per idle connection, the
// time from a change in the store until SDKs have it, and processor time; beside a
// bare WebSocket server (gorilla/websocket with its default buffers, a goroutine per
// connection, one loop that sends a prepared message to all) that does nothing but
// the same sending.
//
//	go run ./internal/relaybench -n 10000
//
// Server and SDKs are processes of their own on one machine, so that the memory is
// the server's alone; they share the processors, which the times contain. It needs
// Linux.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings are what the command line says. The processes get them as they are.
type settings struct {
	conns  int
	flags  int
	rounds int
	idle   time.Duration
	ping   time.Duration
}

func main() {
	var s settings
	flag.IntVar(&s.conns, "n", 10_000, "connections")
	flag.IntVar(&s.flags, "flags", 50, "flags in the environment")
	flag.IntVar(&s.rounds, "changes", 20, "changes that are measured")
	flag.DurationVar(&s.idle, "idle", 20*time.Second, "how long the connections are idle")
	flag.DurationVar(&s.ping, "ping", 10*time.Second, "how often each SDK pings")
	flag.Parse()
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "relaybench:", err)
		os.Exit(1)
	}
}

func run(s settings) error {
	switch role := os.Getenv("RELAYBENCH_ROLE"); role {
	case "":
		return measure(s)
	case "relay":
		return serve(s, newRelay)
	case "bare":
		return serve(s, newBare)
	case "sdks":
		return connect(s, os.Getenv("RELAYBENCH_ADDR"))
	default:
		return fmt.Errorf("no role %q", role)
	}
}

// spare is how many files a process has open beside its connections.
const spare = 100

// checkFiles reports whether the connections fit into the limit on open files, whose
// soft part the Go runtime has raised already.
func checkFiles(conns int) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("the limit on open files: %w", err)
	}
	if l.Max < uint64(conns+spare) {
		return fmt.Errorf("%d connections need %d open files, the hard limit (ulimit -Hn) is %d", conns, conns+spare, l.Max)
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raise the limit on open files: %w", err)
	}
	return nil
}

// A result is what one server did.
type result struct {
	resident, returned  float64 // bytes per connection, before and after free memory was given back
	setup, idle, change float64 // seconds of processor time; change is for one
	first, median, last time.Duration
}

func measure(s settings) error {
	if err := checkFiles(s.conns); err != nil {
		return err
	}
	fmt.Printf("%d connections, %d flags, idle for %v with a ping every %v, %d changes\n\n", s.conns, s.flags, s.idle, s.ping, s.rounds)
	bare, err := begin(s, "bare")
	if err != nil {
		return err
	}
	defer bare.end()
	relay, err := begin(s, "relay")
	if err != nil {
		return err
	}
	defer relay.end()
	// They take turns, so that whatever else the machine does hits both.
	for range s.rounds {
		if err := errors.Join(bare.change(), relay.change()); err != nil {
			return err
		}
	}
	if err := errors.Join(bare.finish(s), relay.finish(s)); err != nil {
		return err
	}
	report(bare.result, relay.result)
	if relay.resident > 6*1024 || relay.last > 2*bare.last {
		return errors.New("over budget")
	}
	return nil
}

func report(bare, relay result) {
	line := func(name, format string, of func(result) any) {
		fmt.Printf("%-42s %12s %12s\n", name, fmt.Sprintf(format, of(bare)), fmt.Sprintf(format, of(relay)))
	}
	fmt.Printf("%-42s %12s %12s\n", "", "bare", "relay")
	line("resident per connection, KB", "%.1f", func(r result) any { return r.resident / 1024 })
	line("the same, free memory given back, KB", "%.1f", func(r result) any { return r.returned / 1024 })
	line("change to first SDK (median of changes)", "%v", func(r result) any { return r.first.Round(10 * time.Microsecond) })
	line("change to median SDK", "%v", func(r result) any { return r.median.Round(10 * time.Microsecond) })
	line("change to last SDK", "%v", func(r result) any { return r.last.Round(10 * time.Microsecond) })
	line("CPU to connect and get all flags, s", "%.2f", func(r result) any { return r.setup })
	line("CPU while idle, s", "%.2f", func(r result) any { return r.idle })
	line("CPU per change, s", "%.3f", func(r result) any { return r.change })
	fmt.Printf("\nlast SDK, relay to bare: %.2f (budget 2)\nresident per connection: %.1f KB (budget 6)\n",
		float64(relay.last)/float64(bare.last), relay.resident/1024)
}

// A contest is a server with its SDKs.
type contest struct {
	role         string
	server, sdks *process
	began        usage // when the changes began
	all          []receipts
	result
}

// begin starts a server, connects its SDKs, and measures what they cost.
func begin(s settings, role string) (c *contest, err error) {
	c = &contest{role: role}
	defer func() {
		if err != nil {
			c.end()
			err = fmt.Errorf("%s: %w", role, err)
		}
	}()
	if c.server, err = spawn(role, ""); err != nil {
		return nil, err
	}
	var addr string
	var before, connected, idle usage
	if err := errors.Join(c.server.ask("addr", &addr), c.server.ask("free", &before)); err != nil {
		return nil, err
	}
	if c.sdks, err = spawn("sdks", addr); err != nil {
		return nil, err
	}
	var ok bool
	if err := errors.Join(c.sdks.ask("connect", &ok), c.server.ask("usage", &connected)); err != nil {
		return nil, err
	}
	time.Sleep(s.idle)
	if err := errors.Join(c.server.ask("usage", &idle), c.server.ask("free", &c.began)); err != nil {
		return nil, err
	}
	c.resident = float64(idle.Resident-before.Resident) / float64(s.conns)
	c.returned = float64(c.began.Resident-before.Resident) / float64(s.conns)
	c.setup, c.idle = connected.CPU-before.CPU, idle.CPU-connected.CPU
	return c, nil
}

// change measures one change.
func (c *contest) change() error {
	var ok bool
	var began int64
	var got receipts
	if err := errors.Join(c.sdks.ask("arm", &ok), c.server.ask("change", &began), c.sdks.ask("received", &got)); err != nil {
		return fmt.Errorf("%s: %w", c.role, err)
	}
	c.all = append(c.all, receipts{got.First - began, got.Median - began, got.Last - began})
	return nil
}

func (c *contest) finish(s settings) error {
	var after usage
	if err := c.server.ask("usage", &after); err != nil {
		return fmt.Errorf("%s: %w", c.role, err)
	}
	c.result.change = (after.CPU - c.began.CPU) / float64(s.rounds)
	median := func(of func(receipts) int64) time.Duration {
		var all []int64
		for _, r := range c.all {
			all = append(all, of(r))
		}
		return time.Duration(middle(all))
	}
	c.first = median(func(r receipts) int64 { return r.First })
	c.median = median(func(r receipts) int64 { return r.Median })
	c.last = median(func(r receipts) int64 { return r.Last })
	return nil
}

func (c *contest) end() {
	if c.sdks != nil {
		c.sdks.end()
	}
	if c.server != nil {
		c.server.end()
	}
}

func middle(all []int64) int64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// A process is a child that answers each line with a line of JSON.
type process struct {
	cmd *exec.Cmd
	in  interface{ Close() error }
	say func(string) error
	out *bufio.Reader
}

func spawn(role, addr string) (*process, error) {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), "RELAYBENCH_ROLE="+role, "RELAYBENCH_ADDR="+addr)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	say := func(line string) error { _, err := fmt.Fprintln(in, line); return err }
	return &process{cmd, in, say, bufio.NewReader(out)}, nil
}

func (p *process) ask(command string, answer any) error {
	if err := p.say(command); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%s: the process has ended: %w", command, err)
	}
	return json.Unmarshal(line, answer)
}

// end lets the process end, whose stdin does.
func (p *process) end() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

// obey answers the lines of stdin until it ends.
func obey(handle func(command string) (any, error)) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := handle(strings.TrimSpace(lines.Text()))
		if err != nil {
			return err
		}
		text, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		fmt.Println(string(text))
	}
	return lines.Err()
}
