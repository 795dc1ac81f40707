package file_test

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/flagstead/flagstead/store"
	"github.com/flagstead/flagstead/store/file"
	"github.com/flagstead/flagstead/store/storetest"
)

func TestMain(m *testing.M) {
	storetest.Child(func(place string, write bool) (store.DataStore, error) {
		s, err := file.Open(place, &file.Options{ReadOnly: !write})
		if err == nil && !write {
			return aReader{s, filepath.Dir(place)}, nil
		}
		return s, err
	})
	goleak.VerifyTestMain(m)
}
