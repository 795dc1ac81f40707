package beat

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flagstead/flagstead/store"
)

// ReportsPath returns the name of the directory with the reports of the readers of
// the store at path.
func ReportsPath(path string) string { return path + ".readers" }

const (
	reportSuffix = ".json"

	// reportKept is when a report is removed that nobody writes again.
	reportKept = 4 * store.ReportLife
)

// WriteReport writes r, at now, for the store at path: a file of its own, named for
// the reader. The files have the permissions of the file like, or 0600 if that is
// missing. Any number of processes may write reports of different readers at once.
func WriteReport(path, like string, r store.Report, now time.Time) error {
	if err := r.Check(); err != nil {
		return err
	}
	dir := ReportsPath(path)
	sum := sha256.Sum256([]byte(r.Reader))
	name := filepath.Join(dir, hex.EncodeToString(sum[:12])+reportSuffix)
	if r.State == "off" {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	mode := modeOf(like)
	if err := os.Mkdir(dir, mode|0o700|mode&0o444>>2); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		// A new reader tidies up after others.
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		left := 0
		for _, e := range entries {
			if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > reportKept {
				os.Remove(filepath.Join(dir, e.Name()))
				continue
			}
			left++
		}
		if left >= store.MaxReports {
			return fmt.Errorf("%s: there are reports of %d readers already", dir, left)
		}
	}
	r.At, r.Applied = now.UTC(), r.Applied.UTC()
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return replace(name, append(text, '\n'), mode, false)
}

// ReadReports returns the reports for the store at path that count at now. A file
// that is no report is ignored.
func ReadReports(path string, now time.Time) ([]store.Report, error) {
	dir := ReportsPath(path)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []store.Report
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), reportSuffix) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		text, err := readText(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		var r store.Report
		if err != nil || json.Unmarshal(text, &r) != nil || r.Check() != nil {
			continue
		}
		if now.Sub(r.At).Abs() < store.ReportLife {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b store.Report) int { return cmp.Compare(a.Reader, b.Reader) })
	return all, nil
}
