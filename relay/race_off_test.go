//go:build !race

package relay_test

// raced says that the race detector is on, which needs more stack.
const raced = false
