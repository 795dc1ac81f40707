package storetest

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	Child(openFaulty)
	goleak.VerifyTestMain(m)
}
