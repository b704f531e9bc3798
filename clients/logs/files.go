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
	"time"

	"golang.org/x/sys/unix"
)

// Files is an Archive in a folder. Servers that share the folder share the archive.
type Files struct{ dir string }

var _ Archive = (*Files)(nil)

// NewFiles returns the archive in a folder, which is created with the first log.
func NewFiles(dir string) (*Files, error) {
	if dir == "" {
		return nil, errors.New("logs: a folder is needed")
	}
	return &Files{dir: dir}, nil
}

// path returns the file of a log. Its folder is named by the end of the run's id, which is random, so that no folder
// becomes large.
func (f *Files) path(key Key) (string, error) {
	if key.RunID == "" || key.RunID == "." || key.RunID == ".." || filepath.Base(key.RunID) != key.RunID {
		return "", fmt.Errorf("logs: the run id %q cannot name a file", key.RunID)
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
	part, err := ReadFile(path, offset, limit)
	part.Complete = err == nil && at.Complete
	return part, err
}

// ReadFile returns up to limit bytes from offset on of a log in a file, or the empty Part if the file does not exist.
func ReadFile(path string, offset, limit int64) (Part, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Part{}, nil
	}
	if err != nil {
		return Part{}, fmt.Errorf("logs: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return Part{}, fmt.Errorf("logs: %w", err)
	}
	part := Part{Size: info.Size()}
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
	// The lock is on the log itself and ends with the writer's descriptor.
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("logs: lock %s: %w", path, err)
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

// Mark implements Writer. What the file holds beyond the mark was written before a crash.
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

// save replaces the mark's file in one step. It does not sync: a mark that a power failure loses costs a second look at
// the pod's log, while a sync per followed log and markInterval would cost the disk of a busy server.
func (w *fileWriter) save(m Mark, complete bool) error {
	size, err := w.size()
	if err != nil {
		return err
	}
	body, err := json.Marshal(storedMark{Mark: m, Size: size, Complete: complete})
	if err != nil {
		return err
	}
	path := markPath(w.path)
	if err := os.WriteFile(path+".tmp", body, 0o600); err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	return nil
}

// Close releases the log for other writers.
func (w *fileWriter) Close() error { return w.file.Close() }

// storedMark is the content of the file beside each log.
type storedMark struct {
	Mark
	// Size is the log's when the mark was set.
	Size     int64 `json:"size"`
	Complete bool  `json:"complete"`
}

func markPath(log string) string { return log + ".mark" }

// readMark returns the mark of a log. A mark that cannot be parsed, as a power failure may leave one, counts as none:
// the log is then compared with the pod's from the beginning.
func readMark(log string) (storedMark, error) {
	body, err := os.ReadFile(markPath(log))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storedMark{}, fmt.Errorf("logs: %w", err)
	}
	var m storedMark
	if err != nil || json.Unmarshal(body, &m) != nil {
		return storedMark{}, nil
	}
	return m, nil
}

// DeleteOlder deletes the files in and below a folder that were last written before a time, and returns how many.
// Folders stay, and no link leads out of the folder. A folder that does not exist has no files.
func DeleteOlder(ctx context.Context, folder string, than time.Time) (deleted int, err error) {
	root, err := os.OpenRoot(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("logs: %w", err)
	}
	defer func() { _ = root.Close() }()
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && !entry.IsDir() {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil && info.ModTime().Before(than) {
				if err = root.Remove(path); err == nil {
					deleted++
				}
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		return err
	})
	if err != nil {
		return deleted, fmt.Errorf("logs: delete old files: %w", err)
	}
	return deleted, nil
}
