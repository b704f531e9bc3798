package services

import (
	"errors"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/Masterminds/sprig/v3"

	"github.com/stitchfix/flotilla-os/state"
)

// Bounds of rendering. A template is a program that a client hands us, and Go
// cannot interrupt one: so every loop turn, template call and function call of
// it passes through a check of ours, which ends it when it takes too much. No
// value can be larger than what a command can hold anyway.
const (
	// maxTemplate bounds the text of a template, in bytes.
	maxTemplate = 256 << 10
	// renderTime bounds how long a template may run.
	renderTime = 2 * time.Second
	// maxTemplateDepth bounds how deep templates may call each other.
	maxTemplateDepth = 1_000
)

// The checks that rendering puts into a template's tree.
const (
	stepFunc  = "flotilla_step"
	enterFunc = "flotilla_enter"
	leaveFunc = "flotilla_leave"
	showFunc  = "flotilla_show"
)

// forbiddenFuncs of sprig read the environment or the network of the server.
var forbiddenFuncs = []string{"env", "expandenv", "getHostByName"}

// renderCommand renders a command template with a payload.
func renderCommand(text string, payload state.Object, clock func() time.Time) (string, error) {
	limits := &budget{clock: clock, deadline: clock().Add(renderTime)}
	compiled, err := compileCommand(text, limits)
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

// compileCommand parses a command template and puts the checks of limits in.
func compileCommand(text string, limits *budget) (*template.Template, error) {
	funcs := sprig.TxtFuncMap()
	for _, name := range forbiddenFuncs {
		delete(funcs, name)
	}
	for name, fn := range printFuncs {
		funcs[name] = fn
	}
	for name, fn := range funcs {
		funcs[name] = limits.wrap(name, fn)
	}
	checks := template.FuncMap{
		stepFunc: limits.step, enterFunc: limits.enter, leaveFunc: limits.leave, showFunc: limits.show,
	}
	compiled, err := template.New("command").Funcs(funcs).Funcs(checks).Parse(text)
	if err != nil {
		return nil, err
	}
	for _, t := range compiled.Templates() {
		if t.Tree == nil || t.Root == nil {
			continue
		}
		guardList(t.Root)
		t.Root.Nodes = append(append([]parse.Node{call(enterFunc)}, t.Root.Nodes...), call(leaveFunc))
	}
	return compiled, nil
}

// call is the action that calls one of the checks with some texts.
func call(name string, texts ...string) *parse.ActionNode {
	action := "{{" + name
	for _, text := range texts {
		action += " " + strconv.Quote(text)
	}
	// Parsing only asks whether the function exists.
	trees, err := parse.Parse("check", action+"}}", "", "", map[string]any{name: call})
	if err != nil {
		panic("services: " + err.Error()) // the text is made right here: nothing that a user sends gets into it unquoted
	}
	parsed, _ := trees["check"].Root.Nodes[0].(*parse.ActionNode) // one action is one such node
	return parsed
}

// guardList has each turn of every loop counted, and every value checked
// before it is printed.
func guardList(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *parse.ActionNode:
			if len(n.Pipe.Decl) == 0 {
				n.Pipe.Cmds = append(n.Pipe.Cmds, call(showFunc, n.Pipe.String()).Pipe.Cmds[0])
			}
		case *parse.IfNode:
			guardList(n.List)
			guardList(n.ElseList)
		case *parse.WithNode:
			guardList(n.List)
			guardList(n.ElseList)
		case *parse.RangeNode:
			guardList(n.List)
			guardList(n.ElseList)
			n.List.Nodes = append([]parse.Node{call(stepFunc)}, n.List.Nodes...)
		}
	}
}

// boundedText takes as much text as a command may have.
type boundedText struct{ strings.Builder }

func (b *boundedText) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxCommand {
		return 0, errTooLong
	}
	return b.Builder.Write(p)
}
