package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/flagstead/flagstead/internal/fleet"
	"github.com/flagstead/flagstead/sdk"
)

type doctorCmd struct {
	Store string `arg:"" optional:"" env:"FLAGSTEAD_STORE" placeholder:"STORE" help:"Store to look at: redis://host:6379/0, bolt:///path/flags.db or file:///path/flags.json."`

	FeatBit featbit `embed:""`
	Events  string  `placeholder:"URL" help:"FeatBit's event server, such as https://featbit.example. Default: the host of --url."`
	CA      string  `placeholder:"FILE" type:"path" help:"Certificate authorities of FeatBit's server, PEM, instead of the system's."`

	As      string        `enum:"reader,syncer" default:"syncer" placeholder:"ROLE" help:"What this host is to do with the store: reader or syncer (default ${default})."`
	Timeout time.Duration `default:"5s" placeholder:"TIME" help:"How long one check may take (default ${default})."`
	JSON    bool          `name:"json" help:"Print one JSON object."`
}

// The verdicts of a check.
const (
	verdictOK   = "ok"
	verdictWarn = "warn"
	verdictFail = "FAIL"
	verdictSkip = "skip" // another check has to be good first
)

// A finding is the result of one check.
type finding struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	Found   string `json:"found"`
	Remedy  string `json:"remedy,omitempty"`
	Millis  int64  `json:"ms"`
}

// An examination collects findings. Its texts have none of what is hidden.
type examination struct {
	cmd      *doctorCmd
	con      *console
	secret   sdk.Secret      // empty unless it has the form of one
	served   map[string]bool // environments of the flags that FeatBit sent; nil if it sent none
	hidden   []string        // each followed by what stands for it
	findings []finding
	began    time.Time // of the check that is going on
}

// Run examines what was named and prints what it finds. The error is errSilent if
// something failed.
func (c *doctorCmd) Run(ctx context.Context, con *console) error {
	if c.FeatBit.URL == "" && c.Store == "" {
		return usageError("nothing to examine: give --url, a store, or both")
	}
	if c.Timeout <= 0 {
		return usageError(fmt.Sprintf("--timeout=%v: want a time above zero", c.Timeout))
	}
	e := &examination{cmd: c, con: con}
	e.hide(c.FeatBit.Secret)
	e.hidePasswords(c.FeatBit.URL, c.Events, c.Store)
	if c.FeatBit.URL != "" {
		e.featbit(ctx)
	}
	if c.Store != "" && ctx.Err() == nil {
		e.store(ctx)
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return e.report()
}

// start begins a check: what add adds next took the time since.
func (e *examination) start(ctx context.Context) (context.Context, context.CancelFunc) {
	e.began = time.Now()
	return context.WithTimeout(ctx, e.cmd.Timeout)
}

func (e *examination) add(check, verdict, found, remedy string) {
	took := int64(0)
	if !e.began.IsZero() {
		took = time.Since(e.began).Milliseconds()
	}
	f := finding{Check: check, Verdict: verdict, Found: e.clean(found), Remedy: e.clean(remedy), Millis: took}
	e.findings = append(e.findings, f)
	if !e.cmd.JSON {
		e.con.printf("%-4s  %-16s %s\n", f.Verdict, f.Check, f.Found)
		if f.Remedy != "" {
			e.con.printf("%24s%s\n", "→ ", f.Remedy)
		}
	}
}

func (e *examination) ok(check, format string, args ...any) {
	e.add(check, verdictOK, fmt.Sprintf(format, args...), "")
}

func (e *examination) skip(check, because string) { e.add(check, verdictSkip, because, "") }

func (e *examination) report() error {
	count := map[string]int{}
	for _, f := range e.findings {
		count[f.Verdict]++
	}
	if e.cmd.JSON {
		out := json.NewEncoder(e.con.out)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		if err := out.Encode(map[string]any{"checks": e.findings, "failed": count[verdictFail], "warned": count[verdictWarn]}); err != nil {
			return err
		}
	} else {
		e.con.printf("\n%d ok, %s, %d failed, %d skipped\n", count[verdictOK], plural(count[verdictWarn], "warning"), count[verdictFail], count[verdictSkip])
	}
	if count[verdictFail] > 0 {
		return errSilent
	}
	return nil
}

// hide keeps a text out of all findings.
func (e *examination) hide(text string) {
	if len(text) > 3 {
		e.hidden = append(e.hidden, text, "[secret]")
	}
}

// hidePasswords hides what may be a password in URLs, also in those that do not
// parse: whatever is before the last @, and the values of all parameters that name a
// password or a token.
func (e *examination) hidePasswords(urls ...string) {
	for _, text := range urls {
		_, rest, _ := strings.Cut(text, "://")
		if i := strings.LastIndex(rest, "@"); i >= 0 {
			login := rest[:i]
			e.hide(login)
			if _, password, ok := strings.Cut(login, ":"); ok {
				e.hide(password)
				if plain, err := url.PathUnescape(password); err == nil {
					e.hide(plain)
				}
			}
		}
		if _, query, ok := strings.Cut(rest, "?"); ok {
			values, _ := url.ParseQuery(query)
			for name, list := range values {
				if fleet.Sensitive(name) {
					for _, value := range list {
						e.hide(value)
						e.hide(url.QueryEscape(value))
					}
				}
			}
		}
	}
}

func (e *examination) clean(text string) string {
	return strings.NewReplacer(e.hidden...).Replace(text)
}

// words puts an error in one line for people.
func words(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return strings.ReplaceAll(plain(err).Error(), "\n", " ")
}

func inMillis(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}
