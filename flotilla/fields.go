package flotilla

// valueOf is what p points to, or zero.
func valueOf[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// given is nil for a text that was not sent, or sent empty: old clients send
// both and mean the same.
func given(text *string) *string {
	if text == nil || *text == "" {
		return nil
	}
	return text
}
