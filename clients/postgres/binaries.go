package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// ErrNoServerBinaries is returned if this machine has no PostgreSQL server. Its text is for the person at the terminal.
var ErrNoServerBinaries = errors.New("no PostgreSQL server binaries (initdb, postgres) found: " +
	"install them with `apt-get install postgresql`, or set database_url to a database you have")

// Search lists where to look for server binaries. The zero value means all usual places.
type Search struct {
	// BinDir is the one folder to look in; empty: Path, then Globs.
	BinDir string
	// Path is a list of folders in the form of $PATH; empty: the PATH of this process.
	Path string
	// Globs are patterns of folders to look in after Path, the newest version of each first; nil: usualGlobs.
	Globs []string
}

// usualGlobs are where distributions, PostgreSQL's own installer and Homebrew put server binaries. These are off the PATH
// because several versions can be installed side by side.
var usualGlobs = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/usr/local/pgsql/bin",
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
}

// Binaries is one installation of the PostgreSQL server.
type Binaries struct {
	Dir   string
	Major int
}

func (b Binaries) initdb() string   { return filepath.Join(b.Dir, "initdb") }
func (b Binaries) postgres() string { return filepath.Join(b.Dir, "postgres") }

// FindBinaries returns the usable installations, the preferred one first. The error is ErrNoServerBinaries if there is
// none.
func FindBinaries(ctx context.Context, search Search) ([]Binaries, error) {
	var found []Binaries
	for _, dir := range search.dirs() {
		candidate := Binaries{Dir: dir}
		if !isExecutable(candidate.initdb()) || !isExecutable(candidate.postgres()) {
			continue
		}
		major, err := serverMajor(ctx, candidate.postgres())
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue // an installation that cannot tell its version cannot run either
		}
		candidate.Major = major
		found = append(found, candidate)
	}
	if len(found) > 0 {
		return found, nil
	}
	if search.BinDir != "" {
		return nil, fmt.Errorf("%w (looked only in %s)", ErrNoServerBinaries, search.BinDir)
	}
	return nil, ErrNoServerBinaries
}

func (s Search) dirs() []string {
	if s.BinDir != "" {
		return []string{s.BinDir}
	}
	var dirs []string
	for _, dir := range filepath.SplitList(cmp.Or(s.Path, os.Getenv("PATH"))) {
		if filepath.IsAbs(dir) { // like os/exec, which runs nothing from the current folder
			dirs = append(dirs, dir)
		}
	}
	globs := s.Globs
	if globs == nil {
		globs = usualGlobs
	}
	for _, glob := range globs {
		matches, _ := filepath.Glob(glob) // the only error is a malformed pattern, which matches nothing
		slices.SortFunc(matches, func(a, b string) int { return cmp.Compare(versionIn(b), versionIn(a)) })
		dirs = append(dirs, matches...)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(dirs, func(dir string) bool {
		known := seen[filepath.Clean(dir)]
		seen[filepath.Clean(dir)] = true
		return known
	})
}

var versionDigits = regexp.MustCompile(`\d+(\.\d+)?`)

// versionIn returns the version in the name of a folder's parent, as a number so that 16 is after 9.6, or 0.
func versionIn(dir string) float64 {
	version, _ := strconv.ParseFloat(versionDigits.FindString(filepath.Base(filepath.Dir(dir))), 64)
	return version
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

func serverMajor(ctx context.Context, postgres string) (int, error) {
	out, err := exec.CommandContext(ctx, postgres, "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("cannot run %s: %w", postgres, err)
	}
	match := versionLine.FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("%s does not tell its version: %q", postgres, out)
	}
	return strconv.Atoi(string(match[1]))
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
