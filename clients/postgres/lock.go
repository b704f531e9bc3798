package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrDataDirInUse says that another Flotilla runs in the same data folder. The error that wraps it names the folder.
var ErrDataDirInUse = errors.New("data folder in use")

// lockFile is held (flock) by the program that runs in a data folder. The kernel lets go of it however the program
// ends, so it can never be stale.
const lockFile = "lock"

// lockDataDir takes the data folder for this process. Closing the file gives it back.
func lockDataDir(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the data folder: %w", err)
	}
	if err := flock(file); err != nil {
		holder := holderOf(file)
		return nil, errors.Join(lockError(err, dir, holder), file.Close())
	}
	// The number only helps the person who is refused; the lock itself does not depend on it.
	if err := file.Truncate(0); err == nil {
		_, _ = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return file, nil
}

// lockHome takes the folder that holds the cluster. It matters where that folder lies outside the data folder: a copied
// data folder names the same one. systemd-tmpfiles leaves a locked folder under /var/tmp alone, too.
func lockHome(home, dataDir string) (*os.File, error) {
	file, err := os.Open(home)
	if err != nil {
		return nil, fmt.Errorf("opening the database folder: %w", err)
	}
	if err := flock(file); err != nil {
		return nil, errors.Join(lockError(err, dataDir, ""), file.Close())
	}
	return file, nil
}

func flock(file *os.File) error {
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func lockError(err error, dir, holder string) error {
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("locking %s: %w", dir, err)
	}
	return fmt.Errorf("%w: another Flotilla%s runs in %s: stop it, or choose another folder with --data-dir",
		ErrDataDirInUse, holder, dir)
}

func holderOf(file *os.File) string {
	buf := make([]byte, 32)
	n, _ := file.ReadAt(buf, 0)
	if pid := strings.TrimSpace(string(buf[:n])); pid != "" {
		return " (process " + pid + ")"
	}
	return ""
}
