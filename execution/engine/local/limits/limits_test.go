package limits

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// makeTree writes a pretended /proc and /sys. A name that ends in "/" is a folder.
func makeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			require.NoError(t, os.MkdirAll(path, 0o755))
			continue
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	return root
}

const mountinfo2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"

// fakeAttempt2 is a cgroup v2 of plain files, as the kernel would have made them.
func fakeAttempt2(t *testing.T, files map[string]string) (Limits, cgroup) {
	t.Helper()
	tree := map[string]string{}
	for _, name := range []string{"memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "cgroup.procs"} {
		tree["parent/a-1/"+name] = ""
	}
	for name, content := range files {
		tree["parent/a-1/"+name] = content
	}
	parent := filepath.Join(makeTree(t, tree), "parent")
	limits := Limits{Mode: ModeCgroup2, Parents: map[string]string{"": parent}, CPUQuota: true}
	return limits, cgroup(filepath.Join(parent, "a-1"))
}

func TestCgroup2Limits(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		memory, cpu int64
		quota       bool
		want        map[string]string
	}{
		"memory in 10^6 bytes, no swap, killed as a group, quota of a period": {512, 1500, true,
			map[string]string{"memory.max": "512000000", "memory.swap.max": "0", "memory.oom.group": "1", "cpu.max": "150000 100000"}},
		"the kernel's least quota": {512, 1, true, map[string]string{"cpu.max": "1000 100000"}},
		"no limits requested":      {0, 0, true, map[string]string{"memory.max": "", "memory.oom.group": "", "cpu.max": ""}},
		"no cpu controller":        {64, 500, false, map[string]string{"memory.max": "64000000", "cpu.max": ""}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limits, group := fakeAttempt2(t, nil)
			limits.CPUQuota = c.quota
			_, err := limits.Enclose("a-1", c.memory, c.cpu)
			require.NoError(t, err)
			for file, want := range c.want {
				assert.Equal(t, want, group.text(file), file)
			}
		})
	}
}

func TestCgroup2Usage(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		files map[string]string
		final bool
		want  Usage
	}{
		"memory is what cannot be reclaimed at once": {
			map[string]string{"memory.current": "300", "memory.stat": "anon 100\ninactive_file 120\nactive_file 30\n",
				"cpu.stat": "usage_usec 1500\nuser_usec 1\n", "memory.events": "oom 1\noom_kill 0\n"},
			false, Usage{Memory: 180, CPU: 1500 * time.Microsecond}},
		"the kernel's counter of kills decides what is an OOM": {
			map[string]string{"memory.events": "low 0\noom 3\noom_kill 1\noom_group_kill 1\n"}, false, Usage{OOM: true}},
		"at the end the recorded peak without cache": {
			map[string]string{"memory.current": "50", "memory.peak": "900", "memory.stat": "inactive_file 40\nactive_file 60\n"},
			true, Usage{Memory: 800}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limits, _ := fakeAttempt2(t, c.files)
			enclosure, err := limits.Enclose("a-1", 0, 0)
			require.NoError(t, err)
			assert.Equal(t, c.want, enclosure.Measure(c.final))
		})
	}
}

