package flagstead

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadme compiles the programs in the README and looks for the make targets
// that it names.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := regexp.MustCompile("(?s)```go\n(package main.*?)```").FindAllSubmatch(text, -1)
	if len(programs) != 2 {
		t.Fatalf("found %d programs, want a worker and a syncer", len(programs))
	}
	for _, p := range programs {
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, p[1], 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
			t.Errorf("a program does not compile: %s", out)
		}
	}
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("make ([a-z]+)").FindAllSubmatch(text, -1) {
		if !strings.Contains("\n"+string(makefile), "\n"+string(m[1])+":") {
			t.Errorf("the README names make %s, which does not exist", m[1])
		}
	}
}
