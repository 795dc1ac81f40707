// Command report runs the benchmarks, each SDK in a process of its own and all of them
// in turn, and writes what it found as a page with a chart. Nothing on the page is typed
// by hand.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"

	"github.com/flagstead/flagstead/bench"
)

func main() {
	log.SetFlags(0)
	rounds := flag.Int("rounds", 12, "how often each SDK is measured")
	out := flag.String("o", "../docs", "directory of the page and the chart")
	flag.Parse()
	if err := run(*rounds, *out); err != nil {
		log.Fatal(err)
	}
}

func run(rounds int, out string) error {
	began := time.Now()
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "bench.test")
	if text, err := exec.Command("go", "test", "-c", "-o", binary, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("go test -c: %w\n%s", err, text)
	}
	if text, err := exec.Command(binary, "-test.run", "TestPeers").CombinedOutput(); err != nil {
		return fmt.Errorf("the SDKs do not give the same answers: %w\n%s", err, text)
	}
	r := results{samples: map[string]map[string][]float64{}}
	for i := range rounds {
		log.Printf("round %d of %d, %s", i+1, rounds, time.Since(began).Round(time.Second))
		for _, p := range bench.Peers() {
			jobs := [][2]string{{"Eval/peer=" + p.Name + "/", "40ms"}, {"All/peer=" + p.Name + "$", "40ms"}}
			if p.Name == "floor" || p.Name == "flagstead" {
				jobs = append(jobs, [2]string{"Scale/peer=" + p.Name + "/", "60x"})
			}
			if !p.NoLoad {
				jobs = append(jobs, [2]string{"Load/peer=" + p.Name + "$", "2x"})
				if i < 7 {
					jobs = append(jobs, [2]string{"Memory/peer=" + p.Name + "$", "1x"})
				}
			}
			for _, job := range jobs {
				if err := r.measure(binary, job[0], job[1]); err != nil {
					return err
				}
			}
		}
		starts := "Start/store=.*/flags=(100|10000)$/"
		if i < 2 {
			starts = "Start/"
		}
		jobs := [][2]string{{starts, "2x"}, {"Stores/", "40ms"}, {"Ratio/", "40x"}}
		if i < 3 {
			jobs = append(jobs, [2]string{"Change/", "100x"}, [2]string{"Reader/", "1x"})
		}
		for _, job := range jobs {
			if err := r.measure(binary, job[0], job[1]); err != nil {
				return err
			}
		}
	}
	page := page{results: &r, rounds: rounds, date: began, took: time.Since(began)}
	if err := os.WriteFile(filepath.Join(out, "benchmarks.md"), page.markdown(), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "benchmarks.svg"), page.chart(), 0o644); err != nil {
		return err
	}
	log.Printf("%s/benchmarks.md and benchmarks.svg, %s", out, time.Since(began).Round(time.Second))
	for _, line := range page.verdicts() {
		log.Print(line)
	}
	return nil
}

// results are measurements by the name of the benchmark and the unit.
type results struct {
	samples map[string]map[string][]float64
}

// measure runs the benchmarks that match.
func (r *results) measure(binary, match, benchtime string) error {
	cmd := exec.Command(binary, "-test.run", "^$", "-test.bench", match, "-test.benchtime", benchtime, "-test.timeout", "5m")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s%s", match, err, text, stderr.Bytes())
	}
	in := benchfmt.NewReader(bytes.NewReader(text), match)
	n := 0
	for in.Scan() {
		res, ok := in.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		name := string(res.Name.Full())
		if i := strings.LastIndexByte(name, '-'); i > 0 && strings.Trim(name[i+1:], "0123456789") == "" {
			name = name[:i]
		}
		if r.samples[name] == nil {
			r.samples[name] = map[string][]float64{}
		}
		for _, v := range res.Values {
			r.samples[name][v.Unit] = append(r.samples[name][v.Unit], v.Value)
		}
		n++
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("%s: %w", match, err)
	}
	if n == 0 {
		return fmt.Errorf("%s: nothing was measured", match)
	}
	return nil
}

// A figure is the median of the measurements, and how far they spread: the interval in
// which the median is with a confidence of 95 %, or all of them if they are few.
type figure struct {
	mid, lo, hi float64
	ok          bool
}

func (r *results) get(unit, format string, args ...any) figure {
	values := r.samples[fmt.Sprintf(format, args...)][unit]
	if len(values) == 0 {
		return figure{}
	}
	s := benchmath.NewSample(values, &benchmath.DefaultThresholds)
	sum := benchmath.AssumeNothing.Summary(s, 0.95)
	lo, hi := max(sum.Lo, s.Values[0]), min(sum.Hi, s.Values[len(s.Values)-1])
	return figure{sum.Center, lo, hi, true}
}

// spread is the larger side of the interval in percent of the median.
func (f figure) spread() float64 { return 100 * max(f.hi-f.mid, f.mid-f.lo) / f.mid }

// machine says what the figures were measured on.
func machine() string {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s/%s, %s, %d processors, %s", runtime.GOOS, runtime.GOARCH, model, runtime.NumCPU(), runtime.Version())
}
