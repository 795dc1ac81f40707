package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/flagstead/flagstead/store"
)

type diffCmd struct {
	place
	From string `arg:"" help:"Number of a revision, see flagstead revisions."`
	To   string `arg:"" optional:"" default:"now" help:"Another one, or what is published (now, the default)."`
	JSON bool   `help:"Print JSON."`
}

// Run prints what differs between two revisions.
func (c *diffCmd) Run(ctx context.Context, con *console) error {
	st, ctx, done, err := c.open(ctx, con)
	if err != nil {
		return err
	}
	defer done()
	var states [2][]store.Item
	for i, text := range []string{c.From, c.To} {
		if states[i], err = c.at(ctx, st, text); err != nil {
			return err
		}
	}
	d := compare(states[0], states[1])
	if c.JSON {
		enc := json.NewEncoder(con.out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(append([]difference{}, d...))
	}
	for _, x := range d {
		if x.What != "touched" {
			con.printf("%s\n", x)
		}
	}
	con.printf("%s to %s: %s\n", c.From, c.To, d.summary())
	return nil
}

// at returns a state by its number, or by the word now.
func (p *place) at(ctx context.Context, st store.DataStore, text string) ([]store.Item, error) {
	if text == "now" {
		snap, err := st.Load(ctx, "")
		if err != nil {
			return nil, p.failed(ctx, err)
		}
		return snap.Items, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, usageError(fmt.Sprintf("%q is no revision: give a number, or now", text))
	}
	h, err := p.history(st)
	if err != nil {
		return nil, err
	}
	snap, err := p.revision(ctx, h, n)
	return snap.Items, err
}

// A difference is what became of one flag or segment.
type difference struct {
	Kind    string   `json:"kind"` // flag or segment
	Key     string   `json:"key"`  // of a segment its id
	Name    string   `json:"name,omitempty"`
	What    string   `json:"what"` // added, removed, changed, archived, restored, or touched: saved, but the same
	Changes []string `json:"changes,omitempty"`
}

func (d difference) String() string {
	sign := map[string]string{"added": "+", "restored": "+", "removed": "-", "archived": "-"}[d.What]
	text := cmp.Or(sign, "~") + " "
	if d.Kind == store.Segment.String() {
		text += "segment "
	}
	text += clean(d.Key)
	if d.Kind == store.Segment.String() && d.Name != "" {
		text += " (" + clean(d.Name) + ")"
	}
	text += ": " + d.What
	for _, change := range d.Changes {
		text += "\n    " + change
	}
	return text
}

type differences []difference

func (d differences) empty() bool { return len(d) == 0 }

// summary counts.
func (d differences) summary() string {
	if len(d) == 0 {
		return "no difference"
	}
	counts := map[string]int{}
	for _, x := range d {
		counts[x.What]++
	}
	var parts []string
	for _, what := range []string{"changed", "added", "removed", "archived", "restored", "touched"} {
		if n := counts[what]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	return strings.Join(parts, ", ")
}

// compare returns what differs from a to b, by kind and key.
func compare(a, b []store.Item) differences {
	was, is := byID(a), byID(b)
	ids := slices.Collect(maps.Keys(was))
	for id := range is {
		if _, ok := was[id]; !ok {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(x, y store.ID) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), strings.Compare(x.Key, y.Key))
	})
	var out differences
	for _, id := range ids {
		old, had := was[id]
		now, has := is[id]
		d := difference{Kind: id.Kind.String(), Key: id.Key}
		switch {
		case !had:
			d.What = "added"
		case !has:
			d.What = "removed"
		case old.Version == now.Version && old.Archived == now.Archived && bytes.Equal(old.Data, now.Data):
			continue
		case now.Archived && !old.Archived:
			d.What = "archived"
		case old.Archived && !now.Archived:
			d.What = "restored"
		default:
			d.What = "changed"
		}
		before, after := members(old.Data), members(now.Data)
		d.Name = textOf(after["name"], textOf(before["name"], ""))
		if had && has {
			if d.Changes = changes(before, after); len(d.Changes) == 0 && d.What == "changed" {
				d.What = "touched"
			}
		}
		out = append(out, d)
	}
	return out
}

func byID(items []store.Item) map[store.ID]store.Item {
	m := make(map[store.ID]store.Item, len(items))
	for _, it := range items {
		m[it.ID()] = it
	}
	return m
}

func members(data []byte) map[string]any {
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if d.Decode(&m) != nil {
		return map[string]any{"text": string(data)} // what is no flag differs as text
	}
	return m
}

func textOf(v any, otherwise string) string {
	if s, ok := v.(string); ok {
		return s
	}
	return otherwise
}

// ignored members change with every edit, or say nothing of what is served.
var ignored = map[string]bool{"updatedAt": true, "updatorId": true, "createdAt": true, "creatorId": true, "isArchived": true, "revision": true}

