package pulse

import (
	"os"
	"runtime"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

const memoryLimit = 16 << 20

// Main is the whole of a process that is a pulse: its descriptors are SocketFD, ControlFD and PageFD.
func Main() error {
	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // a round makes no garbage; the limit is for what a mistake would make
	debug.SetMemoryLimit(memoryLimit)
	for _, fd := range []int{SocketFD, ControlFD, PageFD, UrgentFD} {
		unix.CloseOnExec(fd)
	}
	page, _, err := Map(PageFD)
	if err != nil {
		return err
	}
	Lock()
	urgent := UrgentFD
	if _, err := unix.Getsockname(urgent); err != nil {
		urgent = -1
	}
	return Run(Config{Socket: SocketFD, Urgent: urgent, Control: ControlFD, Page: page, Parent: os.Getppid()})
}

// Map maps a shared page, and returns it with its memory, which is to be unmapped.
func Map(fd int) (*Page, []byte, error) {
	mem, err := unix.Mmap(fd, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	return (*Page)(unsafe.Pointer(&mem[0])), mem, nil
}
