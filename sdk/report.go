package sdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/flagstead/flagstead/store"
)

const (
	// reportEvery is the time between two reports of a client whose flags do not
	// change, and reportPause the least one between any two.
	reportEvery = store.ReportLife / 3
	reportPause = 250 * time.Millisecond

	// reportLimit bounds the writing of one, and lastLimit that of the last one,
	// which Close waits for.
	reportLimit = 5 * time.Second
	lastLimit   = 500 * time.Millisecond
)

// reporters counts the clients of this process that report.
var reporters atomic.Int64

// checkReport fills in what Config leaves empty, or says what is wrong with it.
func (p *plan) checkReport() error {
	if !p.Report {
		return nil
	}
	if _, ok := p.Store.(store.ReportWriter); !ok {
		return errors.New("sdk: Config has Report, but not a Store that takes reports")
	}
	if p.ReportName == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		p.ReportName = fmt.Sprintf("%.200s-%d-%d", host, os.Getpid(), reporters.Add(1))
	}
	if p.ReportVersion == "" {
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path != "" {
			p.ReportVersion = fmt.Sprintf("%.100s %.100s", path.Base(info.Main.Path), info.Main.Version)
		}
	}
	if err := (store.Report{Reader: p.ReportName, Version: p.ReportVersion}).Check(); err != nil {
		return fmt.Errorf("sdk: Report: %w", err)
	}
	return nil
}

// reportTo tells w which state the client works on, until ctx ends.
func (c *Client) reportTo(ctx context.Context, w store.ReportWriter) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	said := false
	for {
		err := c.writeReport(ctx, w, reportLimit, false)
		switch {
		case ctx.Err() != nil:
			// Best said at once: who is gone should not be waited for.
			if err := c.writeReport(context.WithoutCancel(ctx), w, lastLimit, true); err != nil && !said {
				c.plan.Logger.Info("the store cannot be told that this reader stops", "error", err)
			}
			return
		case err != nil && !said:
			c.plan.Logger.Warn("the store cannot be told what this reader has", "error", err)
			said = true
		case err == nil:
			said = false
		}
		// Several changes in a row share a report.
		select {
		case <-ctx.Done():
			continue
		case <-time.After(reportPause):
		}
		select {
		case <-ctx.Done():
		case <-c.applied:
		case <-tick.C:
		}
	}
}

func (c *Client) writeReport(ctx context.Context, w store.ReportWriter, limit time.Duration, last bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.mu.Lock()
	r := store.Report{Reader: c.plan.ReportName, Version: c.plan.ReportVersion, Rev: c.rev, Applied: c.revAt, State: c.status.State.String()}
	c.mu.Unlock()
	if last {
		r.State = Off.String()
	} else if r.State == Off.String() {
		r.State = Interrupted.String() // not closed yet, but without a source for good
	}
	return w.WriteReport(ctx, r)
}
