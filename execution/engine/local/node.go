package local

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

const (
	nodeFile = "node"
	// driverLock is held by the one server that drives the runs of a data folder.
	driverLock = "local.lock"
	// incomingFolder holds one empty file per run that another server accepted for the driver.
	incomingFolder = "incoming"
)

// nodeOf is the name under which this data folder owns runs. It stays with the folder, not with the machine: whoever
// has the folder can take its runs over, nobody else can.
func nodeOf(dataDir string) (string, error) {
	path := filepath.Join(dataDir, nodeFile)
	own := path + "." + uuid.NewString() + ".tmp"
	if err := os.WriteFile(own, []byte(uuid.NewString()+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("naming this node: %w", err)
	}
	defer func() { _ = os.Remove(own) }()
	// A link, unlike a rename, lets the first of two servers win.
	if err := os.Link(own, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("naming this node: %w", err)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("naming this node: %w", err)
	}
	name := strings.TrimSpace(string(body))
	if name == "" {
		return "", fmt.Errorf("%s is empty; remove it to give this data folder a new name", path)
	}
	return name, nil
}

// cgroupParentName tells the cgroups of one data folder from those of another on the same machine.
func cgroupParentName(node string) string {
	sum := sha256.Sum256([]byte(node))
	return "flotilla-" + hex.EncodeToString(sum[:6])
}
