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

// ErrNoServerBinaries says that this machine has no PostgreSQL server. Its text is for the person at the terminal.
var ErrNoServerBinaries = errors.New("no PostgreSQL server binaries (initdb, postgres) found: " +
	"install them with `apt-get install postgresql`, or set database_url to a database you have")

// Search says where server binaries are looked for. The zero value looks everywhere they usually are.
type Search struct {
	// BinDir is the one folder to look in, as configured; empty: PATH, then Globs.
	BinDir string
	// Path is a list of folders in the form of $PATH; empty: the PATH of this process.
	Path string
	// Globs are patterns of folders, looked at after Path, each with its newest version first; nil: the places where
	// distributions, PostgreSQL's own installer and Homebrew put them.
	Globs []string
}

// Distributions keep server binaries off the PATH because several majors can be installed side by side.
func usualGlobs() []string {
	return []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql*/bin",
		"/usr/local/opt/postgresql*/bin",
		"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
	}
}

// Binaries is one installation of the PostgreSQL server.
type Binaries struct {
	Dir   string
	Major int
}

func (b Binaries) initdb() string   { return filepath.Join(b.Dir, "initdb") }
func (b Binaries) postgres() string { return filepath.Join(b.Dir, "postgres") }

// FindBinaries lists the usable installations, the preferred one first. The error is ErrNoServerBinaries when there
// is none.
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
			continue // an installation that cannot say its version cannot run either
		}
		candidate.Major = major
		found = append(found, candidate)
	}
	if len(found) > 0 {
		return found, nil
	}
	if search.BinDir != "" {
		return nil, fmt.Errorf("%w (looked in %s only, as configured)", ErrNoServerBinaries, search.BinDir)
	}
	return nil, ErrNoServerBinaries
}

func (s Search) dirs() []string {
	if s.BinDir != "" {
		return []string{s.BinDir}
	}
	var dirs []string
	path := cmp.Or(s.Path, os.Getenv("PATH"))
	for _, dir := range filepath.SplitList(path) {
		if filepath.IsAbs(dir) { // as os/exec does: nothing is run from the current folder
			dirs = append(dirs, dir)
		}
	}
	globs := s.Globs
	if globs == nil {
		globs = usualGlobs()
	}
	for _, glob := range globs {
		matches, _ := filepath.Glob(glob) // the only error is a malformed pattern, which matches nothing
		slices.SortFunc(matches, func(a, b string) int { return cmp.Compare(versionIn(b), versionIn(a)) })
		dirs = append(dirs, matches...)
	}
	return uniqueInOrder(dirs)
}

func uniqueInOrder(dirs []string) []string {
	seen := make(map[string]bool, len(dirs))
	return slices.DeleteFunc(dirs, func(dir string) bool {
		dir = filepath.Clean(dir)
		known := seen[dir]
		seen[dir] = true
		return known
	})
}

var versionDigits = regexp.MustCompile(`\d+(\.\d+)?`)

// versionIn reads the version a folder's name carries, so that 16 comes before 9.6; a name without one comes last.
func versionIn(dir string) float64 {
	version, _ := strconv.ParseFloat(versionDigits.FindString(filepath.Base(filepath.Dir(dir))), 64)
	return version
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

func serverMajor(ctx context.Context, postgres string) (int, error) {
	out, err := exec.CommandContext(ctx, postgres, "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("asking %s for its version: %w", postgres, err)
	}
	match := versionLine.FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("%s does not say its version: %q", postgres, out)
	}
	return strconv.Atoi(string(match[1]))
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
