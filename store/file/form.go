package file

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// A form is how a document is kept in a file: what the file's name says.
type form struct {
	yaml bool // JSON otherwise
	gzip bool
}

// formOf returns the form that a file of this name has. Names that say nothing
// stand for JSON.
func formOf(path string) (f form) {
	name := strings.ToLower(filepath.Base(path))
	name, f.gzip = strings.CutSuffix(name, ".gz")
	f.yaml = strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
	return f
}

// What a file and its document may have at most if Options.MaxSize does not say.
// Parsing YAML takes some 30 times its size in memory.
const (
	maxJSON = 256 << 20
	maxYAML = 32 << 20
)

func (f form) maxSize() int64 {
	if f.yaml {
		return maxYAML
	}
	return maxJSON
}

var (
	gzipMagic     = []byte{0x1f, 0x8b}
	byteOrderMark = []byte("\xef\xbb\xbf") // some editors put one before UTF-8
)

// read returns the document in a file's bytes, which has at most limit bytes,
// before it is turned from YAML to JSON and after.
func (f form) read(raw []byte, limit int64) (source, error) {
	text := raw
	if f.gzip {
		var err error
		if text, err = unzip(raw, limit); err != nil {
			return source{}, err
		}
	} else if bytes.HasPrefix(raw, gzipMagic) {
		return source{}, errors.New("it is compressed with gzip, but its name does not end in .gz")
	}
	text = bytes.TrimPrefix(text, byteOrderMark)
	if f.yaml {
		return fromYAML(text, limit)
	}
	return source{json: text}, nil
}

func unzip(raw []byte, limit int64) ([]byte, error) {
	if len(raw) == 0 {
		return nil, nil // an empty file has an empty document
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, badGzip(err)
	}
	text, err := io.ReadAll(io.LimitReader(z, limit+1))
	switch {
	case err != nil:
		return nil, badGzip(err)
	case int64(len(text)) > limit:
		return nil, fmt.Errorf("uncompressed it is larger than the limit of %d bytes", limit)
	}
	return text, nil
}

func badGzip(err error) error {
	switch {
	case errors.Is(err, gzip.ErrHeader):
		err = errors.New("it is not compressed with gzip, as its name says")
	case errors.Is(err, gzip.ErrChecksum):
		err = errors.New("gzip: the checksum is wrong")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		err = errors.New("gzip: it is cut off")
	default:
		err = fmt.Errorf("gzip: it is damaged: %w", err)
	}
	return err
}

// write returns the bytes of a file that holds a JSON document.
func (f form) write(text []byte) ([]byte, error) {
	if !f.gzip {
		return text, nil
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(text); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
