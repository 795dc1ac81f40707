package bolt

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"

	"github.com/flagstead/flagstead/store"
)

// The database has two buckets. "items" maps kind and key to
//
//	 0    4 CRC-32C of the key and all that follows, for bbolt has none
//	 4    8 version
//	12    8 seq of the commit that wrote it
//	20    1 archived
//	21      data
//
// and "meta" has one value, "state":
//
//	 0    4 CRC-32C of all that follows
//	 4    4 format version
//	 8    8 epoch
//	16    8 seq
//	24    8 full
//	32    8 count of items
const (
	valueHead = 21
	stateSize = 40
	dbVersion = 1
	maxKey    = bbolt.MaxKeySize - 1 // the kind takes a byte
)

var (
	itemsBucket = []byte("items")
	metaBucket  = []byte("meta")
	stateKey    = []byte("state")
)

// A database is the open record. It is used by one call at a time.
type database struct {
	db     *bbolt.DB
	file   *os.File
	broken error // bbolt panicked: its locks are in no state to be used again
}

// guard runs f and turns into an error what bbolt does on damaged pages: panic,
// or touch memory that is not there.
func guard(f func() error) (err error, panicked bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err, panicked = fmt.Errorf("damaged: %v", p), true
		}
	}()
	return f(), false
}

// openDatabase opens the file at path, which must exist.
func openDatabase(path string, readOnly bool, timeout time.Duration) (*database, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() == 0 {
		// bbolt would make a new database of it, and lose silently what was.
		return nil, fmt.Errorf("%s: damaged: empty file", path)
	}
	return openRaw(path, readOnly, timeout)
}

func openRaw(path string, readOnly bool, timeout time.Duration) (*database, error) {
	d := &database{}
	err, panicked := guard(func() (err error) {
		d.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      timeout,
			ReadOnly:     readOnly,
			FreelistType: bbolt.FreelistMapType,
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				d.file, err = os.OpenFile(name, flag, mode)
				return d.file, err
			},
		})
		return err
	})
	if err != nil {
		if panicked && d.file != nil {
			release(d.file) // bbolt did not get to do it
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// do runs a transaction or anything else on the database.
func (d *database) do(f func() error) error {
	if d.broken != nil {
		return d.broken
	}
	err, panicked := guard(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", d.file.Name(), err)
	}
	if panicked {
		d.broken = err
	}
	return err
}

func (d *database) close() error {
	if d.broken != nil {
		return release(d.file)
	}
	err := d.do(d.db.Close)
	if d.broken != nil {
		release(d.file)
	}
	return err
}

// createDatabase makes an empty database appear at path, whole or not at all.
func createDatabase(path string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	d, err := openRaw(tmp, false, time.Second)
	if err != nil {
		return err
	}
	err = d.commit(mark{epoch: newEpoch()}, 0, nil, nil)
	if err = errors.Join(err, d.close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func newEpoch() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// commit writes one change, and the state after it, in one transaction.
func (d *database) commit(m mark, count int, puts []record, dels []store.ID) error {
	return d.do(func() error {
		return d.db.Update(func(tx *bbolt.Tx) error {
			items, err := tx.CreateBucketIfNotExists(itemsBucket)
			if err != nil {
				return err
			}
			meta, err := tx.CreateBucketIfNotExists(metaBucket)
			if err != nil {
				return err
			}
			for _, id := range dels {
				if err := items.Delete(dbKey(id)); err != nil {
					return err
				}
			}
			for _, r := range puts {
				key := dbKey(r.ID())
				if err := items.Put(key, dbValue(key, r)); err != nil {
					return err
				}
			}
			return meta.Put(stateKey, dbState(m, count))
		})
	})
}

// read copies everything out.
func (d *database) read() (*image, error) {
	var m *image
	err := d.do(func() error {
		return d.db.View(func(tx *bbolt.Tx) (err error) {
			m, err = readAll(tx)
			return err
		})
	})
	return m, err
}

func readAll(tx *bbolt.Tx) (*image, error) {
	items, meta := tx.Bucket(itemsBucket), tx.Bucket(metaBucket)
	if items == nil || meta == nil {
		return nil, errors.New("damaged or foreign: a bucket is missing")
	}
	state := meta.Get(stateKey)
	le := binary.LittleEndian
	if len(state) != stateSize || crc32.Checksum(state[4:], castagnoli) != le.Uint32(state) {
		return nil, errors.New("damaged: bad checksum of the state")
	}
	if v := le.Uint32(state[4:]); v != dbVersion {
		return nil, fmt.Errorf("format version %d, this program reads %d", v, dbVersion)
	}
	m := &image{mark: mark{epoch: le.Uint64(state[8:]), seq: le.Uint64(state[16:]), full: le.Uint64(state[24:])}}
	count := le.Uint64(state[32:])
	err := items.ForEach(func(k, v []byte) error {
		if uint64(len(m.items)) == count {
			return errors.New("more items than the state says")
		}
		r, err := parseValue(k, v)
		if err != nil {
			return err
		}
		m.items = append(m.items, r)
		return nil
	})
	if err == nil && uint64(len(m.items)) != count {
		err = fmt.Errorf("%d items, the state says %d", len(m.items), count)
	}
	if err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	return m, nil
}

func dbKey(id store.ID) []byte {
	return append([]byte{byte(id.Kind)}, id.Key...)
}

func dbValue(key []byte, r record) []byte {
	v := make([]byte, valueHead, valueHead+len(r.Data))
	le := binary.LittleEndian
	le.PutUint64(v[4:], uint64(r.Version))
	le.PutUint64(v[12:], r.seq)
	if r.Archived {
		v[20] = 1
	}
	v = append(v, r.Data...)
	le.PutUint32(v, valueSum(key, v))
	return v
}

func valueSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value[4:])
}

func dbState(m mark, count int) []byte {
	v := make([]byte, stateSize)
	le := binary.LittleEndian
	le.PutUint32(v[4:], dbVersion)
	le.PutUint64(v[8:], m.epoch)
	le.PutUint64(v[16:], m.seq)
	le.PutUint64(v[24:], m.full)
	le.PutUint64(v[32:], uint64(count))
	le.PutUint32(v, crc32.Checksum(v[4:], castagnoli))
	return v
}

// parseValue copies an item out of the database's memory.
func parseValue(k, v []byte) (r record, err error) {
	le := binary.LittleEndian
	if len(k) < 2 || len(v) < valueHead || valueSum(k, v) != le.Uint32(v) {
		return r, fmt.Errorf("bad checksum of item %q", k)
	}
	r.Kind, r.Key = store.Kind(k[0]), string(k[1:])
	r.Version = int64(le.Uint64(v[4:]))
	r.seq = le.Uint64(v[12:])
	r.Archived = v[20] == 1
	r.Data = append([]byte(nil), v[valueHead:]...)
	return r, checkItem(r.Item)
}