// changes says in words what differs between two flags, or segments.
func changes(before, after map[string]any) []string {
	keys := slices.Collect(maps.Keys(before))
	for k := range after {
		if _, ok := before[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	names := variationNames(before, after)
	var out []string
	for _, k := range keys {
		a, b := before[k], after[k]
		if ignored[k] || asJSON(a) == asJSON(b) {
			continue
		}
		switch k {
		case "isEnabled":
			out = append(out, "enabled: "+show(a)+" → "+show(b))
		case "variations":
			out = append(out, listChanges("variation", "id", variationText, a, b)...)
		case "targetUsers":
			out = append(out, targetChanges(names, a, b)...)
		case "rules":
			out = append(out, listChanges("rule", "id", func(v any) string { return textOf(field(v, "name"), "without a name") }, a, b)...)
		case "fallthrough":
			out = append(out, "default rule: "+served(names, a)+" → "+served(names, b))
		case "disabledVariationId":
			out = append(out, "when off: "+nameOf(names, a)+" → "+nameOf(names, b))
		case "exptIncludeAllTargets":
			out = append(out, "experiments include all targets: "+show(a)+" → "+show(b))
		case "included", "excluded":
			out = append(out, userChanges(k, a, b))
		default:
			out = append(out, clean(k)+": "+show(a)+" → "+show(b))
		}
	}
	return out
}

func field(v any, name string) any {
	m, _ := v.(map[string]any)
	return m[name]
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

// show is a value on one line, cut short.
func show(v any) string {
	if v == nil {
		return "nothing"
	}
	text := []rune(clean(asJSON(v)))
	if len(text) > 80 {
		text = append(text[:79], '…')
	}
	return string(text)
}

// variationNames returns name or value by the ids of variations.
func variationNames(flags ...map[string]any) map[string]string {
	names := map[string]string{}
	for _, f := range flags {
		for _, v := range list(f["variations"]) {
			if id := textOf(field(v, "id"), ""); id != "" {
				names[id] = cmp.Or(textOf(field(v, "name"), ""), textOf(field(v, "value"), id))
			}
		}
	}
	return names
}

func nameOf(names map[string]string, id any) string {
	text := textOf(id, "")
	return clean(cmp.Or(names[text], text, "nothing"))
}

func variationText(v any) string {
	return fmt.Sprintf("%s = %s", textOf(field(v, "name"), "without a name"), textOf(field(v, "value"), ""))
}

// served says which variations a rule gives, and how often.
func served(names map[string]string, v any) string {
	var parts []string
	for _, s := range list(field(v, "variations")) {
		part := nameOf(names, field(s, "id"))
		if r := list(field(s, "rollout")); len(r) == 2 {
			from, err1 := strconv.ParseFloat(asJSON(r[0]), 64)
			to, err2 := strconv.ParseFloat(asJSON(r[1]), 64)
			if err1 == nil && err2 == nil && to-from < 1 {
				part += fmt.Sprintf(" %g%%", float64(int((to-from)*100_000+0.5))/1000)
			}
		}
		parts = append(parts, part)
	}
	if key := textOf(field(v, "dispatchKey"), ""); key != "" {
		parts = append(parts, "by "+clean(key))
	}
	return cmp.Or(strings.Join(parts, ", "), "nothing")
}

// listChanges compares members of lists by their id.
func listChanges(what, id string, text func(any) string, a, b any) (out []string) {
	was, is := map[string]any{}, map[string]any{}
	var order []string
	for i, v := range list(a) {
		k := textOf(field(v, id), strconv.Itoa(i))
		was[k] = v
		order = append(order, k)
	}
	moved := false
	at := 0
	for i, v := range list(b) {
		k := textOf(field(v, id), strconv.Itoa(i))
		is[k] = v
		if _, ok := was[k]; !ok {
			order = append(order, k)
			continue
		}
		now := slices.Index(order, k)
		moved = moved || now < at
		at = now
	}
	for _, k := range order {
		old, had := was[k]
		now, has := is[k]
		switch {
		case !had:
			out = append(out, fmt.Sprintf("%s added: %s", what, clean(text(now))))
		case !has:
			out = append(out, fmt.Sprintf("%s removed: %s", what, clean(text(old))))
		case asJSON(old) != asJSON(now):
			line := fmt.Sprintf("%s changed: %s", what, clean(text(now)))
			if before := text(old); before != text(now) {
				line = fmt.Sprintf("%s changed: %s → %s", what, clean(before), clean(text(now)))
			}
			out = append(out, line)
		}
	}
	if moved {
		out = append(out, what+"s are in another order")
	}
	return out
}

// targetChanges counts users per variation: their keys are nobody's business here.
func targetChanges(names map[string]string, a, b any) (out []string) {
	was, is := targets(a), targets(b)
	for _, id := range slices.Sorted(maps.Keys(union(was, is))) {
		added, removed := counts(was[id], is[id])
		if added+removed > 0 {
			out = append(out, fmt.Sprintf("targets of %s: %d added, %d removed", nameOf(names, id), added, removed))
		}
	}
	if len(out) == 0 {
		out = []string{"targets are in another order"}
	}
	return out
}

func targets(v any) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for _, t := range list(v) {
		id := textOf(field(t, "variationId"), "")
		if out[id] == nil {
			out[id] = map[string]bool{}
		}
		for _, key := range list(field(t, "keyIds")) {
			out[id][asJSON(key)] = true
		}
	}
	return out
}

func union(a, b map[string]map[string]bool) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

func counts(a, b map[string]bool) (added, removed int) {
	for k := range b {
		if !a[k] {
			added++
		}
	}
	for k := range a {
		if !b[k] {
			removed++
		}
	}
	return added, removed
}

func userChanges(what string, a, b any) string {
	set := func(v any) map[string]bool {
		out := map[string]bool{}
		for _, key := range list(v) {
			out[asJSON(key)] = true
		}
		return out
	}
	added, removed := counts(set(a), set(b))
	return fmt.Sprintf("users %s: %d added, %d removed", what, added, removed)
}
