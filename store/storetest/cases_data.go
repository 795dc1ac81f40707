package storetest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/flagstead/flagstead/store"
)

// documents are Data that a store might be tempted to touch.
func documents() map[string][]byte {
	megabyte := append([]byte(`{"big":"`), bytes.Repeat([]byte("0123456789abcdef"), 1<<16)...)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	return map[string][]byte{
		"spaces":    []byte(" {\n\t\"b\" : 1 ,\r\n \"a\" : 2 } \n"),
		"numbers":   []byte(`{"n":1.0,"m":1e400,"k":12345678901234567890,"z":-0}`),
		"twice":     []byte(`{"a":1,"a":2}`),
		"unicode":   []byte(`{"name":"flagge ⚑ флаг 旗 🏳️‍🌈` + "\u2028\u2029\ufeff" + `"}`),
		"escapes":   []byte(`{"a":"\u003c\u00e9\/\"\\","b":"<>&'` + "`" + `"}`),
		"quotes":    []byte(`{"rules":"[{\"value\":\"[\\\"x\\\"]\"}]"}`),
		"lines":     []byte("line\nline\r\nline\r"),
		"not json":  []byte(`{"a":`),
		"text":      []byte("plain text, %s $1 ${x} {{y}} -- ; DROP TABLE flags"),
		"nul":       []byte("a\x00b"),
		"not utf-8": {0xff, 0xfe, 0xc3, 0x28},
		"every":     every,
		"null":      []byte("null"),
		"empty":     {},
		"nothing":   nil,
		"megabyte":  append(megabyte, `"}`...),
	}
}

// keys are keys that a store might take for something else.
func keys() []string {
	return []string{
		"a", "A", " a", "a ", " ", "two words", "a/b", "/", "../a", "..", ".", "a\\b", "{a}", "{", "}", "{}",
		"a:b", ":", "flag:a", "segment:a", "1:a", "1", "2", "0", "-1", "*", "a*", "?", "[a]", "a\nb", "a\tb", "a\x00b",
		"a\x00", "$", "$a", "a,b", `"a"`, "'", "`", "%s", "%2F", "a%20b", "#", "a=b", "&", "<a>", "null", "true",
		"__proto__", "rev", "version", "archived", "CON", "nul", "~", "a.json", ".tmp", "-", "--help",
		"ключ", "键", "🏳️‍🌈", "é", "e\u0301", "\u2028", strings.Repeat("k", 1<<10), strings.Repeat("k", 1<<10-1) + "l",
		"3f2504e0-4f89-11d3-9a0c-0305e82c3301",
	}
}

