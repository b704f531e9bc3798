package render

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stitchfix/flotilla-os/state"
)

const (
	// maxValue bounds one value of a template: its texts in bytes plus its members, counted as often as they are printed.
	maxValue = 256 << 10
	// maxResult bounds the result of one function before it is called.
	maxResult = 16 << 20
	// maxMade bounds what all functions of one rendering make together.
	maxMade = 64 << 20
	// maxNesting bounds how deep a value may be nested.
	maxNesting = 100
)

// limitError is an error of the checks of this package. It is shown without its place in the tree, which is not one in
// the template.
type limitError struct{ message string }

func (e limitError) Error() string { return e.message }

var (
	errTooSlow   = limitError{"the template runs longer than " + renderTime.String()}
	errTooLarge  = limitError{"the template makes values that are too large for a command"}
	errTooDeep   = limitError{"the template makes values that are nested too deeply, or in a circle"}
	errTooManyIn = limitError{fmt.Sprintf("templates call each other more than %d deep", maxTemplateDepth)}
	errTooLong   = limitError{fmt.Sprintf("the rendered command is longer than %d bytes", MaxCommand)}
)

// budget holds what one rendering has used, and its deadline.
type budget struct {
	clock    func() time.Time
	deadline time.Time
	made     int
	depth    int
}

// step is called in each turn of a loop.
func (b *budget) step() (string, error) {
	if b.clock().After(b.deadline) {
		return "", errTooSlow
	}
	return "", nil
}

// enter is called at the beginning of a template, leave at its end.
func (b *budget) enter() (string, error) {
	b.depth++
	if b.depth > maxTemplateDepth {
		return "", errTooManyIn
	}
	return b.step()
}

func (b *budget) leave() string {
	b.depth--
	return ""
}

// show is called with each value before it is printed, and with its expression in the template. Go prints an absent
// value as <no value>, which is wrong in a command.
func (b *budget) show(expression string, value any) (any, error) {
	if value == nil {
		return nil, limitError{"it prints {{" + state.Shorten(expression, maxSentence) + "}}, which the payload does not have and the template gives no default for"}
	}
	_, err := weigh(reflect.ValueOf(value))
	return value, err
}

// arithmetic lists the functions that read their arguments as numbers whatever their type. They do not know every form
// of a json.Number.
var arithmetic = []string{
	"add", "add1", "sub", "div", "mod", "mul", "max", "min", "biggest", "int", "int64",
	"addf", "add1f", "subf", "divf", "mulf", "maxf", "minf", "float64", "floor", "ceil", "round",
}

// wrap returns fn with its cost checked: before the call by its arguments, after it by its result. If fn takes a
// number, the wrapped function also accepts a json.Number.
func (b *budget) wrap(name string, fn any) any {
	inner := reflect.ValueOf(fn)
	t := inner.Type()
	in := make([]reflect.Type, t.NumIn())
	for i := range in {
		in[i] = t.In(i)
		if numeric(in[i]) {
			in[i] = reflect.TypeFor[any]()
		}
	}
	out := []reflect.Type{t.Out(0), reflect.TypeFor[error]()}
	wrapped := func(args []reflect.Value) []reflect.Value {
		for i := range args {
			switch {
			case numeric(t.In(i)):
				n, want := reflect.ValueOf(number(args[i].Interface())), reflect.Zero(t.In(i))
				if !n.IsValid() || !numeric(n.Type()) || want.CanInt() && !n.CanInt() {
					return failed(t.Out(0), fmt.Errorf("%s needs a number of type %s, not %v", name, t.In(i), args[i]))
				}
				args[i] = n.Convert(t.In(i))
			case !slices.Contains(arithmetic, name):
			case t.IsVariadic() && i == t.NumIn()-1:
				numbers, _ := args[i].Interface().([]any)
				for j := range numbers {
					numbers[j] = number(numbers[j])
				}
			case !args[i].IsNil():
				args[i] = reflect.ValueOf(number(args[i].Interface()))
			}
		}
		if err := b.before(name, args); err != nil {
			return failed(t.Out(0), err)
		}
		var results []reflect.Value
		if t.IsVariadic() {
			results = inner.CallSlice(args)
		} else {
			results = inner.Call(args)
		}
		if len(results) == 2 && !results[1].IsNil() {
			return results
		}
		if err := b.after(results[0]); err != nil {
			return failed(t.Out(0), err)
		}
		return []reflect.Value{results[0], reflect.Zero(out[1])}
	}
	return reflect.MakeFunc(reflect.FuncOf(in, out, t.IsVariadic()), wrapped).Interface()
}

// numeric reports whether t is an integer or floating-point type.
func numeric(t reflect.Type) bool {
	return t.Kind() >= reflect.Int && t.Kind() <= reflect.Float64 && t.Kind() != reflect.Uintptr
}

func failed(t reflect.Type, err error) []reflect.Value {
	return []reflect.Value{reflect.Zero(t), reflect.ValueOf(&err).Elem()}
}

