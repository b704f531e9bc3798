package state

import (
	"bytes"
	"database/sql/driver"
	"encoding/json"
)

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

// UnmarshalJSON keeps numbers as they were sent, as json.Number: a command that is rendered from them holds the same
// digits.
func (o *Object) UnmarshalJSON(raw []byte) error {
	// A second look at what cannot be an object names it rightly in the error.
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || trimmed[0] != '{' {
		return json.Unmarshal(raw, (*map[string]any)(o))
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	members := map[string]any{}
	if err := decoder.Decode(&members); err != nil {
		return err
	}
	*o = members
	return nil
}

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
