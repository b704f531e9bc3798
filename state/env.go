package state

import "database/sql/driver"

// EnvVar is one environment variable of a definition or a run.
type EnvVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// EnvList is an environment in the order in which it was given; of two
// variables with one name the later counts.
type EnvList []EnvVar

// Scan implements sql.Scanner.
func (e *EnvList) Scan(src any) error { return scanJSON(e, src) }

// Value implements driver.Valuer.
func (e EnvList) Value() (driver.Value, error) { return valueJSON([]EnvVar(e)) }

// Labels are a run's own labels.
type Labels map[string]string

// Scan implements sql.Scanner.
func (l *Labels) Scan(src any) error { return scanJSON((*map[string]string)(l), src) }

// Value implements driver.Valuer.
func (l Labels) Value() (driver.Value, error) { return valueJSON(map[string]string(l)) }

// Object is a JSON object whose members Flotilla does not know.
type Object map[string]any

// Scan implements sql.Scanner.
func (o *Object) Scan(src any) error { return scanJSON(o, src) }

// Value implements driver.Valuer.
func (o Object) Value() (driver.Value, error) { return valueJSON(map[string]any(o)) }

// Strings is a JSON array of strings.
type Strings []string

// Scan implements sql.Scanner.
func (s *Strings) Scan(src any) error { return scanJSON((*[]string)(s), src) }

// Value implements driver.Valuer.
func (s Strings) Value() (driver.Value, error) { return valueJSON([]string(s)) }

// Ports are the ports that a container opens.
type Ports []int64

// Scan implements sql.Scanner.
func (p *Ports) Scan(src any) error { return scanJSON((*[]int64)(p), src) }

// Value implements driver.Valuer.
func (p Ports) Value() (driver.Value, error) { return valueJSON([]int64(p)) }
