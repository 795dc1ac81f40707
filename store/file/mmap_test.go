//go:build linux || darwin

package file_test

import (
	"os"
	"syscall"
	"testing"
)

// mapAndWrite changes the file as databases do: of this no system tells.
func mapAndWrite(t *testing.T, dir string, n int64) {
	t.Helper()
	f, err := os.OpenFile(fileIn(dir), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text := document(n, count)
	m, err := syscall.Mmap(int(f.Fd()), 0, len(text), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	copy(m, text)
	if err := syscall.Munmap(m); err != nil {
		t.Fatal(err)
	}
}
