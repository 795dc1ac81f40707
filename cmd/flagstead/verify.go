package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/flagstead/flagstead/internal/flags"
	"github.com/flagstead/flagstead/internal/verify"
)

type verifyCmd struct {
	Files       []string `arg:"" optional:"" placeholder:"CASES.json" type:"path" help:"Files of cases: {\"bootstrap\": …, \"cases\": [{\"flagKey\", \"user\", \"default\", \"expect\"}]}."`
	Differences bool     `help:"List the intended differences from FeatBit's Python SDK."`
}

// Run runs the files. Its last line is "N passed, N failed".
func (c *verifyCmd) Run(con *console) error {
	if c.Differences {
		for _, d := range flags.Differences {
			con.printf("%s\n  Python: %s\n  here:   %s\n  reason: %s\n\n", d.Name, d.Python, d.Here, d.Reason)
		}
		con.printf("%s\n", plural(len(flags.Differences), "intended difference"))
		return nil
	}
	if len(c.Files) == 0 {
		return errors.New("no files of cases given")
	}
	passed, failed := 0, 0
	for _, name := range c.Files {
		p, f, err := verifyFile(con, name)
		if _, ok := errors.AsType[*os.PathError](err); ok {
			return err // it names the file
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		con.printf("%s: %d passed, %d failed\n", name, p, f)
		passed += p
		failed += f
	}
	con.printf("%s from FeatBit's Python SDK, none of which excepts a case (see --differences)\n", plural(len(flags.Differences), "intended difference"))
	con.printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return errSilent
	}
	return nil
}

// maxCases bounds a file of cases.
const maxCases = 256 << 20

func verifyFile(con *console, name string) (passed, failed int, err error) {
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
	set, err := f.Load()
	if err != nil {
		return 0, 0, err
	}
	for i, tc := range f.Cases {
		if err := tc.Expect.Check(verify.Evaluate(set, tc)); err != nil {
			failed++
			con.printf("FAIL %s case %d, flag %q, user %s:\n     %s\n", name, i+1, tc.FlagKey, tc.User,
				strings.ReplaceAll(err.Error(), "\n", "\n     "))
			continue
		}
		passed++
	}
	return passed, failed, nil
}
