package config

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shipped is the folder of the program's own configuration file.
var shipped = filepath.Join("..", "conf")

func TestShippedFileHoldsEveryKeyWithItsDefault(t *testing.T) {
	t.Parallel()
	got, warnings, err := Load(shipped, nil)
	require.NoError(t, err)
	assert.Empty(t, warnings)
	want := Default()
	for _, c := range []*Config{&got, &want} {
		for _, f := range fields(c) {
			if list, ok := f.value.Interface().([]string); ok && len(list) == 0 {
				f.value.SetZero()
			}
			if f.value.Kind() == reflect.Map && f.value.Len() == 0 {
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

// keysOf returns the keys of a file, read line by line, and whether each has a comment right above it.
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
	require.NoError(t, c.validate())
	for _, f := range fields(&c) {
		if strings.Contains(f.allowed(), "number") {
			assert.NotEmpty(t, f.tag.Get("min"), f.key)
			assert.NotEmpty(t, f.tag.Get("max"), f.key)
		}
	}
}

// TestEveryKeyIsRead keeps Config free of keys that nothing uses: an operator would set them in vain. A field counts as
// read if its name, with that of its group if two groups have such a field, is selected in code outside this package.
func TestEveryKeyIsRead(t *testing.T) {
	t.Parallel()
	names := map[string]int{}
	type setting struct{ key, group, name string }
	var settings []setting
	var walk func(typ reflect.Type, group string)
	walk = func(typ reflect.Type, group string) {
		for f := range typ.Fields() {
			if key := f.Tag.Get("key"); key != "" {
				names[f.Name]++
				settings = append(settings, setting{key, group, f.Name})
			} else if f.Type.Kind() == reflect.Struct {
				walk(f.Type, f.Name)
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
	require.Greater(t, len(settings), 50)

	read := selectedOutside(t, "..")
	for _, s := range settings {
		wanted := s.name
		if names[s.name] > 1 {
			wanted = strings.ToLower(s.group) + "." + s.name
		}
		if s.key == "ara.cluster_max_memory" {
			wanted = "MaxMemoryOf" // its reader within this package
		}
		assert.True(t, read[wanted], "%s is read by nothing outside this package (no %s)", s.key, wanted)
	}
}

// selectedOutside returns what the program's code outside this package selects: "name" of x.name, and "group.name" of
// Group.name and x.Group.name. Places that are only assigned to do not count.
func selectedOutside(t *testing.T, root string) map[string]bool {
	t.Helper()
	read := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "config" || strings.HasPrefix(d.Name(), ".") && d.Name() != "..") {
			return cmp.Or(err, fs.SkipDir)
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		assigned := map[ast.Expr]bool{}
		ast.Inspect(file, func(n ast.Node) bool {
			if assignment, ok := n.(*ast.AssignStmt); ok {
				for _, place := range assignment.Lhs {
					assigned[place] = true
				}
			}
			selector, ok := n.(*ast.SelectorExpr)
			if !ok || assigned[selector] {
				return true
			}
			read[selector.Sel.Name] = true
			switch group := selector.X.(type) {
			case *ast.SelectorExpr:
				read[strings.ToLower(group.Sel.Name)+"."+selector.Sel.Name] = true
			case *ast.Ident:
				read[strings.ToLower(group.Name)+"."+selector.Sel.Name] = true
			}
			return true
		})
		return nil
	})
	require.NoError(t, err)
	return read
}
