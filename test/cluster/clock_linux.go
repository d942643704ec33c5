package cluster

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Clock puts the host's clock off by a whole number of seconds, for what is started from then on; a later call moves the clock of
// these while they run. What they start in turn has the true time: the kernel has no clock for each host, so the way by which a process
// asks for the time of day is changed in its own memory. Clocks that measure durations stay right, as they do on a real host.
func (h *Host) Clock(offset time.Duration) {
	h.net.tb.Helper()
	if runtime.GOARCH != "amd64" {
		h.net.tb.Skip("clocks can be put off on amd64 only")
	}
	offset = offset.Round(time.Second)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock = &offset
	for _, p := range h.processes {
		if p.face != nil && !p.Ended() {
			h.net.check(p.face.set(offset))
		}
	}
}

// clockFace is the place in a process's memory that says what its clock is off by.
type clockFace struct {
	pid  int
	addr uint64
}

// set changes the offset of a process that runs: it is one aligned word.
func (c *clockFace) set(offset time.Duration) error {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", c.pid), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	_, err = mem.WriteAt(word(offset), int64(c.addr))
	return errors.Join(err, mem.Close())
}

func word(offset time.Duration) []byte {
	return binary.LittleEndian.AppendUint64(nil, uint64(int64(offset/time.Second)))
}

// askKernel is clock_gettime by a system call, whose seconds, of the time of day, get the word added that follows the code.
var askKernel = []byte{
	0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
	0x75, 0x0a, // jne to ret
	0x48, 0x8b, 0x0d, 0x0e, 0, 0, 0, // mov rcx, [the word]
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3,                         // ret
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // up to the word
}

const (
	wordAt  = 32 // where the word is
	faceLen = wordAt + 8
)

// vdso is the code that the kernel gives every process, by which it asks for the time. Its end is empty.
type vdso struct {
	pid   int
	begin uint64
	image []byte
}

// readVDSO reads that of a process.
func readVDSO(pid int) (*vdso, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		var begin, end uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &begin, &end); err != nil {
			return nil, fmt.Errorf("find vDSO: %w", err)
		}
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return nil, err
		}
		v := &vdso{pid: pid, begin: begin, image: make([]byte, end-begin)}
		_, err = mem.ReadAt(v.image, int64(begin))
		return v, errors.Join(err, mem.Close())
	}
	return nil, errors.New("the process has no vDSO")
}

// entry is where the process calls for the time of day.
func (v *vdso) entry() (uint64, error) {
	file, err := elf.NewFile(bytes.NewReader(v.image))
	if err != nil {
		return 0, fmt.Errorf("read vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("read vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" {
			return s.Value, nil
		}
	}
	return 0, errors.New("the vDSO has no __vdso_clock_gettime")
}

// lead makes the call for the time of day lead to code of ours at the vDSO's end. The calling thread traces the process, which stands
// before its first instruction.
func (v *vdso) lead(offset time.Duration) (*clockFace, error) {
	entry, err := v.entry()
	if err != nil {
		return nil, err
	}
	at := uint64(len(v.image)) - faceLen
	if len(bytes.Trim(v.image[at:], "\x00")) > 0 {
		return nil, errors.New("the vDSO's end is not empty")
	}
	const length = 5 // bytes of a jump, from whose end it counts
	jump := binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(at-entry-length))
	if _, err := unix.PtracePokeData(v.pid, uintptr(v.begin+at), append(bytes.Clone(askKernel), word(offset)...)); err != nil {
		return nil, fmt.Errorf("change vDSO: %w", err)
	}
	if _, err := unix.PtracePokeData(v.pid, uintptr(v.begin+entry), jump); err != nil {
		return nil, fmt.Errorf("change vDSO: %w", err)
	}
	return &clockFace{pid: v.pid, addr: v.begin + at + wordAt}, nil
}
