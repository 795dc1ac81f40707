package flagstead

import (
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// public are the packages whose names users see.
var public = []string{"sdk", "store", "store/bolt", "store/file", "store/memory", "store/redis", "store/storetest", "store/faultstore", "syncer", "relay", "metrics", "metrics/prometheus", "metrics/otel"}

// A surface is what a package exports.
type surface struct {
	documented map[string]bool // by name: "New", "Client.Bool", "Config.Store"
	examples   map[string]bool
}

func load(t *testing.T, dir string) surface {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: no Go files (%v)", dir, err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	out := surface{documented: map[string]bool{}, examples: map[string]bool{}}
	for _, name := range names {
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "_test.go") {
			files = append(files, f)
			continue
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Example") {
				out.examples[fn.Name.Name] = true
			}
		}
	}
	p, err := doc.NewFromFiles(fset, files, "github.com/flagstead/flagstead/"+dir)
	if err != nil {
		t.Fatal(err)
	}
	out.documented[""] = p.Doc != ""
	values := func(list []*doc.Value) {
		for _, v := range list {
			for _, s := range v.Decl.Specs {
				spec := s.(*ast.ValueSpec)
				for _, name := range spec.Names {
					if name.IsExported() {
						out.documented[name.Name] = v.Doc != "" || spec.Doc.Text() != "" || spec.Comment.Text() != ""
					}
				}
			}
		}
	}
	funcs := func(prefix string, list []*doc.Func) {
		for _, f := range list {
			out.documented[prefix+f.Name] = f.Doc != ""
		}
	}
	values(p.Consts)
	values(p.Vars)
	funcs("", p.Funcs)
	for _, typ := range p.Types {
		out.documented[typ.Name] = typ.Doc != ""
		values(typ.Consts)
		values(typ.Vars)
		funcs("", typ.Funcs)
		funcs(typ.Name+".", typ.Methods)
		for _, s := range typ.Decl.Specs {
			out.members(fset, s.(*ast.TypeSpec), typ.Doc)
		}
	}
	return out
}

// members adds the fields of a struct and the methods of an interface. The
// comment of a field also counts for those on the lines right below it; that of
// an interface counts for its methods if it speaks of them.
func (s surface) members(fset *token.FileSet, spec *ast.TypeSpec, typeDoc string) {
	var list []*ast.Field
	ok := false
	switch typ := spec.Type.(type) {
	case *ast.StructType:
		list = typ.Fields.List
	case *ast.InterfaceType:
		list, ok = typ.Methods.List, strings.Contains(typeDoc, "methods")
	}
	last := 0
	for _, f := range list {
		own := f.Doc.Text() != "" || f.Comment.Text() != ""
		below := fset.Position(f.Pos()).Line == last+1
		if last != 0 || own {
			ok = own || ok && below
		}
		last = fset.Position(f.End()).Line
		for _, name := range f.Names {
			if name.IsExported() {
				s.documented[spec.Name.Name+"."+name.Name] = ok
			}
		}
	}
}

// TestEverythingExportedIsDocumented reads the comments of all public packages.
func TestEverythingExportedIsDocumented(t *testing.T) {
	for _, dir := range public {
		s := load(t, dir)
		if len(s.documented) < 2 {
			t.Errorf("%s exports nothing", dir)
		}
		for name, ok := range s.documented {
			if !ok {
				t.Errorf("%s.%s has no comment", dir, name)
			}
		}
	}
}

var code = regexp.MustCompile("`([^`]*)`")

// TestParity checks the table of what FeatBit's Python SDK has: every Go name in
// it exists and is documented, and every row's example exists.
func TestParity(t *testing.T) {
	text, err := os.ReadFile("docs/python-parity.md")
	if err != nil {
		t.Fatal(err)
	}
	sdk := load(t, "sdk")
	others := map[string]surface{"store": load(t, "store"), "syncer": load(t, "syncer")}
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 || strings.HasPrefix(cells[1], "---") || strings.TrimSpace(cells[1]) == "Python" {
			continue
		}
		rows++
		names := code.FindAllStringSubmatch(cells[2], -1)
		examples := code.FindAllStringSubmatch(cells[3], -1)
		if len(names) == 0 || len(examples) == 0 {
			t.Errorf("no name or no example: %s", line)
		}
		for _, m := range names {
			name, in := m[1], sdk
			if pkg, rest, ok := strings.Cut(name, "."); ok && pkg == strings.ToLower(pkg) {
				name, in = rest, others[pkg]
			}
			if !in.documented[name] {
				t.Errorf("%s does not exist or has no comment", m[1])
			}
		}
		for _, m := range examples {
			if !sdk.examples[m[1]] {
				t.Errorf("there is no %s", m[1])
			}
		}
	}
	if rows < 50 {
		t.Errorf("found %d rows", rows)
	}
}

// TestMigration compiles what the page for users of FeatBit's Go SDK says that
// their calls become.
func TestMigration(t *testing.T) {
	text, err := os.ReadFile("docs/migrating-from-featbit-go-sdk.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if before := strings.Count(string(text), "```go before\n"); before < 8 || len(blocks) < before {
		t.Fatalf("%d calls before, %d now", before, len(blocks))
	}
	// Each block is a function of its own. What it leaves unused is its reader's.
	program := `package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/flagstead/flagstead/sdk"
	"github.com/flagstead/flagstead/store/memory"
	"github.com/flagstead/flagstead/syncer"
)

var _, _, _, _, _, _ = errors.Is, fmt.Sprint, slog.Default, http.ProxyURL, os.Getenv, time.Second
var _, _ = memory.New, syncer.New

func main() {}
`
	for i, m := range blocks {
		program += fmt.Sprintf("\nfunc block%d(ctx context.Context, client *sdk.Client, ann *sdk.User) error {\n{\n%s\n}\nreturn nil\n}\n", i, m[1])
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("a block does not compile: %s", out)
	}
}

// TestStoresPage: the tests that docs/stores.md names exist, and the rights that it
// gives are those that were tested, which package redis documents.
func TestStoresPage(t *testing.T) {
	text, err := os.ReadFile("docs/stores.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	err = filepath.WalkDir(".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		source, err := os.ReadFile(name)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(source, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`\b(Test[A-Z]\w+)(…?)`).FindAllSubmatch(text, -1)
	for _, m := range named {
		known := tests[string(m[1])]
		if len(m[2]) > 0 {
			for name := range tests {
				known = known || strings.HasPrefix(name, string(m[1]))
			}
		}
		if !known && string(m[1]) != "TestMain" && string(m[1]) != "TestStore" {
			t.Errorf("docs/stores.md names %s, which does not exist", m[1])
		}
	}
	if len(named) < 20 {
		t.Errorf("found only %d names of tests", len(named))
	}
	doc, err := os.ReadFile("store/redis/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	tested := strings.Join(strings.Fields(strings.ReplaceAll(string(doc), "//", "")), " ")
	rights := regexp.MustCompile(`(?s)ACL SETUSER flags-\w+ on >… (.*?)`+"```").FindAllSubmatch(text, -1)
	if len(rights) < 2 {
		t.Errorf("found %d users, want a reader and a syncer", len(rights))
	}
	for _, m := range rights {
		for right := range strings.FieldsSeq(string(m[1])) {
			if !strings.Contains(tested, right) {
				t.Errorf("docs/stores.md gives %s, which package redis does not", right)
			}
		}
	}
}
