package service

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// isJournal says whether systemd's journal reads what is written, as systemd.exec(5) has a program find out.
func isJournal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}
