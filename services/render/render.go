package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/Masterminds/sprig/v3"
)

// A template is a program of a client, and Go cannot interrupt one. So every turn of a loop, call of a template and
// call of a function passes a check of this package, which ends the rendering if it exceeds its budget. No value can be
// larger than what a command can hold.
const (
	// MaxTemplate bounds the text of a template, in bytes.
	MaxTemplate = 256 << 10
	// MaxCommand is the longest single argument that Linux passes to a program, in bytes: MAX_ARG_STRLEN without its
	// terminator.
	MaxCommand = 131_071
	// renderTime bounds how long a template may run.
	renderTime = 2 * time.Second
	// maxTemplateDepth bounds how deep templates may call each other.
	maxTemplateDepth = 1_000
)

// The functions that rendering puts into a template's tree.
const (
	stepFunc   = "flotilla_step"
	enterFunc  = "flotilla_enter"
	leaveFunc  = "flotilla_leave"
	showFunc   = "flotilla_show"
	numberFunc = "flotilla_number"
)

// CheckTemplate returns an error if text is no template.
func CheckTemplate(text string) error {
	_, err := compile(text, &budget{})
	return err
}

// Command renders a command template with a payload. Its errors are sentences for the client.
func Command(text string, payload map[string]any, clock func() time.Time) (string, error) {
	limits := &budget{clock: clock, deadline: clock().Add(renderTime)}
	compiled, err := compile(text, limits)
	if err != nil {
		return "", err
	}
	var out boundedText
	if err := compiled.Execute(&out, forTemplate(payload)); err != nil {
		if ours := (limitError{}); errors.As(err, &ours) {
			return "", ours
		}
		return "", err
	}
	return out.String(), nil
}

// compile parses a command template and puts the checks of limits in.
func compile(text string, limits *budget) (*template.Template, error) {
	funcs := sprig.TxtFuncMap()
	for _, name := range []string{"env", "expandenv", "getHostByName"} {
		delete(funcs, name) // they read the environment or the network of the server
	}
	// The functions of the template language itself that make texts.
	funcs["print"], funcs["println"], funcs["printf"] = fmt.Sprint, fmt.Sprintln, printf
	funcs["html"], funcs["js"], funcs["urlquery"] = template.HTMLEscaper, template.JSEscaper, template.URLQueryEscaper
	for name, fn := range funcs {
		funcs[name] = limits.wrap(name, fn)
	}
	checks := template.FuncMap{
		stepFunc: limits.step, enterFunc: limits.enter, leaveFunc: limits.leave, showFunc: limits.show, numberFunc: number,
	}
	compiled, err := template.New("command").Funcs(funcs).Funcs(checks).Parse(text)
	if err != nil {
		return nil, err
	}
	for _, t := range compiled.Templates() {
		if t.Tree == nil || t.Root == nil {
			continue
		}
		guard(t.Root)
		t.Root.Nodes = append(append([]parse.Node{call(enterFunc)}, t.Root.Nodes...), call(leaveFunc))
	}
	return compiled, nil
}

// call returns the action that calls one of the functions above with texts.
func call(name string, texts ...string) *parse.ActionNode {
	action := "{{" + name
	for _, text := range texts {
		action += " " + strconv.Quote(text)
	}
	// Parsing only checks that the function exists.
	trees, err := parse.Parse("check", action+"}}", "", "", map[string]any{name: call})
	if err != nil {
		panic("render: " + err.Error()) // the text above holds nothing of a user unquoted
	}
	parsed, _ := trees["check"].Root.Nodes[0].(*parse.ActionNode) // one action is one such node
	return parsed
}

