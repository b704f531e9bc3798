package services

import (
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// logStart is the position before the first byte. It is not empty: old clients
// poll without pause on an empty position.
const logStart = "0"

// position writes where the reading stands. It is opaque to clients, and bound
// to the log by a checksum, so that a value that was not made for this log is
// known as such.
func (l *openLog) position() string {
	if l.offset == 0 {
		return logStart
	}
	return fmt.Sprintf("%d-%08x", l.offset, l.checksum(l.offset))
}

// parsePosition is the offset that a position stands for; 0 for anything that
// was not made for this log.
func (l *openLog) parsePosition(position string) int64 {
	number, _, _ := strings.Cut(position, "-")
	offset, err := strconv.ParseInt(number, 10, 64)
	if err != nil || offset <= 0 || position != fmt.Sprintf("%d-%08x", offset, l.checksum(offset)) {
		return 0
	}
	return offset
}

func (l *openLog) checksum(offset int64) uint32 {
	return crc32.ChecksumIEEE(fmt.Appendf(nil, "%s|%s|%s|%d", l.run.RunID, l.query.Role, l.query.Facility, offset))
}
