package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/flagstead/flagstead/bench"
)

type page struct {
	*results
	rounds int
	date   time.Time
	took   time.Duration
}

const ns = "sec/op"

func (p *page) eval(peer string, events, c string) figure {
	return p.get(ns, "Eval/peer=%s/events=%s/case=%s", peer, events, c)
}

// others are the peers that are SDKs of others.
func others() []bench.Peer {
	return slices.DeleteFunc(bench.Peers(), func(p bench.Peer) bool { return p.Name == "floor" || p.Name == "flagstead" })
}

// best returns the best of the other peers.
func best(of func(bench.Peer) figure) (bench.Peer, figure) {
	var winner bench.Peer
	var least figure
	for _, p := range others() {
		if f := of(p); f.ok && (!least.ok || f.mid < least.mid) {
			winner, least = p, f
		}
	}
	return winner, least
}

func duration(f figure) string {
	if !f.ok {
		return "–"
	}
	return fmt.Sprintf("%s ±%.0f%%", short(f.mid), f.spread())
}

func count(f figure) string {
	if !f.ok {
		return "–"
	}
	return fmt.Sprintf("%.0f", f.mid)
}

func short(sec float64) string {
	switch {
	case sec < 1e-6:
		return fmt.Sprintf("%.3g ns", 1e9*sec)
	case sec < 1e-3:
		return fmt.Sprintf("%.3g µs", 1e6*sec)
	case sec < 1:
		return fmt.Sprintf("%.3g ms", 1e3*sec)
	}
	return fmt.Sprintf("%.3g s", sec)
}

func ratio(a, b figure) string {
	if !a.ok || !b.ok {
		return "–"
	}
	return fmt.Sprintf("%.2f", a.mid/b.mid)
}

// verdicts says for each row who is faster and by how much.
func (p *page) verdicts() (lines []string) {
	say := func(what string, of func(bench.Peer) figure, ours figure) {
		peer, f := best(of)
		switch {
		case !f.ok || !ours.ok:
		case f.mid < ours.mid:
			lines = append(lines, fmt.Sprintf("%s: **%s wins**: %.2f times Flagstead's figure", what, peer.Title, f.mid/ours.mid))
		default:
			lines = append(lines, fmt.Sprintf("%s: Flagstead, %.1f times better than %s", what, f.mid/ours.mid, peer.Title))
		}
	}
	for _, events := range []string{"off", "on"} {
		for _, c := range bench.Cases {
			say(fmt.Sprintf("%s, events %s", c, events), func(o bench.Peer) figure { return p.eval(o.Name, events, string(c)) }, p.eval("flagstead", events, string(c)))
		}
	}
	one := func(name, unit, what string) {
		say(what, func(o bench.Peer) figure { return p.get(unit, "%s/peer=%s", name, o.Name) }, p.get(unit, "%s/peer=flagstead", name))
	}
	one("All", ns, "all of 1,000 flags")
	one("Load", ns, "load of 10,000 flags")
	one("Memory", "heapB/flag", "heap per flag that was loaded")
	one("Memory", "rssB/flag", "resident memory per flag that was loaded")
	one("Memory", "usedheapB/flag", "heap per flag that was evaluated")
	one("Memory", "usedrssB/flag", "resident memory per flag that was evaluated")
	return lines
}

