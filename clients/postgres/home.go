package postgres

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrDataDirInUse is returned if another Flotilla runs in the data folder. The error that wraps it names the folder.
var ErrDataDirInUse = errors.New("data folder in use")

// In the data folder.
const (
	homeDir      = "postgres"          // the database, unless locationFile names another place
	passwordFile = "postgres.password" // the server's password, readable by us alone
	locationFile = "postgres.location" // names the home that a data folder of root has elsewhere
	lockFile     = "lock"              // held (flock) by the program that runs in the data folder; holds its process id
)

// In the home. ClusterDir is the folder that PostgreSQL itself calls its data directory.
const (
	ClusterDir = "pgdata"
	logFile    = "postgres.log"
	initPrefix = "initdb-" // clusters in the making
)

// usualHomeParent is where the databases of root live. The server runs as another user, who can reach it there and need
// no access to the data folder. /tmp would not outlive a restart of the machine.
const usualHomeParent = "/var/tmp"

// layout holds the places of the database of a data folder, and the user that runs it.
type layout struct {
	dataDir string
	home    string
	owner   *owner // nil: we ourselves
}

// owner is the unprivileged user that runs the server if we are root: PostgreSQL refuses to run as root.
type owner struct {
	name     string
	uid, gid uint32
}

func (l layout) cluster() string  { return filepath.Join(l.home, ClusterDir) }
func (l layout) logPath() string  { return filepath.Join(l.home, logFile) }
func (l layout) password() string { return filepath.Join(l.dataDir, passwordFile) }

// newLayout finds the home of the database of dataDir, and creates it.
func newLayout(dataDir string, cfg ServerConfig) (layout, error) {
	home, inside, err := findHome(dataDir, cfg.HomeParent)
	if err != nil {
		return layout{}, err
	}
	l := layout{dataDir: dataDir, home: home}
	if os.Geteuid() != 0 {
		return l, makeHome(home, 0o700)
	}
	if !inside {
		if err := writeWhole(filepath.Join(dataDir, locationFile), home+"\n"); err != nil {
			return layout{}, fmt.Errorf("recording where the database is: %w", err)
		}
		if err := makeHome(home, 0o711); err != nil {
			return layout{}, err
		}
	}
	l.owner, err = ownerOf(l.cluster()) // the user of the first start, whatever has been installed since
	if err == nil && l.owner == nil {
		l.owner, err = systemUser()
	}
	return l, err
}

// HomeOf returns the folder that the database of a configured server is in, or will be.
func HomeOf(cfg ServerConfig) (string, error) {
	dataDir, err := realFolder(cfg.DataDir)
	if err != nil {
		return "", err
	}
	home, _, err := findHome(dataDir, cfg.HomeParent)
	return home, err
}

// realFolder creates a folder if it is missing, and returns the one name that it has without links.
func realFolder(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("creating the data folder: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", fmt.Errorf("resolving the data folder: %w", err)
	}
	return dir, nil
}

// findHome returns the home of a data folder and reports whether it is inside that folder. It is, unless we are root and
// no other user has made a database there, as whom root would continue. The home of root is recorded at the first
// start, so that it stays the same if the data folder moves.
func findHome(dataDir, parent string) (home string, inside bool, err error) {
	home = filepath.Join(dataDir, homeDir)
	if os.Geteuid() != 0 {
		return home, true, nil
	}
	if made, err := ownerOf(filepath.Join(home, ClusterDir)); err != nil || made != nil {
		return home, true, err
	}
	record := filepath.Join(dataDir, locationFile)
	recorded, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		sum := sha256.Sum256([]byte(dataDir))
		return filepath.Join(cmp.Or(parent, usualHomeParent), "flotilla-"+hex.EncodeToString(sum[:8])), false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("reading where the database is: %w", err)
	}
	home = strings.TrimSpace(string(recorded))
	if !filepath.IsAbs(home) {
		return "", false, fmt.Errorf("%s does not hold an absolute path: %q", record, home)
	}
	return home, false, nil
}

// makeHome creates the home. One that exists must be a folder of ours and not a link: in a folder that every user
// may write to, another user can have made it first.
func makeHome(home string, mode fs.FileMode) error {
	if err := os.Mkdir(home, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("creating the database folder: %w", err)
	}
	info, err := os.Lstat(home)
	if err != nil {
		return fmt.Errorf("looking at the database folder: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("the database folder %s is not a folder of this user: remove it or choose another --data-dir", home)
	}
	if err := os.Chmod(home, mode); err != nil { // the umask may have narrowed it
		return fmt.Errorf("opening up the database folder: %w", err)
	}
	return nil
}

// ownerOf returns the user that owns a cluster, or nil if there is no cluster.
func ownerOf(cluster string) (*owner, error) {
	info, err := os.Lstat(cluster)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the database: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 {
		return nil, fmt.Errorf("the database %s belongs to root, who cannot run PostgreSQL: give it to another user", cluster)
	}
	found := &owner{name: strconv.Itoa(int(stat.Uid)), uid: stat.Uid, gid: stat.Gid}
	if known, err := user.LookupId(found.name); err == nil {
		found.name = known.Username
	}
	return found, nil
}

// systemUser returns the user that PostgreSQL's packages create, else the one that every system has.
func systemUser() (*owner, error) {
	for _, name := range []string{"postgres", "nobody"} {
		known, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(known.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(known.Gid, 10, 32)
		if uidErr == nil && gidErr == nil && uid != 0 {
			return &owner{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("root cannot run PostgreSQL, and no unprivileged user postgres or nobody exists to run it: create one")
}

// give makes the user that runs the server the owner of a file or folder.
func (l layout) give(path string) error {
	if l.owner == nil {
		return nil
	}
	return os.Lchown(path, int(l.owner.uid), int(l.owner.gid))
}

// readPassword returns the server's password, which the first start makes. A cluster whose password is gone cannot be
// used.
func (l layout) readPassword(clusterExists bool) (string, error) {
	held, err := os.ReadFile(l.password())
	switch {
	case err == nil && len(held) > 0:
		return strings.TrimSpace(string(held)), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("reading the database password: %w", err)
	case clusterExists:
		return "", fmt.Errorf("the password file %s is gone: put it back, or remove %s to begin with an empty database",
			l.password(), l.home)
	}
	password := rand.Text()
	if err := writeWhole(l.password(), password+"\n"); err != nil {
		return "", fmt.Errorf("keeping the database password: %w", err)
	}
	return password, nil
}

// writeWhole writes a small private file so that a crash leaves all of it or nothing.
func writeWhole(path, content string) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return os.Rename(file.Name(), path)
}

// lock takes a file or folder of a data folder for this process. Closing the file gives it back; the kernel does so
// however the process ends, so a lock is never stale.
func lock(path string, flag int, dataDir string) (*os.File, error) {
	file, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the data folder: %w", err)
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		return file, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder, buf := "", make([]byte, 32)
		if n, _ := file.ReadAt(buf, 0); n > 0 { // a folder cannot be read
			holder = " (process " + strings.TrimSpace(string(buf[:n])) + ")"
		}
		err = fmt.Errorf("%w: another Flotilla%s runs in %s: stop it, or choose another folder with --data-dir",
			ErrDataDirInUse, holder, dataDir)
	} else {
		err = fmt.Errorf("locking %s: %w", dataDir, err)
	}
	return nil, errors.Join(err, file.Close())
}
