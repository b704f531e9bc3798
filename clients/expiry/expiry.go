// Package expiry deletes files that were kept for a time.
package expiry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Files deletes the files in and below a folder that nobody has written to since a time, and answers how many. Folders
// stay, and no link leads out of the folder; one that is not there has no files.
func Files(ctx context.Context, folder string, since time.Time) (deleted int, err error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return 0, failed(err)
	}
	defer func() { _ = root.Close() }()
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err := errors.Join(ctx.Err(), failed(err)); err != nil || entry == nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil || !info.ModTime().Before(since) {
			return failed(err)
		}
		if err := root.Remove(path); err != nil {
			return failed(err)
		}
		deleted++
		return nil
	})
	return deleted, err
}

// failed is nil for what somebody else has deleted meanwhile.
func failed(err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("expiry: %w", err)
}
