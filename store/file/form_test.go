package file_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/storetest"
)

func zip(t testing.TB, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// yamlDocument is document, in YAML as people write it.
func yamlDocument(n int64, count int) []byte {
	text := []byte("# flags of the shop\nmessageType: data-sync\ndata:\n  eventType: full\n  featureFlags:\n")
	for i := range count {
		text = fmt.Appendf(text, "  - key: flag-%d\n    name: n%d\n    updatedAt: 1970-01-01T00:00:00.%03dZ\n    isArchived: false\n", i, n, n)
	}
	return append(text, "  segments: []\n"...)
}

var forms = map[string]func(t testing.TB, n int64, count int) []byte{
	"flags.json":    func(_ testing.TB, n int64, count int) []byte { return document(n, count) },
	"flags":         func(_ testing.TB, n int64, count int) []byte { return document(n, count) },
	"flags.yaml":    func(_ testing.TB, n int64, count int) []byte { return yamlDocument(n, count) },
	"FLAGS.YML":     func(_ testing.TB, n int64, count int) []byte { return yamlDocument(n, count) },
	"flags.json.gz": func(t testing.TB, n int64, count int) []byte { return zip(t, document(n, count)) },
	"flags.yaml.gz": func(t testing.TB, n int64, count int) []byte { return zip(t, yamlDocument(n, count)) },
	"flags.yml.gz":  func(t testing.TB, n int64, count int) []byte { return zip(t, yamlDocument(n, count)) },
}

func TestTheNameSaysWhatIsInTheFile(t *testing.T) {
	for name, make := range forms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), name)
			write(t, path, make(t, 1, count))
			got := followed(t, open(t, path, &file.Options{ReadOnly: true}))
			awaitGeneration(t, got, count, 1, time.Now())
			replace(t, path, make(t, 2, count))
			awaitGeneration(t, got, count, 2, time.Now())
		})
	}
}

func TestYAMLHasTheItemsOfTheSameJSON(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f.json"), document(7, count))
	write(t, filepath.Join(dir, "f.yaml"), yamlDocument(7, count))
	want := map[string]string{}
	for _, it := range load(t, open(t, filepath.Join(dir, "f.json"), nil)).Items {
		want[it.Key] = fmt.Sprint(it.Version, it.Archived, string(it.Data))
	}
	got := load(t, open(t, filepath.Join(dir, "f.yaml"), &file.Options{ReadOnly: true})).Items
	for _, it := range got {
		if text := fmt.Sprint(it.Version, it.Archived, string(it.Data)); text != want[it.Key] {
			t.Errorf("flag %s is %s, want %s", it.Key, text, want[it.Key])
		}
	}
	if len(got) != count {
		t.Errorf("%d flags, want %d", len(got), count)
	}
}

// What is wrong is said with the place in the text that was written, whichever
// the form and whether it is the syntax, the shape or an item.
func TestErrorsNameThePlace(t *testing.T) {
	const head = "messageType: data-sync\ndata:\n  eventType: full\n"
	for _, test := range []struct{ name, file, text, want string }{
		{"envelope", "f.json", "{\n \"messageType\": \"pong\"}", `line 2, column 17: not a FeatBit data-sync document: messageType is "pong"`},
		{"no envelope", "f.json", "\n {\"flags\": []}", "line 2, column 2: not a FeatBit"},
		{"null data", "f.json", "{\"messageType\":\"data-sync\",\n\"data\": null}", "line 2, column 9: not a FeatBit"},
		{"event", "f.json", "{\"messageType\":\"data-sync\",\"data\":{\n  \"eventType\":\"patch\",\"featureFlags\":[],\"segments\":[]}}", "line 2, column 15:"},
		{"flags", "f.json", "{\"messageType\":\"data-sync\",\"data\":{\n\"eventType\":\"full\",\n\"featureFlags\":{},\"segments\":[]}}", "line 3, column 16:"},
		{"no segments", "f.json", "{\"messageType\":\"data-sync\",\n\"data\":{\"eventType\":\"full\",\"featureFlags\":[]}}", "line 2, column 8:"},
		{"own member", "f.json", "{\"messageType\":\"data-sync\",\"data\":{\"eventType\":\"full\",\"featureFlags\":[],\"segments\":[]},\n\"flagstead\":5}", "line 2, column 13:"},
		{"envelope", "f.yaml", "# my flags\nmessageType: pong\n", `line 2, column 14: not a FeatBit data-sync document: messageType is "pong"`},
		{"no envelope", "f.yaml", "# my flags\nflags: []\n", "line 2, column 1: not a FeatBit"},
		{"list", "f.yaml", "\n- a\n", "line 2, column 1: not a FeatBit data-sync document: it is a JSON array"},
		{"flags", "f.yml", head + "  segments: []\n  featureFlags:\n    a: b\n", "line 6, column 5:"},
		{"no flags", "f.yml", head + "  segments: []\n", "line 3, column 3: not a FeatBit data-sync document: no featureFlags"},
		{"syntax", "f.yaml.gz", head + "  segments: ]\n", "line 4, column 13:"},
		{"empty", "f.yaml", "# nothing yet\n", "document is empty"},
		{"empty", "f.json.gz", "", "document is empty"},
		{"large", "f.json.gz", strings.Repeat(" ", 3000), "uncompressed it is larger than the limit of 2000 bytes"},
		{"large", "f.yaml", "#" + strings.Repeat(" ", 3000), "file is larger than the limit of 2000 bytes"},
	} {
		t.Run(test.file+" "+test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), test.file)
			text := []byte(test.text)
			if strings.HasSuffix(path, ".gz") {
				text = zip(t, text)
			}
			write(t, path, text)
			_, err := open(t, path, &file.Options{ReadOnly: true, MaxSize: 2000}).Load(t.Context(), "")
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("Load = %v, want %q and the path", err, test.want)
			}
		})
	}
}

