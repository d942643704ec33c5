// Package logfile writes an instance's output to rotated files in the CRI format, one entry a line:
//
//	2026-01-02T15:04:05.000000000Z stdout F text
//
// F ends a line, P is a part of one longer than PartSize. Each file holds whole entries; the current one is "log", older ones
// are "log.1", "log.2". A Writer never fails towards the instance: what the disk does not take is counted, dropped,
// and told in the log once there is room again.
//
// It is used by the shim, whose memory is the cost of every instance: it imports no fmt and allocates nothing per entry.
package logfile

import (
	"bytes"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// PartSize is the most text one entry holds, in bytes.
const PartSize = 16 << 10

// entryHead is the longest head of an entry: time, stream, tag and the line break.
const entryHead = 64

// Writer writes the entries of one instance. It is not safe for concurrent use.
type Writer struct {
	path    string
	maxSize int64
	files   int
	fd      int
	size    int64
	lost    int64
	out     []byte
	streams [2]stream
}

// stream is an output whose last line has not ended yet.
type stream struct {
	name string
	n    int
	part bool // the last entry was a part
	buf  [PartSize]byte
}

// The indexes of the outputs.
const (
	Stdout = 0
	Stderr = 1
)

// Open returns a Writer to path that rotates at maxSize bytes and keeps so many files in all.
// A path that cannot be opened is tried again with every write.
func Open(path string, maxSize int64, files int) *Writer {
	w := &Writer{path: path, maxSize: maxSize, files: files, fd: -1, out: make([]byte, 0, 2*PartSize+entryHead)}
	w.streams[Stdout].name = "stdout"
	w.streams[Stderr].name = "stderr"
	w.open()
	return w
}

// ReadFrom reads once from fd, an instance's stdout or stderr, and writes the entries that are complete.
// It returns what read(2) returned.
func (w *Writer) ReadFrom(fd, which int) (int, error) {
	s := &w.streams[which]
	n, err := unix.Read(fd, s.buf[s.n:])
	if n <= 0 {
		return n, err
	}
	s.n += n
	w.entries(s)
	return n, nil
}

// Close writes what is left of unended lines and closes the file.
func (w *Writer) Close() {
	for i := range w.streams {
		s := &w.streams[i]
		if s.n == 0 && !s.part {
			continue
		}
		w.out = w.append(w.out[:0], s.name, 'F', s.buf[:s.n])
		s.n = 0
		w.flush()
	}
	if w.fd >= 0 {
		_ = unix.Close(w.fd)
		w.fd = -1
	}
}

// entries writes the complete lines of s, and a part when its buffer is full.
func (w *Writer) entries(s *stream) {
	w.out = w.out[:0]
	rest := s.buf[:s.n]
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		w.room(i)
		w.out = w.append(w.out, s.name, 'F', rest[:i])
		s.part = false
		rest = rest[i+1:]
	}
	if len(rest) == len(s.buf) {
		w.room(len(rest))
		w.out = w.append(w.out, s.name, 'P', rest)
		s.part = true
		rest = nil
	}
	s.n = copy(s.buf[:], rest)
	w.flush()
}

// room flushes when n more bytes of text would make out grow.
func (w *Writer) room(n int) {
	if len(w.out)+n+entryHead > cap(w.out) {
		w.flush()
	}
}

func (w *Writer) append(out []byte, name string, tag byte, text []byte) []byte {
	out = time.Now().UTC().AppendFormat(out, "2006-01-02T15:04:05.000000000Z07:00")
	out = append(out, ' ')
	out = append(out, name...)
	out = append(out, ' ', tag, ' ')
	out = append(out, text...)
	return append(out, '\n')
}

// flush writes out, or drops it when the disk does not take it.
func (w *Writer) flush() {
	if len(w.out) == 0 {
		return
	}
	if w.size > 0 && w.size+int64(len(w.out)) > w.maxSize {
		w.rotate()
	}
	if w.fd < 0 {
		w.open()
	}
	if w.lost > 0 && w.write(w.lostNote()) {
		w.lost = 0
	}
	if !w.write(w.out) {
		w.lost += int64(len(w.out))
	}
	w.out = w.out[:0]
}

func (w *Writer) lostNote() []byte {
	text := "vortex: " + strconv.FormatInt(w.lost, 10) + " bytes of output were dropped: no room on the disk"
	return w.append(nil, "stderr", 'F', []byte(text))
}

// write writes all of b or nothing.
func (w *Writer) write(b []byte) bool {
	if w.fd < 0 {
		return false
	}
	for done := 0; done < len(b); {
		n, err := unix.Write(w.fd, b[done:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			_ = unix.Ftruncate(w.fd, w.size)
			return false
		}
		done += n
	}
	w.size += int64(len(b))
	return true
}

func (w *Writer) open() {
	fd, err := unix.Open(w.path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil {
		w.size = st.Size
	}
	w.fd = fd
}

// rotate makes room: log.1 becomes log.2, log becomes log.1, the oldest goes.
func (w *Writer) rotate() {
	if w.fd >= 0 {
		_ = unix.Close(w.fd)
		w.fd = -1
	}
	if w.files < 2 {
		_ = unix.Unlink(w.path)
	}
	for i := w.files - 1; i > 0; i-- {
		_ = unix.Rename(Name(w.path, i-1), Name(w.path, i))
	}
	w.size = 0
	w.open()
}

// Name returns the path of the i-th newest file of the log at path; 0 is the current one.
func Name(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}
