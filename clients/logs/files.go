package logs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Files is an Archive in a folder. Servers that share the folder share the archive.
type Files struct{ dir string }

var _ Archive = (*Files)(nil)

// NewFiles makes an archive in a folder, which is made with the first log.
func NewFiles(dir string) (*Files, error) {
	if dir == "" {
		return nil, errors.New("logs: a folder is needed")
	}
	return &Files{dir: dir}, nil
}

// marked is the file beside each log.
type marked struct {
	Mark
	// Size is the log's when the mark was set.
	Size     int64 `json:"size"`
	Complete bool  `json:"complete"`
}

// path is where a log is: in a folder named by the end of the run's id, which is random, so that no folder gets big.
func (f *Files) path(key Key) (string, error) {
	if key.RunID == "" || key.RunID == "." || key.RunID == ".." || filepath.Base(key.RunID) != key.RunID {
		return "", fmt.Errorf("logs: the run's id %q cannot name a file", key.RunID)
	}
	shard := key.RunID[max(0, len(key.RunID)-2):]
	return filepath.Join(f.dir, shard, fmt.Sprintf("%s.%d.log", key.RunID, key.Attempt)), nil
}

// Read implements Archive.
func (f *Files) Read(_ context.Context, key Key, offset, limit int64) (Part, error) {
	path, err := f.path(key)
	if err != nil {
		return Part{}, err
	}
	// The mark is read first: what is complete then is in the file already.
	at, err := readMark(path)
	if err != nil {
		return Part{}, err
	}
	part := Part{Complete: at.Complete}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return part, nil
	}
	if err != nil {
		return Part{}, fmt.Errorf("logs: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return Part{}, fmt.Errorf("logs: %w", err)
	}
	part.Size = info.Size()
	if offset >= part.Size || limit <= 0 {
		return part, nil
	}
	part.Data = make([]byte, min(limit, part.Size-offset))
	n, err := file.ReadAt(part.Data, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return Part{}, fmt.Errorf("logs: %w", err)
	}
	part.Data = part.Data[:n]
	return part, nil
}

// Append implements Archive.
func (f *Files) Append(_ context.Context, key Key) (Writer, error) {
	path, err := f.path(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("logs: locking %s: %w", path, err)
	}
	return &fileWriter{file: file, path: path}, nil
}

// fileWriter holds the lock on its file.
type fileWriter struct {
	file *os.File
	path string
}

func (w *fileWriter) Write(data []byte) (int, error) { return w.file.Write(data) }

func (w *fileWriter) size() (int64, error) {
	info, err := w.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("logs: %w", err)
	}
	return info.Size(), nil
}

// Mark implements Writer. What is in the file and not yet marked was written before a crash.
func (w *fileWriter) Mark() (Mark, error) {
	at, err := readMark(w.path)
	if err != nil {
		return Mark{}, err
	}
	size, err := w.size()
	at.Extra = max(0, size-at.Size)
	return at.Mark, err
}

// SetMark implements Writer.
func (w *fileWriter) SetMark(m Mark) error { return w.save(m, false) }

// Complete implements Writer.
func (w *fileWriter) Complete() error {
	at, err := readMark(w.path)
	if err != nil {
		return err
	}
	return w.save(at.Mark, true)
}

func (w *fileWriter) save(m Mark, complete bool) error {
	size, err := w.size()
	if err != nil {
		return err
	}
	body, err := json.Marshal(marked{Mark: m, Size: size, Complete: complete})
	if err != nil {
		return err
	}
	if err := os.WriteFile(markPath(w.path)+".tmp", body, 0o600); err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	if err := os.Rename(markPath(w.path)+".tmp", markPath(w.path)); err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	return nil
}

// Close gives the log free for other writers.
func (w *fileWriter) Close() error { return w.file.Close() }

func markPath(log string) string { return log + ".mark" }

func readMark(log string) (marked, error) {
	body, err := os.ReadFile(markPath(log))
	if errors.Is(err, fs.ErrNotExist) {
		return marked{}, nil
	}
	if err != nil {
		return marked{}, fmt.Errorf("logs: %w", err)
	}
	var m marked
	if err := json.Unmarshal(body, &m); err != nil {
		return marked{}, fmt.Errorf("logs: reading %s: %w", markPath(log), err)
	}
	return m, nil
}
