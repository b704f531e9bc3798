package state

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// timeForm matches a time as PostgreSQL's timestamptz input takes it from real clients (rest-api.md, Lists): a date
// with or without dashes; T or blanks; a time with or without colons, down to the hour; and a zone.
var timeForm = regexp.MustCompile(`(?i)^(\d{4})(-?)(\d{2})(-?)(\d{2})` +
	`(?:(?:t|\s+)(\d{2})(?:(:?)(\d{2})(?:(:?)(\d{2})(?:\.(\d+))?)?)?)?` +
	`(?:\s*(z|utc|gmt)|\s*([+-]| )(\d{2}):?(\d{2})?)?$`)

// mailForms are the layouts of RFC 1123 and its variants, all with GMT, UTC or an offset.
var mailForms = []string{
	"Mon, 2 Jan 2006 15:04:05 GMT", "Mon, 2 Jan 2006 15:04:05 UTC", "Mon, 2 Jan 2006 15:04:05 -0700",
	"2 Jan 2006 15:04:05 GMT", "2 Jan 2006 15:04:05 UTC", "2 Jan 2006 15:04:05 -0700",
}

// parseTime returns the time of a value in one of the forms of rest-api.md, Lists. Without a zone it is in UTC.
// Fractions are rounded to microseconds, as Postgres does. It returns MalformedInput for what no timestamp can be
// compared with sensibly (infinity, years before 1 and after 9999, other zone names).
func parseTime(name, value string, now time.Time) (time.Time, error) {
	text := strings.TrimSpace(value)
	midnight := now.UTC().Truncate(24 * time.Hour)
	switch strings.ToLower(text) {
	case "now":
		return now.UTC(), nil
	case "today":
		return midnight, nil
	case "yesterday":
		return midnight.AddDate(0, 0, -1), nil
	case "tomorrow":
		return midnight.AddDate(0, 0, 1), nil
	case "epoch":
		return time.Unix(0, 0).UTC(), nil
	}
	for _, form := range mailForms {
		if at, err := time.Parse(form, text); err == nil {
			return at.UTC(), nil
		}
	}
	if m := timeForm.FindStringSubmatch(text); m != nil {
		if at, ok := timeOf(m); ok {
			return at, nil
		}
	}
	return time.Time{}, Malformedf("the filter %s needs a time such as 2006-01-02T15:04:05Z or 2006-01-02, not %q",
		name, shortened(value))
}

// timeOf returns the time that the parts found by timeForm make, if they make one.
func timeOf(m []string) (at time.Time, ok bool) {
	number := func(i int) int {
		n, _ := strconv.Atoi(m[i]) // digits, or nothing
		return n
	}
	year, month, day, hour, minute, second := number(1), number(3), number(5), number(6), number(8), number(10)
	switch {
	// A date is written with dashes or without, a time with colons or without.
	case m[2] != m[4], m[10] != "" && m[7] != m[9],
		// Without a time there is nothing for an offset to apply to.
		m[6] == "" && m[14] != "",
		// An hour alone needs a zone; Postgres reads it as something else.
		m[6] != "" && m[8] == "" && m[12] == "" && m[14] == "",
		year == 0, hour > 24, hour == 24 && minute+second > 0, minute > 59, second > 60, number(14) > 15, number(15) > 59:
		return at, false
	}
	date := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if date.Day() != day || int(date.Month()) != month {
		return at, false // 30 February
	}
	fraction, err := strconv.ParseFloat("0."+m[11]+"0", 64)
	if err != nil {
		return at, false
	}
	offset := time.Duration(number(14))*time.Hour + time.Duration(number(15))*time.Minute
	if m[13] == "-" {
		offset = -offset // A "+" may have arrived as a blank.
	}
	at = date.Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second +
		time.Duration(math.Round(fraction*1e6))*time.Microsecond - offset)
	return at, true
}