var dataCases = []testCase{
	{
		name:  "data-is-exact",
		rule:  "Data is opaque: Load returns the very bytes that were applied.",
		needs: wantOther,
		run: func(c *tester) {
			var items []store.Item
			for name, data := range documents() {
				it := store.Item{Kind: store.Flag, Key: name, Version: 1, Data: bytes.Clone(data)}
				seg := store.Item{Kind: store.Segment, Key: name, Version: 1, Archived: true, Data: bytes.Clone(data)}
				items = append(items, it, seg)
			}
			c.apply(c.s, patch(slices.Clone(items)...))
			c.sees(c.s, items...)
			if c.other != nil {
				c.sees(c.other, items...)
			}
			// As part of a Delta, too.
			v := c.all(c.s)
			for i := range items {
				items[i].Version++
			}
			c.apply(c.s, patch(slices.Clone(items)...))
			c.expectAfter(c.s, v, items...)
		},
	},
	{
		name:  "keys-are-exact",
		rule:  "A key is any text that is not empty, and different keys are different items.",
		needs: wantOther,
		run: func(c *tester) {
			var items []store.Item
			for i, key := range keys() {
				items = append(items, flag(key, int64(i+1)), segment(key, int64(i+2)))
			}
			c.apply(c.s, full(slices.Clone(items)...))
			c.sees(c.s, items...)
			if c.other != nil {
				c.sees(c.other, items...)
			}
			v := c.all(c.s)
			c.applyKeeps(c.s, v.rev, patch(slices.Clone(items)...))
			for i := range items {
				items[i].Version += 1000
				items[i].Archived = i%3 == 0
			}
			c.apply(c.s, patch(slices.Clone(items)...))
			v = c.expectAfter(c.s, v, items...)
			c.apply(c.s, full(slices.Clone(items[10:20])...))
			c.expectAfter(c.s, v, items[10:20]...)
			c.expect(c.s, items[10:20]...)
		},
	},
	{
		name: "caller-reuses-items",
		rule: "Apply keeps no reference to the slice c.Items.",
		run: func(c *tester) {
			buf := make([]store.Item, 3)
			scratch := func() {
				for i := range buf {
					buf[i] = flag("scratch", 99)
				}
			}
			copy(buf, []store.Item{flag("a", 1), flag("b", 1), segment("a", 1)})
			c.apply(c.s, full(buf...))
			scratch()
			v := c.expect(c.s, flag("a", 1), flag("b", 1), segment("a", 1))
			copy(buf, []store.Item{flag("a", 2), flag("c", 1), segment("a", 2)})
			c.apply(c.s, patch(buf...))
			scratch()
			c.expect(c.s, flag("a", 2), flag("b", 1), flag("c", 1), segment("a", 2))
			c.expectAfter(c.s, v, flag("a", 2), flag("b", 1), flag("c", 1), segment("a", 2))
			clear(buf)
			c.expect(c.s, flag("a", 2), flag("b", 1), flag("c", 1), segment("a", 2))
		},
	},
	{
		name: "apply-leaves-the-change-alone",
		rule: "Apply takes over Data but does not modify the caller's Items.",
		run: func(c *tester) {
			items := []store.Item{flag("b", 2), flag("a", 1), flag("b", 3), segment("a", 1), flag("a", 0)}
			for _, isFull := range []bool{false, true, false} {
				given := slices.Clone(items)
				c.apply(c.s, store.Change{Full: isFull, Items: given})
				for i := range items {
					if !same(given[i], items[i]) {
						c.fatalf("item %d of the change was %s, is %s after Apply", i, show(items[i]), show(given[i]))
					}
				}
			}
		},
	},
	{
		name: "a-loaded-snapshot-stays",
		rule: "Items are values: the caller may keep what Load returned, and later changes do not show in it.",
		run: func(c *tester) {
			c.apply(c.s, full(flag("a", 1), flag("b", 1)))
			v := c.expect(c.s, flag("a", 1), flag("b", 1))
			before := c.load(c.s, "")
			c.apply(c.s, patch(flag("a", 2)))
			delta := c.load(c.s, v.rev)
			c.apply(c.s, full(flag("a", 1, "other"), flag("c", 1)))
			if d := diff(contentOf(before.Items...), contentOf(flag("a", 1), flag("b", 1))); d != "" {
				c.fatalf("a Snapshot loaded before two changes: %s", d)
			}
			if d := diff(v.follow(delta).items, contentOf(flag("a", 2), flag("b", 1))); d != "" {
				c.fatalf("a Snapshot loaded before a change: %s", d)
			}
			// The Items of a Snapshot are the caller's own.
			now := c.load(c.s, "")
			for i := range now.Items {
				now.Items[i] = flag("scratch", 99)
			}
			_ = append(now.Items[:0], flag("scratch", 100))
			c.expect(c.s, flag("a", 1, "other"), flag("c", 1))
		},
	},
	{
		name:  "many-items",
		rule:  "A store holds thousands of items, all visible at once.",
		needs: wantOther,
		run: func(c *tester) {
			items := make([]store.Item, 2000)
			for i := range items {
				k := store.Flag
				if i%10 == 0 {
					k = store.Segment
				}
				items[i] = item(k, fmt.Sprintf("item-%04d", i), int64(1_700_000_000_000+i), strings.Repeat("x", 500))
			}
			rev := c.apply(c.s, full(slices.Clone(items)...))
			v := c.expect(c.s, items...)
			reversed := slices.Clone(items)
			slices.Reverse(reversed)
			c.applyKeeps(c.s, rev, full(reversed...))
			c.applyKeeps(c.s, rev, patch(slices.Clone(reversed)...))
			for i := 0; i < len(items); i += 2 {
				items[i].Version++
			}
			c.apply(c.s, patch(slices.Clone(items)...))
			c.expectAfter(c.s, v, items...)
			if c.other != nil {
				c.sees(c.other, items...)
			}
			c.apply(c.s, full(slices.Clone(items[:1500])...))
			c.expectAfter(c.s, v, items[:1500]...)
		},
	},
}
