package render

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/testkit"
)

func TestRenderCommand(t *testing.T) {
	t.Parallel()
	payload := state.Object{
		"name": "ada", "rows": json.Number("1000000"), "ratio": json.Number("0.5"), "null": nil,
		"list": []any{"a", "b"}, "deep": map[string]any{"x": map[string]any{"y": json.Number("2")}}, "ok": true,
	}
	cases := map[string]struct{ text, want string }{
		"plain text stays":                             {"echo hi # {", "echo hi # {"},
		"a value of the payload":                       {"echo {{.name}}", "echo ada"},
		"a whole number is written whole":              {"{{.rows}}", "1000000"},
		"a fraction is written as one":                 {"{{.ratio}}", "0.5"},
		"whole numbers compare with those of the text": {"{{if eq .rows 1000000}}yes{{end}}", "yes"},
		"nested objects":                               {"{{.deep.x.y}}", "2"},
		"a loop":                                       {"{{range $i, $v := .list}}{{$i}}={{$v}} {{end}}", "0=a 1=b "},
		"a loop over nothing":                          {"{{range .none}}x{{else}}empty{{end}}", "empty"},
		"a loop that is left":                          {"{{range .list}}{{.}}{{break}}{{end}}", "a"},
		"a sprig function":                             {"{{.name | upper | quote}}", `"ADA"`},
		"a default for what is absent":                 {"{{.absent | default \"d\"}}", "d"},
		"a default for null":                           {"{{.null | default \"d\"}}", "d"},
		"a variable that is set prints nothing":        {"{{$x := .name}}[{{$x}}]{{$x = \"b\"}}{{$x}}", "[ada]b"},
		"a template within":                            {"{{define \"t\"}}<{{.}}>{{end}}{{template \"t\" .name}}", "<ada>"},
		"with":                                         {"{{with .deep}}{{.x.y}}{{else}}no{{end}}", "2"},
		"dates as numbers in a format":                 {"{{printf \"%d-%s\" 20260101 .name}}", "20260101-ada"},
		"dates as numbers in a range":                  {"{{untilStep 20260101 20260104 1 | join \",\"}}", "20260101,20260102,20260103"},
		"a sequence":                                   {"{{seq 2 2 6}} {{seq 3}}", "2 4 6 1 2 3"},
		"JSON of an object":                            {"{{.deep | toJson}}", `{"x":{"y":2}}`},
		"a false and a zero are values":                {"{{not .ok}} {{sub 1 1}}", "false 0"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Command(c.text, payload, (&testkit.Clock{}).Now)
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
		})
	}
}