func (p *page) markdown() []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	row := func(cells ...string) { line("| %s |", strings.Join(cells, " | ")) }
	head := func(cells ...string) {
		row(cells...)
		row(slices.Repeat([]string{"---"}, len(cells))...)
	}
	line("# Benchmarks\n")
	line("Written by `make bench` on %s; nothing here was typed by hand. %s.", p.date.UTC().Format("2 January 2006"), machine())
	line("%d rounds in %s, each SDK in a process of its own and all of them in turn; medians, and how far", p.rounds, p.took.Round(time.Second))
	line("from them the interval of 95 %% confidence reaches (or, of few rounds, the farthest figure).")
	line("Compare within a table: another machine has other figures.\n")
	line("![Time of one evaluation](benchmarks.svg)\n")
	line("All SDKs have the same 1,000 or 10,000 flags, each in its vendor's own format and by its vendor's")
	line("own loading; a test holds them to the same answers first. \"%s\" is %s", p.peer("floor").Title, p.peer("floor").Note)
	line("(bench/floor.go). With events, every SDK delivers to a transport that takes everything.\n")
	head("SDK", "version", "remark")
	for _, o := range bench.Peers() {
		row(o.Title, cmp.Or(strings.TrimPrefix(o.Version(), "v0.0.0"), "this repository"), o.Note) // v0.0.0: replaced by it
	}
	line("\nSDKs that cannot be had as plain Go modules from a module proxy, or that only ask a server, are not here.\n")

	line("## Who wins\n")
	for _, v := range p.verdicts() {
		line("- %s", v)
	}
	for _, events := range []string{"off", "on"} {
		line("\n## One evaluation, events %s\n", events)
		line("One flag of 1,000 again and again, by one caller. What Flagstead takes to the bare loop is the median of")
		line("pairs of short runs in one process, because the speed of a shared machine changes from second to second.\n")
		cells := []string{"flag"}
		for _, o := range bench.Peers() {
			cells = append(cells, o.Title)
		}
		head(append(cells, "Flagstead to bare loop", "best other to Flagstead")...)
		for _, c := range bench.Cases {
			cells := []string{string(c)}
			for _, o := range bench.Peers() {
				cells = append(cells, duration(p.eval(o.Name, events, string(c))))
			}
			ours := p.eval("flagstead", events, string(c))
			_, other := best(func(o bench.Peer) figure { return p.eval(o.Name, events, string(c)) })
			bare := p.get("times", "Ratio/events=%s/case=%s", events, c)
			row(append(cells, fmt.Sprintf("%.2f ±%.0f%%", bare.mid, bare.spread()), ratio(other, ours))...)
		}
	}
	line("\n## All processors\n")
	line("How many times as many evaluations per second all processors do as one does; short runs of both in turn, of which the fastest count.\n")
	head("flag", "bare loop, events off", "on", "Flagstead, events off", "on")
	for _, c := range bench.Cases {
		cells := []string{string(c)}
		for _, peer := range []string{"floor", "flagstead"} {
			for _, events := range []string{"off", "on"} {
				f := p.get("times", "Scale/peer=%s/events=%s/case=%s", peer, events, c)
				cells = append(cells, fmt.Sprintf("%.2f ±%.0f%%", f.mid, f.spread()))
			}
		}
		row(cells...)
	}
	line("\n## Allocations of one evaluation\n")
	head("SDK", "events off, at most", "on, at most")
	for _, o := range bench.Peers() {
		cells := []string{o.Title}
		for _, events := range []string{"off", "on"} {
			most := figure{}
			for _, c := range bench.Cases {
				if f := p.get("allocs/op", "Eval/peer=%s/events=%s/case=%s", o.Name, events, c); f.ok && (!most.ok || f.mid > most.mid) {
					most = f
				}
			}
			cells = append(cells, count(most))
		}
		row(cells...)
	}
	line("\n## All of 1,000 flags for one user\n")
	head("SDK", "time", "allocations")
	for _, o := range bench.Peers() {
		row(o.Title, duration(p.get(ns, "All/peer=%s", o.Name)), count(p.get("allocs/op", "All/peer=%s", o.Name)))
	}
	line("\n## Load of 10,000 flags, and memory\n")
	line("From the vendor's document in memory to the first right value. Memory per flag, document")
	line("included where the SDK keeps it: after loading, and after every flag was evaluated once.\n")
	head("SDK", "load", "allocations", "document, B/flag", "heap, B/flag", "resident", "heap, all evaluated", "resident")
	for _, o := range bench.Peers() {
		if o.NoLoad {
			continue
		}
		cells := []string{o.Title, duration(p.get(ns, "Load/peer=%s", o.Name)), count(p.get("allocs/op", "Load/peer=%s", o.Name))}
		for _, unit := range []string{"docB/flag", "heapB/flag", "rssB/flag", "usedheapB/flag", "usedrssB/flag"} {
			cells = append(cells, count(p.get(unit, "Memory/peer=%s", o.Name)))
		}
		row(cells...)
	}
	line("\n## From start to the first evaluation\n")
	line("Flags of 2 KB. The bare way: reading all tokens of the file, going through the database, HGETALL.\n")
	head("store", "flags", "bare", "Flagstead", "ratio")
	for _, store := range []string{"file", "bolt", "redis"} {
		for _, n := range []string{"100", "10000", "100000"} {
			bare, ours := p.get(ns, "Start/store=%s/flags=%s/peer=floor", store, n), p.get(ns, "Start/store=%s/flags=%s/peer=flagstead", store, n)
			row(store, n, duration(bare), duration(ours), ratio(ours, bare))
		}
	}
	line("\nOnce they are loaded, it does not matter where they live: one evaluation of such a flag in Redis, of 16 rules, takes %s.", duration(p.get(ns, "Stores/peer=flagstead/store=redis")))
	line("\n## From a change at FeatBit to the reader\n")
	line("A flag changes at the server, which a relay plays; the syncer gets it over its WebSocket and writes it into the")
	line("store; a client that reads the store by another handle tells its listener, which evaluates the flag. Without a")
	line("store the client is connected itself. All in one process; milliseconds; flags of 2 KB. The file is written")
	line("and read whole, and is on disk (fsync) before it is seen.\n")
	head("store", "flags", "half of all within", "99 of 100 within")
	for _, store := range []string{"none", "memory", "redis", "bolt", "file"} {
		for _, n := range []string{"1000", "10000"} {
			cells := []string{store, n}
			for _, unit := range []string{"p50-ms", "p99-ms"} {
				f := p.get(unit, "Change/store=%s/flags=%s", store, n)
				cells = append(cells, fmt.Sprintf("%.2f ±%.0f%%", f.mid, f.spread()))
			}
			row(cells...)
		}
	}
	line("\n## Memory of a process that only reads\n")
	line("Of 10,000 flags of 2 KB that were loaded and not evaluated: what each takes beyond its JSON, and what the process")
	line("takes that has no flags. Where the JSON of each has memory of its own (offline, redis), %s bytes of it are what",
		count(p.get("rounding-B/flag", "Reader/store=redis")))
	line("Go's allocator rounds up for this size.\n")
	head("store", "heap beyond the JSON, B/flag", "resident, B/flag", "process without flags, MB")
	for _, store := range []string{"offline", "redis", "bolt", "file"} {
		cells := []string{store}
		for _, unit := range []string{"heap-beyond-B/flag", "rss-beyond-B/flag"} {
			cells = append(cells, count(p.get(unit, "Reader/store=%s", store)))
		}
		none := p.get("none-B", "Reader/store=%s", store)
		none.mid /= 1e6
		row(append(cells, count(none))...)
	}
	return b.Bytes()
}

