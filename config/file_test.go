package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shipped is the folder of the configuration file that is part of the program.
var shipped = filepath.Join("..", "conf")

func TestShippedFileHoldsEveryKeyWithItsDefault(t *testing.T) {
	t.Parallel()
	got, warnings, err := Load(shipped, nil)
	require.NoError(t, err)
	assert.Empty(t, warnings)
	want := Default()
	want.EMR, want.Queue = map[string]string{}, map[string]string{}
	for _, c := range []*Config{&got, &want} {
		for _, f := range fields(c) {
			if list, ok := f.value.Interface().([]string); ok && len(list) == 0 {
				f.value.SetZero()
			}
		}
	}
	assert.Equal(t, want, got)

	keys, commented := keysOf(t, filepath.Join(shipped, FileName))
	slices.Sort(keys)
	assert.Equal(t, Keys(), keys, "the keys of the file and of Config")
	for key, has := range commented {
		assert.True(t, has, "%s has no comment above it", key)
	}
}

// keysOf reads the keys of a file line by line, and whether a comment stands right above each.
func keysOf(t *testing.T, file string) (keys []string, commented map[string]bool) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	line := regexp.MustCompile(`^( *)([a-z0-9_-]+):(.*)$`)
	commented = map[string]bool{}
	var path []string
	lines := strings.Split(string(text), "\n")
	for i, current := range lines {
		match := line.FindStringSubmatch(current)
		if match == nil {
			continue
		}
		depth := len(match[1]) / 2
		path = append(path[:depth:depth], match[2])
		key := strings.Join(path, ".")
		commented[key] = i > 0 && strings.HasPrefix(strings.TrimSpace(lines[i-1]), "# ")
		isGroup := slices.ContainsFunc(Keys(), func(k string) bool { return strings.HasPrefix(k, key+".") })
		if !isGroup {
			keys = append(keys, key)
		}
	}
	return keys, commented
}

func TestEveryKeyHasItsOwnVariable(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, key := range Keys() {
		assert.Empty(t, seen[EnvName(key)], "%s and %s share a variable", key, seen[EnvName(key)])
		seen[EnvName(key)] = key
	}
}

func TestDefaultsAreValidAndBounded(t *testing.T) {
	t.Parallel()
	c := Default()
	require.NoError(t, c.Validate())
	for _, f := range fields(&c) {
		if strings.Contains(f.allowed(), "number") {
			assert.NotEmpty(t, f.tag.Get("min"), f.key)
			assert.NotEmpty(t, f.tag.Get("max"), f.key)
		}
	}
}