func TestUnusableItemsAreLoggedWithTheirPlace(t *testing.T) {
	for name, text := range map[string]string{
		"f.json": "{\"messageType\":\"data-sync\",\"data\":{\"eventType\":\"full\",\"segments\":[\n 5],\"featureFlags\":[\n{\"key\":\"a\"},\n  {\"name\":\"b\"}]}}",
		"f.yaml": "messageType: data-sync\ndata:\n  eventType: full\n  featureFlags: [key: a,\n    name: b]\n  segments:\n  - 5\n",
	} {
		path := filepath.Join(t.TempDir(), name)
		write(t, path, []byte(text))
		var log bytes.Buffer
		s := open(t, path, &file.Options{ReadOnly: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if items := load(t, s).Items; len(items) != 1 || items[0].Key != "a" {
			t.Errorf("%s: Load = %v, want flag a", name, items)
		}
		flagAt, segmentAt := "line 4, column 3: flag number 2", "line 2, column 2: segment number 1"
		if name == "f.yaml" {
			flagAt, segmentAt = "line 5, column 5: flag number 2", "line 7, column 5: segment number 1"
		}
		if strings.Count(log.String(), "\n") != 2 || !strings.Contains(log.String(), flagAt) || !strings.Contains(log.String(), segmentAt) {
			t.Errorf("%s: log = %s, want %q and %q", name, &log, flagAt, segmentAt)
		}
	}
}

func TestDamagedGzip(t *testing.T) {
	good := zip(t, document(1, count))
	flipped := bytes.Clone(good)
	flipped[len(flipped)-6] ^= 1 // in the checksum
	for what, test := range map[string]struct {
		bytes []byte
		name  string
		want  string
	}{
		"cut off":             {good[:len(good)-1], "f.json.gz", "cut off"},
		"cut off early":       {good[:5], "f.json.gz", "cut off"},
		"wrong checksum":      {flipped, "f.json.gz", "checksum is wrong"},
		"not compressed":      {document(1, count), "f.json.gz", "it is not compressed with gzip, as its name says"},
		"compressed in vain":  {good, "f.json", "name does not end in .gz"},
		"compressed for YAML": {good, "f.yaml", "name does not end in .gz"},
	} {
		path := filepath.Join(t.TempDir(), test.name)
		write(t, path, test.bytes)
		_, err := open(t, path, &file.Options{ReadOnly: true}).Load(t.Context(), "")
		if !errors.Is(err, file.ErrBroken) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: Load = %v, want ErrBroken with %q and the path", what, err, test.want)
		}
	}
}

// A few kilobytes that stand for gigabytes cost what the limit says.
func TestGzipBombHitsTheLimit(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	for range 16 {
		z.Write(bytes.Repeat([]byte(" "), 1<<20))
	}
	z.Close()
	path := filepath.Join(t.TempDir(), "flags.json.gz")
	write(t, path, b.Bytes())
	_, err := open(t, path, &file.Options{ReadOnly: true, MaxSize: 1 << 20}).Load(t.Context(), "")
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "limit of 1048576 bytes") {
		t.Errorf("Load of a bomb of %d bytes = %v, want an error with path and limit", b.Len(), err)
	}
}

func TestCompressedFileKeepsTheContract(t *testing.T) {
	var p places
	storetest.Run(t, storetest.Options{
		Open: func(t testing.TB) store.DataStore { return p.on(t, filepath.Join(t.TempDir(), "flags.json.gz"), nil) },
		Reopen: func(t testing.TB, first store.DataStore) store.DataStore {
			return p.on(t, p.of(first), nil)
		},
		ReopenedWrites: true,
		Flush:          p.remove,
	})
}

func TestApplyCompressesWhatIsNamedSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flags.json.gz")
	items := flagsOf2KB(100)
	s := open(t, path, nil)
	apply(t, s, store.Change{Full: true, Items: items})
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || len(text) < 5*len(raw) || !bytes.HasPrefix(text, []byte(`{"messageType"`)) {
		t.Errorf("%d bytes of %d, %v", len(raw), len(text), err)
	}
	// The document counts, not what is left of it.
	s = open(t, path, &file.Options{MaxSize: int64(len(text)) - 1})
	if _, err := s.Apply(t.Context(), store.Change{Full: true, Items: items}); err == nil {
		t.Error("a document over the limit was written")
	}
}

func TestYAMLIsNotWritten(t *testing.T) {
	for _, name := range []string{"flags.yaml", "flags.yml", "flags.yaml.gz"} {
		path := filepath.Join(t.TempDir(), name)
		if _, err := file.Open(path, nil); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), path) {
			t.Errorf("Open of %s for writing = %v, want ErrUnsupported with the path", name, err)
		}
	}
}
