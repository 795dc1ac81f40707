//go:build !unix

package storetest

import (
	"errors"
	"testing"

	"github.com/flagstead/flagstead/store"
)

// The store that spans processes needs a file lock of unix.
const spansProcesses = false

var processFaults []fault

func openFaulty(string, bool) (store.DataStore, error) { return nil, errors.ErrUnsupported }

func (f fault) processOptions(t testing.TB, _ bool) Options { panic("no processes here") }