func (b *budget) before(name string, args []reflect.Value) error {
	if _, err := b.step(); err != nil {
		return err
	}
	for _, arg := range args {
		if _, err := weigh(arg); err != nil {
			return err
		}
	}
	if estimate := resultSizes[name]; estimate != nil && estimate(args) > maxResult {
		return errTooLarge
	}
	return nil
}

func (b *budget) after(result reflect.Value) error {
	weight, err := weigh(result)
	b.made += weight
	if err == nil && b.made > maxMade {
		err = errTooLarge
	}
	return err
}

// weigh returns the size of a value as a tree: what is reached twice counts twice, because it would be printed twice. A
// circle has no size and is an error.
func weigh(v reflect.Value) (int, error) {
	total := 0
	err := addWeight(v, 0, &total)
	return total, err
}

func addWeight(v reflect.Value, depth int, total *int) error {
	if depth > maxNesting {
		return errTooDeep
	}
	*total++
	switch v.Kind() {
	case reflect.String:
		*total += v.Len()
	case reflect.Interface:
		return addWeight(v.Elem(), depth, total)
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			*total += v.Len()
			break
		}
		for i := range v.Len() {
			if err := addWeight(v.Index(i), depth+1, total); err != nil {
				return err
			}
		}
	case reflect.Map:
		for members := v.MapRange(); members.Next(); {
			if err := addWeight(members.Key(), depth+1, total); err != nil {
				return err
			}
			if err := addWeight(members.Value(), depth+1, total); err != nil {
				return err
			}
		}
	}
	if *total > maxValue {
		return errTooLarge
	}
	return nil
}

// resultSizes estimates from above the size of the results that may be much larger than the arguments.
var resultSizes = map[string]func(args []reflect.Value) int{
	"repeat": product, "indent": product, "nindent": product, "join": product, "replace": product,
	"wrap": product, "wrapWith": product, "until": product,
	"randAlphaNum": product, "randAlpha": product, "randAscii": product, "randNumeric": product, "randBytes": product,
	"regexReplaceAll": product, "mustRegexReplaceAll": product,
	"regexReplaceAllLiteral": product, "mustRegexReplaceAllLiteral": product,
	"untilStep": steps, "seq": sequence, "printf": formatted,
}

// magnitude returns the size of a text or list, or a number as a count.
func magnitude(v reflect.Value) int {
	for v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if v.CanInt() {
		if n := v.Int(); n >= -maxResult && n <= maxResult {
			return int(max(n, -n))
		}
		return maxResult + 1
	}
	weight, err := weigh(v)
	if err != nil {
		return maxResult + 1
	}
	return weight
}

// product returns the product of the two largest arguments.
func product(args []reflect.Value) int {
	first, second := 1, 1
	for _, arg := range args {
		switch m := magnitude(arg); {
		case m > first:
			first, second = m, first
		case m > second:
			second = m
		}
	}
	return first * second
}

// span returns the bytes of the numbers from first to last, each of up to 20 digits. A step only makes them fewer.
func span(first, last int64) int {
	const digits = 20
	if n := uint64(max(first, last)) - uint64(min(first, last)); n < maxResult/digits { //nolint:gosec // the difference is right modulo 2^64
		return int(n) * digits
	}
	return maxResult + 1
}

// steps returns the span of untilStep's start, stop and step.
func steps(args []reflect.Value) int { return span(args[0].Int(), args[1].Int()) }

// sequence returns the span of seq's arguments: the last; first and last; or first, step and last.
func sequence(args []reflect.Value) int {
	numbers := args[0]
	switch n := numbers.Len(); n {
	case 0:
		return 0
	case 1:
		return span(1, numbers.Index(0).Int())
	default:
		return span(numbers.Index(0).Int(), numbers.Index(n-1).Int())
	}
}

// formatSpec finds the flags, width and precision of each verb of a format.
var formatSpec = regexp.MustCompile(`%[-+# 0-9.*\[\]]*`)

// formatNumber finds a width, a precision or an argument's index.
var formatNumber = regexp.MustCompile(`[0-9]+`)

// widestNumber is more than printf makes of a number without a width;
// widestStar is the largest width that it takes from an argument.
const (
	widestNumber = 400
	widestStar   = 1_000_000
)

// formatted returns the largest size of what printf makes: each verb may print any argument again, in its own width.
func formatted(args []reflect.Value) int {
	format := args[0].String()
	largest := widestNumber
	for i := range args[1].Len() {
		if weight, err := weigh(args[1].Index(i)); err == nil {
			largest = max(largest, weight)
		}
	}
	size := len(format)
	for _, spec := range formatSpec.FindAllString(format, -1) {
		size += largest + widestStar*strings.Count(spec, "*")
		for _, digits := range formatNumber.FindAllString(spec, -1) {
			n, err := strconv.Atoi(digits)
			if err != nil {
				return maxResult + 1
			}
			size += min(n, widestStar)
		}
	}
	return size
}
