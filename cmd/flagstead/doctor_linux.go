package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// networks are the file systems, by their magic numbers, on which no news of other
// hosts arrive.
var networks = map[int64]string{
	0x6969:     "NFS",
	0x517b:     "SMB",
	0xfe534d42: "SMB",
	0xff534d42: "CIFS",
	0x65735546: "FUSE",
	0x01021997: "9p",
	0x00c36400: "Ceph",
	0x5346414f: "AFS",
	0x0bd00bd0: "Lustre",
	0x47504653: "GPFS",
}

// fileSystem returns how many bytes this user may still write in dir, and the kind of
// file system if it is one of a network.
func fileSystem(dir string) (free uint64, network string, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, "", err
	}
	return st.Bavail * uint64(st.Bsize), networks[int64(st.Type)&0xffffffff], nil
}

// owner names who owns a file, for people.
func owner(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf(", of uid %d", st.Uid)
}

// lockHolder reports whether somebody holds bbolt's lock on the file at path, and who
// as far as /proc says. It takes the lock for a moment if nobody does.
func lockHolder(path string) (held bool, by string, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, "", nil
	}
	if err != nil {
		return false, "", err
	}
	defer f.Close()
	// A shared lock: two examinations do not disturb each other.
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if err == nil {
		return false, "", syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return false, "", err
	}
	info, err := f.Stat()
	if err != nil {
		return false, "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true, "another process", nil
	}
	return true, holder(fmt.Sprintf(":%d", st.Ino)), nil
}

// holder finds the process in /proc/locks, whose lines are as
// "1: FLOCK  ADVISORY  WRITE 1234 08:01:567 0 EOF".
func holder(inode string) string {
	f, err := os.Open("/proc/locks")
	if err != nil {
		return "another process"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], inode) {
			continue
		}
		name, err := os.ReadFile("/proc/" + fields[4] + "/comm")
		if err != nil {
			return "process " + fields[4]
		}
		return fmt.Sprintf("process %s (%s)", fields[4], strings.TrimSpace(string(name)))
	}
	return "another process"
}
