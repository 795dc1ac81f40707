//go:build !linux

package main

import (
	"errors"
	"io/fs"
)

var errNotHere = errors.New("not known on this system")

func fileSystem(string) (free uint64, network string, err error) { return 0, "", errNotHere }

func owner(fs.FileInfo) string { return "" }

func lockHolder(string) (held bool, by string, err error) { return false, "", errNotHere }
