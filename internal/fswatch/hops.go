package fswatch

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// watchDirs returns the directories in which a change can alter what path leads
// to: the one that holds the file and its parent, the one that holds each
// symlink on the way, and the one that each symlink points into. If something
// on the way is missing, the nearest directory that exists stands in for the
// rest.
func watchDirs(path string) map[string]bool {
	const sep = string(filepath.Separator)
	dirs := map[string]bool{}
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			wd = sep
		}
		path = wd + sep + path
	}
	volume := filepath.VolumeName(path)
	root := volume + sep

	type part struct {
		name string
		end  bool // the last part of a symlink's target
	}
	split := func(path string, link bool) []part {
		var parts []part
		for name := range strings.SplitSeq(path, sep) {
			if name != "" && name != "." {
				parts = append(parts, part{name: name})
			}
		}
		if link && len(parts) > 0 {
			parts[len(parts)-1].end = true
		}
		return parts
	}

	// at is always free of symlinks, so that ".." is its textual parent.
	at, todo, links := root, split(path[len(volume):], false), 0
	for len(todo) > 0 {
		p := todo[0]
		todo = todo[1:]
		if p.name == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, p.name)
		info, err := os.Lstat(next)
		if err != nil {
			break
		}
		if p.end {
			dirs[at] = true
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			dirs[at] = true
			target, err := os.Readlink(next)
			if links++; err != nil || links > maxLinks {
				break
			}
			if filepath.IsAbs(target) {
				at = root
				target = target[len(filepath.VolumeName(target)):]
			}
			todo = append(split(target, true), todo...)
			continue
		}
		if len(todo) == 0 || !info.IsDir() {
			break
		}
		at = next
	}
	dirs[at] = true
	dirs[filepath.Dir(at)] = true
	return dirs
}
