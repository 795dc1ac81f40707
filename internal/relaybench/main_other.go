//go:build !linux

// Command relaybench measures what a relay costs, on Linux only.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "relaybench: memory is measured on Linux only")
	os.Exit(1)
}