func TestNumbersAreRenderedAsTheyWereSent(t *testing.T) {
	t.Parallel()
	payload := map[string]any{}
	require.NoError(t, decode(`{"big": 12345678901234567890, "price": 1.10, "huge": 1e400, "n": 7, "whole": 5.0, "exp": 1e2,
		"zero": 0.0, "list": [1.10, {"x": 1e6}], "tiny": 1e-7, "negative": -2.50}`, &payload))
	cases := map[string]struct{ text, want string }{
		"as sent":                 {"{{.big}} {{.price}} {{.huge}} {{.n}} {{.whole}} {{.exp}} {{.tiny}}", "12345678901234567890 1.10 1e400 7 5.0 1e2 1e-7"},
		"within lists":            {"{{range .list}}{{.}},{{end}}", "1.10,map[x:1e6],"},
		"in JSON":                 {"{{toJson .list}} {{.big | toJson}}", `[1.10,{"x":1e6}] 12345678901234567890`},
		"quoted":                  {"{{.price | quote}} {{.n | squote}}", `"1.10" '7'`},
		"printed":                 {"{{print .price .n}} {{printf \"%s %v %q\" .price .huge .big}}", `1.107 1.10 1e400 "12345678901234567890"`},
		"added":                   {"{{add .n 1}} {{add .whole 1}} {{addf .price 1}} {{mul .exp 2}} {{max 1 .exp}} {{sub .exp .whole}} {{round .price 1}} {{add1 .exp}}", "8 6 2.1 200 100 95 1.1 101"},
		"converted":               {"{{int .n}} {{int .whole}} {{int64 .price}} {{float64 .price}} {{.n | int | add 1}} {{int .exp}}", "7 5 1 1.1 8 100"},
		"formatted":               {"{{printf \"%d %03d %.3f %6.2f %g\" .whole .n .price .negative .exp}}", "5 007 1.100  -2.50 100"},
		"compared":                {"{{eq .whole 5}} {{gt .price 1.0}} {{lt .price 1.2}} {{.n | eq 7}} {{ne .exp 100}} {{.price | le 1.1}} {{eq .huge .huge}}", "true true true true false true true"},
		"compared within a call":  {"{{if and (gt .price 1.0) (eq .whole 5)}}yes{{end}}", "yes"},
		"as a condition":          {"{{if .zero}}yes{{else}}no{{end}} {{if .price}}yes{{end}}", "no yes"},
		"as the count of a range": {"{{range until .whole}}x{{end}} {{untilStep 0 .exp 50 | join \",\"}}", "xxxxx 0,50"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Command(c.text, payload, (&testkit.Clock{}).Now)
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
		})
	}
	for name, c := range map[string]struct{ text, want string }{
		"a count that is no number":    {"{{until \"x\"}}", "needs a number"},
		"a count that is no integer":   {"{{until .price}}", "needs a number"},
		"a count that is absent":       {"{{until .absent}}", "needs a number"},
		"a count that is far too high": {"{{until .big}}", "needs a number"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Command(c.text, payload, (&testkit.Clock{}).Now)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func decode(text string, into *map[string]any) error {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	return decoder.Decode(into)
}

// A template is a program of a client. Each of these would exhaust the memory or the CPU of the server, or end it.
func TestHostileTemplatesEnd(t *testing.T) {
	t.Parallel()
	double := "{{$s := \"xxxxxxxxxx\"}}{{range until 60}}"
	cases := map[string]struct{ text, want string }{
		"the environment":                 {`{{env "HOME"}}`, `function "env" not defined`},
		"the environment, expanded":       {`{{expandenv "$HOME"}}`, `function "expandenv" not defined`},
		"the network":                     {`{{getHostByName "localhost"}}`, `function "getHostByName" not defined`},
		"a loop over a number":            {`{{range 1000000000000}}{{end}}`, errTooSlow.Error()},
		"a loop within a loop":            {`{{range 1000000000}}{{range 1000000000}}{{end}}{{end}}`, errTooSlow.Error()},
		"a list of a billion":             {`{{range until 1000000000}}{{end}}`, errTooLarge.Error()},
		"the smallest number":             {`{{range until -9223372036854775808}}{{end}}`, errTooLarge.Error()},
		"a huge step":                     {`{{untilStep 0 1000000000 1}}`, errTooLarge.Error()},
		"a huge sequence":                 {`{{seq 1 1000000000}}`, errTooLarge.Error()},
		"a text, repeated":                {`{{repeat 1000000000 "x"}}`, errTooLarge.Error()},
		"a wide format":                   {`{{printf "%1000000000d" 1}}`, "%!(NOVERB)"},
		"many wide formats":               {`{{printf "` + strings.Repeat("%999999d", 100) + `" 1}}`, errTooLarge.Error()},
		"widths that are arguments":       {`{{printf "` + strings.Repeat("%[1]*[1]d", 100) + `" 999999}}`, errTooLarge.Error()},
		"one argument, many times":        {`{{$s := repeat 100000 "x"}}{{printf "` + strings.Repeat("%[1]s", 1000) + `" $s}}`, errTooLarge.Error()},
		"a text that doubles":             {double + `{{$s = cat $s $s}}{{end}}{{$s}}`, errTooLarge.Error()},
		"a text that doubles by print":    {double + `{{$s = print $s $s}}{{end}}`, errTooLarge.Error()},
		"a list that doubles":             {`{{$l := list 1 2}}{{range until 60}}{{$l = concat $l $l}}{{end}}`, errTooLarge.Error()},
		"a list of itself that doubles":   {`{{$l := list 1}}{{range until 60}}{{$l = list $l $l}}{{end}}{{$l}}`, "too"},
		"a replacement between all bytes": {`{{$s := repeat 100000 "x"}}{{replace "" $s $s}}`, errTooLarge.Error()},
		"a regexp replacement":            {`{{$s := repeat 100000 "x"}}{{regexReplaceAll "x" $s $s}}`, errTooLarge.Error()},
		"an indentation":                  {`{{"x" | indent 1000000000}}`, errTooLarge.Error()},
		"a random text":                   {`{{randAlphaNum 1000000000}}`, errTooLarge.Error()},
		"a dictionary in itself":          {`{{$d := dict}}{{$_ := set $d "a" $d}}{{$d}}`, errTooDeep.Error()},
		"a template in itself":            {`{{define "t"}}{{template "t"}}{{end}}{{template "t"}}`, errTooManyIn.Error()},
		"a template in itself, twice":     {`{{define "t"}}{{template "t"}}{{template "t"}}{{end}}{{template "t"}}`, errTooManyIn.Error()},
		"many variables":                  {strings.Repeat(`{{$a := repeat 200000 "x"}}`, 400), errTooLarge.Error()},
		"a long result":                   {`{{range until 10000}}0123456789012345{{end}}`, errTooLong.Error()},
		"a value that is not there":       {"echo {{ .absent }}", "{{.absent}}, which the payload does not have"},
		"a value within what is not":      {"echo {{.absent.x}}", "which the payload does not have"},
		"a panic of a function":           {"{{div 1 0}}", "divide by zero"},
		"its own failure":                 {`{{fail "no table given"}}`, "no table given"},
		"not a template":                  {"{{", "unclosed action"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Only an endless loop needs time to pass.
			clock := (&testkit.Clock{}).Now
			if c.want == errTooSlow.Error() {
				clock = time.Now
			}
			start := time.Now()
			got, err := Command(c.text, state.Object{}, clock)
			if err == nil {
				err = errors.New(got)
			}
			assert.ErrorContains(t, err, c.want)
			assert.LessOrEqual(t, len(state.Shorten(err.Error(), maxSentence)), 1003, "the error is a sentence")
			assert.Less(t, time.Since(start), time.Minute)
		})
	}
}

func TestEachRenderingHasItsOwnBudget(t *testing.T) {
	t.Parallel()
	for range 3 {
		got, err := Command(`{{range until 100}}{{$_ := repeat 200000 "x"}}{{end}}done`, nil, (&testkit.Clock{}).Now)
		require.NoError(t, err)
		assert.Equal(t, "done", got)
	}
}
