package storetest

import (
	goflag "flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	Child(openFaulty)
	// Many faults are found by waiting in vain, which costs no processor.
	goflag.Set("test.parallel", "6")
	goleak.VerifyTestMain(m)
}
