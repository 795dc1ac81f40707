package fswatch

import (
	"os"
	"syscall"
)

func fingerprintOf(info os.FileInfo) Fingerprint {
	fp := Fingerprint{Size: info.Size(), Modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		fp.Device, fp.Inode = uint64(st.Dev), st.Ino //nolint:unconvert // Dev is narrower on some architectures
		fp.Changed = st.Ctim.Nano()
	}
	return fp
}
