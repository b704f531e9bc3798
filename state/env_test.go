package state

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestObjectsKeepNumbersAsTheyWereSent(t *testing.T) {
	t.Parallel()
	var o Object
	require.NoError(t, o.Scan([]byte(`{"n": 1000000, "big": 9007199254740993, "half": 0.5, "in": [{"n": -1}], "huge": 18446744073709551616, "price": 1.10}`)))
	assert.Equal(t, Object{
		"n": json.Number("1000000"), "big": json.Number("9007199254740993"), "half": json.Number("0.5"),
		"in": []any{map[string]any{"n": json.Number("-1")}}, "huge": json.Number("18446744073709551616"), "price": json.Number("1.10"),
	}, o)
	require.NoError(t, o.Scan(nil))
	assert.Nil(t, o)
	require.NoError(t, o.Scan([]byte(`null`)))
	assert.Nil(t, o)
	for _, wrong := range []string{`[]`, `"x"`} {
		assert.Error(t, json.Unmarshal([]byte(wrong), &o), wrong)
	}
}
