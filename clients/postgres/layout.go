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
)

// In the data folder.
const (
	homeDir      = "postgres"          // the database, unless locationFile says another place
	passwordFile = "postgres.password" // the server's password, readable by us alone
	locationFile = "postgres.location" // names the home that a data folder of root has elsewhere
)

// ClusterDir is the folder in a Server's Home that PostgreSQL itself calls its data directory.
const ClusterDir = "pgdata"

// Beside it in the home.
const (
	logFile    = "postgres.log"
	initPrefix = "initdb-" // clusters in the making
)

// usualHomeParent is where root's databases live. The server runs as another user, who can reach it there, and need not be
// let into the data folder. /tmp would not outlive a restart of the machine.
const usualHomeParent = "/var/tmp"

// layout says where the database of a data folder lives and who runs it.
type layout struct {
	dataDir string
	home    string
	owner   *owner // nil: we ourselves
}

// owner is the unprivileged user who runs the server when we are root: PostgreSQL refuses to run as root.
type owner struct {
	name     string
	uid, gid uint32
}

func (l layout) cluster() string  { return filepath.Join(l.home, ClusterDir) }
func (l layout) logPath() string  { return filepath.Join(l.home, logFile) }
func (l layout) password() string { return filepath.Join(l.dataDir, passwordFile) }

// newLayout resolves where the database of dataDir is and creates the folder for it. The data folder must exist.
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
		if err := recordHome(dataDir, home); err != nil {
			return layout{}, err
		}
		if err := makeHome(home, 0o711); err != nil {
			return layout{}, err
		}
	}
	l.owner, err = ownerOf(l.cluster()) // as at the first start, whoever has been installed since
	if err == nil && l.owner == nil {
		l.owner, err = systemUser(cfg.Owner)
	}
	return l, err
}

// HomeOf is where the database of a configured server is, or will be when it is made.
func HomeOf(cfg ServerConfig) (string, error) {
	dataDir, err := realFolder(cfg.DataDir)
	if err != nil {
		return "", err
	}
	home, _, err := findHome(dataDir, cfg.HomeParent)
	return home, err
}

// findHome names the home of a data folder and tells whether it is inside that folder: it always is unless we are root,
// and for root where a user made the database before. Root goes on as that user then.
func findHome(dataDir, parent string) (home string, inside bool, err error) {
	home = filepath.Join(dataDir, homeDir)
	if os.Geteuid() != 0 {
		return home, true, nil
	}
	made, err := ownerOf(filepath.Join(home, ClusterDir))
	if err != nil || made != nil {
		return home, true, err
	}
	home, err = elsewhere(dataDir, parent)
	return home, false, err
}

// elsewhere is the home of a data folder of root: the recorded one, so that it stays the same when the data folder
// moves, else one named after that folder.
func elsewhere(dataDir, parent string) (string, error) {
	record := filepath.Join(dataDir, locationFile)
	recorded, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		sum := sha256.Sum256([]byte(dataDir))
		return filepath.Join(cmp.Or(parent, usualHomeParent), "flotilla-"+hex.EncodeToString(sum[:8])), nil
	}
	if err != nil {
		return "", fmt.Errorf("reading where the database is: %w", err)
	}
	home := strings.TrimSpace(string(recorded))
	if !filepath.IsAbs(home) {
		return "", fmt.Errorf("%s does not hold an absolute path: %q", record, home)
	}
	return home, nil
}

func recordHome(dataDir, home string) error {
	if err := writeWhole(filepath.Join(dataDir, locationFile), home+"\n"); err != nil {
		return fmt.Errorf("recording where the database is: %w", err)
	}
	return nil
}

// makeHome creates the home. One that exists must be a real folder of ours: in a folder that everybody may write to,
// somebody else can have made it first.
func makeHome(home string, mode fs.FileMode) error {
	if err := os.Mkdir(home, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("creating the database folder: %w", err)
	}
	info, err := os.Lstat(home)
	if err != nil {
		return fmt.Errorf("looking at the database folder: %w", err)
	}
	if !info.IsDir() || int(uidOf(info)) != os.Geteuid() {
		return fmt.Errorf("the database folder %s is not a folder of this user: remove it or choose another --data-dir", home)
	}
	if err := os.Chmod(home, mode); err != nil { // the umask may have narrowed it
		return fmt.Errorf("opening up the database folder: %w", err)
	}
	return nil
}

// ownerOf tells who owns a cluster: nil when there is none.
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

func uidOf(info fs.FileInfo) uint32 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Uid
	}
	return ^uint32(0)
}

// systemUser is the configured user, else the one PostgreSQL's packages create, else the one every system has.
func systemUser(configured string) (*owner, error) {
	names := []string{"postgres", "nobody"}
	if configured != "" {
		names = []string{configured}
	}
	for _, name := range names {
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
	return nil, fmt.Errorf("root cannot run PostgreSQL, and no unprivileged user %s exists to run it: create one",
		strings.Join(names, " or "))
}

// give hands a file or folder to the user who runs the server.
func (l layout) give(path string) error {
	if l.owner == nil {
		return nil
	}
	return os.Lchown(path, int(l.owner.uid), int(l.owner.gid))
}

// readPassword returns the server's password, made at the first start. A cluster whose password is gone cannot be used.
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

// writeWhole writes a small private file so that it is there in full or not at all, however we end.
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
