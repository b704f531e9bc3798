package state

import (
	"strings"

	"github.com/google/uuid"
)

// NewRunID makes the id of a run: the engine's name, a dash, and a random UUID
// without its first characters, so that the whole is 36 characters long
// (rest-api.md, Run).
func NewRunID(engine string) string {
	return engine + "-" + uuid.NewString()[len(engine)+1:]
}

// NewDefinitionID makes the id of a definition: its group, with every
// character outside [A-Za-z0-9_.-] as a dash, a dash, and a random UUID.
func NewDefinitionID(group string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
			return r
		}
		return '-'
	}, group)
	return clean + "-" + uuid.NewString()
}

// NewTemplateID makes the id of a template: "tpl-" and a random UUID without
// its first four characters.
func NewTemplateID() string {
	return "tpl-" + uuid.NewString()[4:]
}
