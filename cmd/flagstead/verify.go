package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/verify"
	"github.com/flagstead/flagstead/sdk"
)

type verifyCmd struct {
	Files       []string `arg:"" optional:"" placeholder:"CASES.json" type:"path" help:"Files of cases: {\"bootstrap\": …, \"cases\": [{\"flagKey\", \"user\", \"default\", \"expect\"}]}, see https://github.com/flagstead/flagstead/blob/main/docs/verify.md."`
	Via         string   `default:"engine" enum:"engine,client" help:"What evaluates: engine, the evaluator alone, or client, a whole client as programs use it."`
	Differences bool     `help:"List the intended differences from FeatBit's Python SDK."`
}

// Run runs the files, also those behind a broken one. Its last line is "N
// passed, N failed".
func (c *verifyCmd) Run(con *console) error {
	if c.Differences {
		for _, d := range flags.Differences {
			con.printf("%s\n  Python: %s\n  here:   %s\n  reason: %s\n\n", d.Name, d.Python, d.Here, d.Reason)
		}
		con.printf("%s from FeatBit's Python SDK, none of which excepts a case\n", plural(len(flags.Differences), "intended difference"))
		if len(c.Files) == 0 {
			return nil
		}
	}
	if len(c.Files) == 0 {
		return errors.New("no files of cases given")
	}
	passed, failed, broken := 0, 0, 0
	for _, name := range c.Files {
		p, f, err := verifyFile(con, name, c.Via)
		if err != nil {
			if _, ok := errors.AsType[*os.PathError](err); !ok { // that one names the file
				err = fmt.Errorf("%s: %w", name, err)
			}
			fmt.Fprintf(con.err, "flagstead: %v\n", err)
			broken++
			continue
		}
		con.printf("%s: %d passed, %d failed\n", name, p, f)
		passed += p
		failed += f
	}
	con.printf("%d passed, %d failed\n", passed, failed)
	if failed+broken > 0 {
		return errSilent
	}
	return nil
}

// maxCases bounds a file of cases.
const maxCases = 256 << 20

func verifyFile(con *console, name, via string) (passed, failed int, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, 0, err
	}
	if info.Size() > maxCases {
		return 0, 0, fmt.Errorf("is larger than %d bytes", maxCases)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, 0, err
	}
	f, err := verify.Parse(text)
	if err != nil {
		return 0, 0, err
	}
	evaluate, stop, err := evaluator(f, via)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	for i, tc := range f.Cases {
		if err := tc.Expect.Check(evaluate(tc)); err != nil {
			failed++
			con.printf("FAIL %s case %d, flag %q, user %s:\n     %s\n", name, i+1, tc.FlagKey, tc.User,
				strings.ReplaceAll(err.Error(), "\n", "\n     "))
			continue
		}
		passed++
	}
	return passed, failed, nil
}

// evaluator returns what evaluates the cases of f, and what ends it.
func evaluator(f *verify.File, via string) (evaluate func(verify.Case) verify.Outcome, stop func(), err error) {
	if via == "engine" {
		set, err := f.Load()
		return func(c verify.Case) verify.Outcome { return verify.Evaluate(set, c) }, func() {}, err
	}
	sink := &lastEvent{}
	client, err := sdk.New(sdk.Config{Offline: true, Bootstrap: f.Bootstrap, EventSink: sink})
	if err != nil {
		return nil, nil, plain(err)
	}
	evaluate = func(c verify.Case) verify.Outcome {
		sink.event = nil
		u, userErr := sdk.ParseUser(c.User) // a bad user is a case of its own
		d := client.VariationDetail(c.FlagKey, u, c.Default)
		out := verify.Outcome{Value: d.Value, Reason: d.Reason.String()}
		switch d.Reason {
		case sdk.ReasonBadUser:
			out.Err = userErr
		case sdk.ReasonError:
			out.Err = plain(d.Err)
		}
		if sink.event != nil {
			out.VariationID, out.SendToExperiment = sink.event.VariationID, sink.event.SendToExperiment
		}
		return out
	}
	return evaluate, func() { client.Close(context.Background()) }, nil
}

// lastEvent keeps the event of the last evaluation. One goroutine evaluates.
type lastEvent struct{ event *sdk.Event }

func (l *lastEvent) Record(e sdk.Event) { l.event = &e }

func (*lastEvent) Flush(context.Context) error { return nil }
