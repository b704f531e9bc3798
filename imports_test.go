package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/stitchfix/flotilla-os/"

// mayImport is the table of docs/design.md: the folders that each top-level folder may import.
var mayImport = map[string]string{
	"cli":       "server api clients services state config metrics",
	"server":    "api flotilla services execution clients state config metrics",
	"api":       "",
	"flotilla":  "api services state config metrics",
	"services":  "state execution clients config metrics fault",
	"execution": "state clients config metrics fault",
	"clients":   "config metrics state",
	"state":     "config metrics fault",
	"metrics":   "config",
	"config":    "",
	"fault":     "",
	"testkit":   "",
}

// imports returns the import lists of all packages of the module but main, by import path. They do not include imports of
// tests.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	list, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "./...").Output()
	require.NoError(t, err)
	found := map[string][]string{}
	for line := range strings.Lines(string(list)) {
		path, imported, _ := strings.Cut(line, ": ")
		if strings.HasPrefix(path, module) {
			found[path] = strings.Fields(imported)
		}
	}
	require.NotEmpty(t, found)
	return found
}

// topFolder returns the top-level folder of a package of the module, or "" for other packages.
func topFolder(path string) string {
	within, _ := strings.CutPrefix(path, module)
	if within == path {
		return ""
	}
	folder, _, _ := strings.Cut(within, "/")
	return folder
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	for path, imported := range imports(t) {
		folder := topFolder(path)
		allowed, known := mayImport[folder]
		if folder != "e2e" { // e2e holds tests only
			require.True(t, known, "the folder %s is not in the table of docs/design.md", folder)
		}
		if strings.HasSuffix(path, "test") || strings.HasSuffix(path, "/seed") {
			allowed += " clients" // packages for tests start a database
		}
		for _, target := range imported {
			if to := topFolder(target); to != "" && to != folder {
				assert.Contains(t, strings.Fields(allowed), to, "%s imports %s", path, target)
			}
		}
	}
}

func TestOnlyClientsAWSImportsAWS(t *testing.T) {
	t.Parallel()
	for path, imported := range imports(t) {
		for _, target := range imported {
			if strings.HasPrefix(target, "github.com/aws/aws-sdk-go") {
				assert.True(t, strings.HasPrefix(path, module+"clients/aws"), "%s imports %s", path, target)
			}
		}
	}
}
