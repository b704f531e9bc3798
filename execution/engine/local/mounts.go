package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// errNoController: the machine does not offer this kind of cgroup.
var errNoController = errors.New("not mounted")

// cgroupMount is one mounted cgroup tree.
type cgroupMount struct {
	// root is the cgroup that the mount shows, as named in /proc/self/cgroup; "/" outside containers.
	root  string
	point string
}

// folder is the path of a cgroup of that tree; the mount's top where the mount does not show it.
func (m cgroupMount) folder(cgroup string) string {
	rel, err := filepath.Rel(m.root, cgroup)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return m.point
	}
	return filepath.Join(m.point, rel)
}

// findMount finds the tree of v2 (controller "") or of one v1 controller in /proc/self/mountinfo (proc_pid_mountinfo(5)).
func findMount(root, controller string) (cgroupMount, error) {
	body, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return cgroupMount{}, fmt.Errorf("reading the mounts: %w", err)
	}
	for line := range strings.Lines(string(body)) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(tail) < 3 {
			continue
		}
		v2 := controller == "" && tail[0] == "cgroup2"
		v1 := controller != "" && tail[0] == "cgroup" && slices.Contains(strings.Split(tail[2], ","), controller)
		if v1 || v2 {
			return cgroupMount{root: unescape(fields[3]), point: filepath.Join(root, unescape(fields[4]))}, nil
		}
	}
	return cgroupMount{}, errNoController
}

// unescape undoes the octal escapes of mountinfo.
var unescapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func unescape(field string) string { return unescapes.Replace(field) }

// ownCgroup is the folder of our own cgroup in a mounted tree: the calling thread's, since another thread may be away
// to start a process elsewhere.
func ownCgroup(root, controller string, mount cgroupMount) (string, error) {
	body, err := os.ReadFile(filepath.Join(root, "proc/thread-self/cgroup"))
	if err != nil {
		return "", fmt.Errorf("reading our own cgroup: %w", err)
	}
	for line := range strings.Lines(string(body)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if slices.Contains(strings.Split(parts[1], ","), controller) {
			return mount.folder(parts[2]), nil
		}
	}
	return "", errNoController
}
