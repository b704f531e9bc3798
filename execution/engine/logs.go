package engine

import (
	"fmt"

	"github.com/stitchfix/flotilla-os/clients/logs"
)

// JoinAttempts reads a part of a run's log as rest-api.md, "Logs", defines it: the logs of its attempts in order, each
// after the first opened by a line that names it. read returns a part of one attempt's log; an attempt that is not
// Complete ends the log for now. An attempt that wrote nothing has no opening line, so that positions behind it stay
// valid if it begins to write.
func JoinAttempts(attempts int64, q LogQuery, read func(attempt, offset, limit int64) (logs.Part, error)) (LogChunk, error) {
	var chunk LogChunk
	offset := max(0, q.Offset)
	skip, left := offset, max(1, q.Limit)
	var end int64 // of the attempts that were read
	for attempt := int64(1); attempt <= attempts && left > 0; attempt++ {
		heading := ""
		if attempt > 1 {
			heading = fmt.Sprintf("--- attempt %d ---\n", attempt)
		}
		opening := int64(len(heading))
		part, err := read(attempt, max(0, skip-opening), left)
		if err != nil {
			return LogChunk{Next: offset}, err
		}
		if part.Size > 0 {
			data := append([]byte(heading[min(skip, opening):]), part.Data...)
			data = data[:min(int64(len(data)), left)]
			chunk.Data = append(chunk.Data, data...)
			left -= int64(len(data))
			skip = max(0, skip-opening-part.Size)
			end += opening + part.Size
		}
		chunk.Complete = part.Complete && attempt == attempts
		if !part.Complete {
			break
		}
	}
	chunk.Next = min(offset, end) + int64(len(chunk.Data))
	chunk.Complete = chunk.Complete && chunk.Next == end
	return chunk, nil
}
