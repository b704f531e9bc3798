package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// install creates a folder that looks like an installation of a major version.
func install(t *testing.T, dir string, major int) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	script := fmt.Sprintf("#!/bin/sh\necho 'postgres (PostgreSQL) %d.4 (Debian)'\n", major)
	for _, name := range []string{"initdb", "postgres"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
}

func TestFindBinaries(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	install(t, at("configured"), 14)
	install(t, at("path"), 15)
	install(t, at("lib/9.6/bin"), 9)
	install(t, at("lib/16/bin"), 16)
	install(t, at("lib/13/bin"), 13)
	install(t, at("client"), 15)
	require.NoError(t, os.Remove(at("client/initdb")))
	nowhere := []string{at("nowhere/*/bin")}

	tests := map[string]struct {
		search Search
		want   []Binaries
	}{
		"the configured folder is the only one":    {Search{BinDir: at("configured"), Path: at("path")}, []Binaries{{at("configured"), 14}}},
		"PATH comes before the usual places":       {Search{Path: at("path"), Globs: []string{at("lib/13/bin")}}, []Binaries{{at("path"), 15}, {at("lib/13/bin"), 13}}},
		"the newest of several comes first":        {Search{Path: at("none"), Globs: []string{at("lib/*/bin")}}, []Binaries{{at("lib/16/bin"), 16}, {at("lib/13/bin"), 13}, {at("lib/9.6/bin"), 9}}},
		"an installation is listed once":           {Search{Path: at("path") + ":" + at("path") + "/", Globs: nowhere}, []Binaries{{at("path"), 15}}},
		"clients alone are not a server":           {Search{Path: at("client"), Globs: nowhere}, nil},
		"a relative folder in PATH is not trusted": {Search{Path: "path", Globs: nowhere}, nil},
		"a configured folder without a server":     {Search{BinDir: at("client"), Path: at("path")}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, err := FindBinaries(t.Context(), test.search)
			if test.want == nil {
				require.ErrorIs(t, err, ErrNoServerBinaries)
				assert.ErrorContains(t, err, "apt-get install postgresql")
				assert.NotContains(t, err.Error(), "\n")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, test.want, found)
		})
	}
}

func TestWithoutServerBinariesNothingIsCreated(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(emptyDataDir(t), "data")
	cfg := config(dir)
	cfg.Search = Search{Path: filepath.Join(dir, "nothing"), Globs: []string{filepath.Join(dir, "nothing")}}
	_, err := Start(testContext(t), cfg)
	require.ErrorIs(t, err, ErrNoServerBinaries)
	assert.NoDirExists(t, dir)
}
