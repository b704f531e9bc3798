package local

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v4/mem"
)

// capacityShare of the machine is what runs may use together where the configuration names no figure, in percent: the
// rest is for the server, its database and the system (architecture.md, "Local driver").
const capacityShare = 80

// capacityOf is what runs may request together; memory in MB and cpu in millicores, 0 for the default.
func capacityOf(memoryMB, millicores int64) (amount, error) {
	capacity := amount{memoryMB, millicores}
	if capacity.memory == 0 {
		machine, err := mem.VirtualMemory()
		if err != nil {
			return amount{}, fmt.Errorf("reading the machine's memory: %w", err)
		}
		total := min(machine.Total, ownMemoryLimit("/"))
		capacity.memory = int64(total / megabyte * capacityShare / 100) //nolint:gosec // a figure in MB fits
	}
	if capacity.cpu == 0 {
		// The runtime's figure knows of a container's CPU quota, the machine's does not.
		capacity.cpu = int64(min(runtime.NumCPU(), runtime.GOMAXPROCS(0))) * 1000 * capacityShare / 100
	}
	return capacity, nil
}

// ownMemoryLimit is the smallest limit, in bytes, of the cgroups that this process is in: a container is smaller than
// its machine.
func ownMemoryLimit(root string) uint64 {
	least := ^uint64(0)
	for controller, file := range map[string]string{"": "memory.max", controllerMemory: "memory.limit_in_bytes"} {
		mount, err := findMount(root, controller)
		if err != nil {
			continue
		}
		own, err := ownCgroup(root, controller, mount)
		if err != nil {
			continue
		}
		for dir := own; len(dir) >= len(mount.point); dir = filepath.Dir(dir) {
			body, err := os.ReadFile(filepath.Join(dir, file))
			if limit, bad := strconv.ParseUint(strings.TrimSpace(string(body)), 10, 64); err == nil && bad == nil {
				least = min(least, limit)
			}
		}
	}
	return least
}