// guard has each turn of every loop counted, every value checked before it is printed, and every number compared as
// one.
func guard(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *parse.ActionNode:
			compareNumbers(n.Pipe)
			if len(n.Pipe.Decl) == 0 {
				n.Pipe.Cmds = append(n.Pipe.Cmds, call(showFunc, n.Pipe.String()).Pipe.Cmds[0])
			}
		case *parse.IfNode:
			compareNumbers(n.Pipe)
			if len(n.Pipe.Decl) == 0 {
				n.Pipe.Cmds = append(n.Pipe.Cmds, call(numberFunc).Pipe.Cmds[0]) // 0.0 is false
			}
			guard(n.List)
			guard(n.ElseList)
		case *parse.WithNode:
			compareNumbers(n.Pipe)
			guard(n.List)
			guard(n.ElseList)
		case *parse.RangeNode:
			compareNumbers(n.Pipe)
			guard(n.List)
			guard(n.ElseList)
			n.List.Nodes = append([]parse.Node{call(stepFunc)}, n.List.Nodes...)
		case *parse.TemplateNode:
			compareNumbers(n.Pipe)
		}
	}
}

// comparisons are the functions of the template language that compare only values of one kind.
var comparisons = []string{"eq", "ne", "lt", "le", "gt", "ge"}

// compareNumbers has the arguments of comparisons passed through number.
func compareNumbers(pipe *parse.PipeNode) {
	if pipe == nil {
		return
	}
	var cmds []*parse.CommandNode
	for i, cmd := range pipe.Cmds {
		for _, arg := range cmd.Args {
			if inner, ok := arg.(*parse.PipeNode); ok {
				compareNumbers(inner)
			}
		}
		if name, ok := cmd.Args[0].(*parse.IdentifierNode); ok && slices.Contains(comparisons, name.Ident) {
			if i > 0 {
				cmds = append(cmds, call(numberFunc).Pipe.Cmds[0])
			}
			for j, arg := range cmd.Args[1:] {
				wrapped := call(numberFunc).Pipe
				wrapped.Cmds[0].Args = append(wrapped.Cmds[0].Args, arg)
				cmd.Args[j+1] = wrapped
			}
		}
		cmds = append(cmds, cmd)
	}
	pipe.Cmds = cmds
}

// forTemplate returns a copy of value for a template, which may change what it is given. Numbers that Go prints as they
// were sent become Go's own; the others stay json.Number, which is a text for the template.
func forTemplate(value any) any {
	switch v := value.(type) {
	case json.Number:
		n := number(v)
		if _, large := n.(uint64); !large && fmt.Sprint(n) == v.String() {
			return n
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, member := range v {
			out[name] = forTemplate(member)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = forTemplate(item)
		}
		return out
	}
	return value
}

// largestExact is the largest float64 below which every whole number is exact.
const largestExact = 1 << 53

// number returns the number that a json.Number stands for, whole ones as integers, and any other value as it is. A
// number beyond float64 stays what it is.
func number(value any) any {
	text, ok := value.(json.Number)
	if !ok {
		return value
	}
	if n, err := text.Int64(); err == nil {
		return n
	}
	if n, err := strconv.ParseUint(text.String(), 10, 64); err == nil {
		return n
	}
	n, err := text.Float64()
	switch {
	case err != nil:
		return value
	case n == float64(int64(n)) && max(n, -n) < largestExact:
		return int64(n)
	}
	return n
}

// printf is fmt.Sprintf for values of a template: a json.Number is printed as it was sent by %v, %s and %q, and as a
// number by the verbs of numbers.
func printf(format string, args ...any) string {
	for i, arg := range args {
		if text, ok := arg.(json.Number); ok {
			args[i] = formattedNumber(text)
		}
	}
	return fmt.Sprintf(format, args...)
}

type formattedNumber json.Number

// Format implements fmt.Formatter.
func (n formattedNumber) Format(f fmt.State, verb rune) {
	var value any = string(n)
	switch verb {
	case 'b', 'c', 'd', 'o', 'O', 'U':
		value = number(json.Number(n))
	case 'e', 'E', 'f', 'F', 'g', 'G':
		if float, err := json.Number(n).Float64(); err == nil {
			value = float
		}
	}
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), value) // the fmt.State is a buffer
}

// boundedText is an io.Writer for at most as much text as a command may have.
type boundedText struct{ strings.Builder }

func (b *boundedText) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxCommand {
		return 0, errTooLong
	}
	return b.Builder.Write(p)
}
