package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/stitchfix/flotilla-os/"

// mayImport is the table of docs/design.md: what each top-level folder may
// import of the others.
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
	"e2e":       "api state services clients config metrics fault",
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	list, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "./...").Output()
	require.NoError(t, err)
	for _, line := range strings.Split(strings.TrimSpace(string(list)), "\n") {
		name, imports, _ := strings.Cut(line, ": ")
		within, isOurs := strings.CutPrefix(name, module)
		if !isOurs {
			continue // main and its tests may import everything
		}
		folder, _, _ := strings.Cut(within, "/")
		allowed, known := mayImport[folder]
		require.True(t, known, "the folder %s is not in the table of docs/design.md", folder)
		if strings.HasSuffix(within, "test") || strings.HasSuffix(within, "/seed") {
			allowed += " clients" // packages for tests start a database
		}
		for _, imported := range strings.Fields(imports) {
			target, isOurs := strings.CutPrefix(imported, module)
			target, _, _ = strings.Cut(target, "/")
			if isOurs && target != folder {
				assert.Contains(t, strings.Fields(allowed), target, "%s imports %s", name, imported)
			}
		}
	}
}

func TestOnlyClientsAWSImportsAWS(t *testing.T) {
	t.Parallel()
	list, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "./...").Output()
	require.NoError(t, err)
	for _, line := range strings.Split(string(list), "\n") {
		if strings.Contains(line, "github.com/aws/aws-sdk-go") {
			assert.True(t, strings.HasPrefix(line, module+"clients/aws"), line)
		}
	}
}