func (p *page) peer(name string) bench.Peer {
	list := bench.Peers()
	return list[slices.IndexFunc(list, func(o bench.Peer) bool { return o.Name == name })]
}

// chart draws the time of one evaluation with events, on a logarithmic scale.
func (p *page) chart() []byte {
	const left, width, bar, gap, top = 90, 560, 9, 14, 62
	colours := []string{"#9aa0a6", "#0b7a75", "#c8553d", "#e9a23b", "#7b5ea7", "#3d7dca", "#b56576"}
	var shown []bench.Peer
	for _, o := range bench.Peers() {
		if !o.NoEvents {
			shown = append(shown, o)
		}
	}
	lo, hi := math.Inf(1), 0.0
	for _, o := range shown {
		for _, c := range bench.Cases {
			if f := p.eval(o.Name, "on", string(c)); f.ok {
				lo, hi = min(lo, f.mid), max(hi, f.mid)
			}
		}
	}
	lo, hi = math.Pow(10, math.Floor(math.Log10(lo))), math.Pow(10, math.Ceil(math.Log10(hi)))
	x := func(sec float64) float64 { return left + width*math.Log(sec/lo)/math.Log(hi/lo) }
	height := top + len(bench.Cases)*(len(shown)*bar+gap) + 30
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 %d" font-family="sans-serif" font-size="11">`+"\n", height)
	fmt.Fprintf(&b, `<rect width="760" height="%d" fill="#fff"/><text x="10" y="20" font-size="14">One evaluation with events on, one caller (logarithmic; shorter is better)</text>`+"\n", height)
	at := 10
	for i, o := range shown {
		fmt.Fprintf(&b, `<rect x="%d" y="32" width="10" height="10" fill="%s"/><text x="%d" y="41">%s</text>`+"\n", at, colours[i%len(colours)], at+14, o.Title)
		at += 32 + 7*len(o.Title)
	}
	for sec := lo; sec <= hi*1.001; sec *= 10 {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle" fill="#555">%s</text>`+"\n", x(sec), top-6, x(sec), height-26, x(sec), height-10, short(sec))
	}
	y := top
	for _, c := range bench.Cases {
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, y+len(shown)*bar/2+4, c)
		for i, o := range shown {
			if f := p.eval(o.Name, "on", string(c)); f.ok {
				fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" font-size="8">%s</text>`+"\n",
					left, y, max(x(f.mid)-left, 1), bar-1, colours[i%len(colours)], x(f.mid)+4, y+bar-2, short(f.mid))
			}
			y += bar
		}
		y += gap
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