func TestProbeCgroup2(t *testing.T) {
	t.Parallel()
	own := "sys/fs/cgroup/user.slice/flotilla.scope/"
	leaf := own + serverLeaf + "/cgroup.procs"
	with := func(place string, more map[string]string) map[string]string {
		files := map[string]string{
			"proc/self/mountinfo": mountinfo2, "proc/thread-self/cgroup": "0::/user.slice/flotilla.scope\n",
			// The kernel makes this one with the folder.
			place + "runs/cgroup.subtree_control": "",
		}
		for name, content := range more {
			files[name] = content
		}
		return files
	}
	cases := map[string]struct {
		files  map[string]string
		parent string
		err    string
	}{
		"delegated to us: this process moves to a leaf and delegates the controllers": {
			files: with(own, map[string]string{own + "cgroup.controllers": "cpu memory pids", own + "cgroup.subtree_control": "", leaf: ""}), parent: own + "runs"},
		"an ancestor has them": {
			files: with("sys/fs/cgroup/user.slice/", map[string]string{own + "cgroup.controllers": "pids",
				"sys/fs/cgroup/user.slice/cgroup.controllers": "cpu memory", "sys/fs/cgroup/user.slice/cgroup.subtree_control": "memory"}),
			parent: "sys/fs/cgroup/user.slice/runs"},
		"nobody has the memory controller": {
			files: with(own, map[string]string{own + "cgroup.controllers": "hugetlb", "sys/fs/cgroup/cgroup.controllers": "hugetlb"}),
			err:   "not delegated"},
		"no such tree": {files: map[string]string{"proc/self/mountinfo": "", "proc/thread-self/cgroup": ""}, err: "not mounted"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := makeTree(t, c.files)
			limits, err := Probe(ProbeConfig{Mode: ModeCgroup2, Name: "runs", Root: root, trial: func(Limits) error { return nil }})
			if c.err != "" {
				require.ErrorIs(t, err, ErrModeUnavailable)
				assert.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, filepath.Join(root, c.parent), limits.Parents[""])
			assert.Equal(t, "+cpu", cgroup(filepath.Join(root, c.parent)).text("cgroup.subtree_control"), "the last one delegated")
			if c.parent == own+"runs" {
				assert.Equal(t, "0", cgroup(root).text(leaf), "this process moved out of the way")
			}
		})
	}
}

func TestProbeCgroup1(t *testing.T) {
	t.Parallel()
	mounts := "31 23 0:1 /docker/x /sys/fs/cgroup/memory\\040m rw - cgroup cgroup rw,memory\n" +
		"32 23 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
	root := makeTree(t, map[string]string{
		"proc/self/mountinfo":                             mounts,
		"proc/thread-self/cgroup":                         "4:memory:/docker/x/inner\n2:cpu,cpuacct:/\n0::/\n",
		"sys/fs/cgroup/memory m/inner/cgroup.procs":       "",
		"sys/fs/cgroup/cpu,cpuacct/runs/cpu.cfs_quota_us": "-1",
	})
	limits, err := Probe(ProbeConfig{Mode: ModeCgroup1, Name: "runs", Root: root, trial: func(Limits) error { return nil }})
	require.NoError(t, err)
	assert.Equal(t, map[string]string{
		"memory":  filepath.Join(root, "sys/fs/cgroup/memory m/inner/runs"),
		"cpu":     filepath.Join(root, "sys/fs/cgroup/cpu,cpuacct/runs"),
		"cpuacct": filepath.Join(root, "sys/fs/cgroup/cpu,cpuacct/runs"),
	}, limits.Parents)
	assert.Equal(t, "cgroup1 (memory and CPU)", limits.String())
}

func TestProbeAutoAndUnknown(t *testing.T) {
	t.Parallel()
	nothing := makeTree(t, map[string]string{"proc/self/mountinfo": "", "proc/thread-self/cgroup": ""})
	limits, err := Probe(ProbeConfig{Mode: ModeAuto, Name: "runs", Root: nothing})
	require.NoError(t, err)
	assert.Equal(t, ModeWatchdog, limits.Mode, "the mode that always works")
	_, err = Probe(ProbeConfig{Mode: "chains"})
	require.ErrorContains(t, err, "use auto, cgroup2, cgroup1 or watchdog")
}

func TestOwnMemoryLimitOfAContainer(t *testing.T) {
	t.Parallel()
	root := makeTree(t, map[string]string{
		"proc/self/mountinfo": mountinfo2, "proc/thread-self/cgroup": "0::/a/b\n",
		"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "2000000000\n",
	})
	assert.Equal(t, uint64(2_000_000_000), OwnMemoryLimit(root))
}
