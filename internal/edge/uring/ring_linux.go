package uring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's interface; see io_uring_setup(2), io_uring_enter(2) and linux/io_uring.h.
const (
	sysSetup    = 425
	sysEnter    = 426
	sysRegister = 427

	setupCQSize       = 1 << 3
	setupSubmitAll    = 1 << 7
	setupCoopTaskrun  = 1 << 8
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13

	enterGetEvents = 1 << 0
	enterExtArg    = 1 << 3

	offSQRing = 0
	offSQEs   = 0x10000000

	registerBufferRing = 22

	opAccept      = 13
	opAsyncCancel = 14
	opConnect     = 16
	opClose       = 19
	opRead        = 22
	opSend        = 26
	opRecv        = 27

	flagBufferSelect = 1 << 5 // of a submission
	pollFirst        = 1 << 0 // of a receive: nothing is expected yet
	acceptMultishot  = 1 << 0

	completionBuffer = 1 << 0
	completionMore   = 1 << 1
)

type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array, _ uint32
	_                                                   uint64
}

type cqOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, _ uint32
	_                                                   uint64
}

type params struct {
	sqEntries, cqEntries, flags, _, _, features, _ uint32
	_                                              [3]uint32
	sq                                             sqOffsets
	cq                                             cqOffsets
}

// submission is struct io_uring_sqe.
type submission struct {
	op, flags uint8
	ioprio    uint16
	fd        int32
	off       uint64
	addr      uint64
	len       uint32
	opFlags   uint32
	user      uint64
	group     uint16
	_         uint16
	_         int32
	_         [2]uint64
}

// Completion is what became of an operation. It is struct io_uring_cqe.
type Completion struct {
	User  uint64 // as it was given with the operation
	Res   int32  // what the system call would return; a negative error number when it failed
	flags uint32
}

// Err returns the operation's error, or nil.
func (c Completion) Err() error {
	if c.Res >= 0 {
		return nil
	}
	return syscall.Errno(-c.Res)
}

// More reports whether the operation goes on and will complete again.
func (c Completion) More() bool { return c.flags&completionMore != 0 }

// bufferEntry is struct io_uring_buf. The first one's pad is the ring's tail.
type bufferEntry struct {
	addr uint64
	len  uint32
	id   uint16
	pad  uint16
}

// Ring is one submission and completion queue. It belongs to the thread that made it: nobody else may call its methods.
type Ring struct {
	fd       int
	memory   []byte // both queues
	entries  []byte // the submissions
	sqTail   *uint32
	cqHead   *uint32
	cqTail   *uint32
	sqMask   uint32
	cqMask   uint32
	sqes     []submission
	cqes     []Completion
	tail     uint32       // of the submissions; the kernel sees it in submit
	pending  uint32       // submissions that the kernel has not seen
	waiting  []submission // in their order, until there is room for them
	received buffers
	limit    waitLimit
}

// waitLimit is struct io_uring_getevents_arg and the time that it points to. It stands in the ring, because a stack may move
// while the kernel waits.
type waitLimit struct {
	_       uint64
	_       uint32
	_       uint32
	timeout uint64
	time    unix.Timespec
}

// buffers are what the kernel receives into: it takes one when something has come, so that idle connections hold none.
type buffers struct {
	memory []byte
	ring   []byte
	list   []bufferEntry
	size   int
	tail   uint16
}

// Config of a Ring. All numbers are powers of two, but for BufferSize.
type Config struct {
	Operations int // under way that can complete at the same time without a detour; at least 64
	Buffers    int // that are received into
	BufferSize int // bytes of each
}

// New makes a ring for the calling thread, to which its goroutine has to be locked.
func New(c Config) (r *Ring, err error) {
	p := params{flags: setupCQSize | setupSubmitAll | setupCoopTaskrun | setupSingleIssuer | setupDeferTaskrun, cqEntries: uint32(4 * c.Operations)} //nolint:gosec // a small number
	fd, _, errno := syscall.Syscall(sysSetup, uintptr(c.Operations), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r = &Ring{fd: int(fd)}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if err := r.mapQueues(&p); err != nil {
		return nil, err
	}
	if err := r.provide(c.Buffers, c.BufferSize); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Ring) mapQueues(p *params) (err error) {
	const entry, completion, word = int(unsafe.Sizeof(submission{})), int(unsafe.Sizeof(Completion{})), 4
	size := max(int(p.sq.array)+int(p.sqEntries)*word, int(p.cq.cqes)+int(p.cqEntries)*completion)
	if r.memory, err = mapShared(r.fd, offSQRing, size); err != nil {
		return err
	}
	if r.entries, err = mapShared(r.fd, offSQEs, int(p.sqEntries)*entry); err != nil {
		return err
	}
	at := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.memory[offset])) }
	r.sqTail, r.cqHead, r.cqTail = at(p.sq.tail), at(p.cq.head), at(p.cq.tail)
	r.sqMask, r.cqMask = *at(p.sq.mask), *at(p.cq.mask)
	r.sqes = unsafe.Slice((*submission)(unsafe.Pointer(&r.entries[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*Completion)(unsafe.Pointer(&r.memory[p.cq.cqes])), p.cqEntries)
	for i, array := uint32(0), unsafe.Slice(at(p.sq.array), p.sqEntries); i < p.sqEntries; i++ {
		array[i] = i
	}
	return nil
}

func mapShared(fd int, offset int64, size int) ([]byte, error) {
	memory, err := unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map the rings: %w", err)
	}
	return memory, nil
}

func mapPrivate(size int) ([]byte, error) {
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map buffers: %w", err)
	}
	return memory, nil
}

// provide gives the kernel buffers to receive into.
func (r *Ring) provide(count, size int) (err error) {
	b := &r.received
	b.size = size
	if b.memory, err = mapPrivate(count * size); err != nil {
		return err
	}
	if b.ring, err = mapPrivate(count * int(unsafe.Sizeof(bufferEntry{}))); err != nil {
		return err
	}
	b.list = unsafe.Slice((*bufferEntry)(unsafe.Pointer(&b.ring[0])), count)
	registration := struct {
		addr    uint64
		entries uint32
		group   uint16
		flags   uint16
		_       [3]uint64
	}{addr: uint64(uintptr(unsafe.Pointer(&b.ring[0]))), entries: uint32(count)} //nolint:gosec // a small number
	_, _, errno := syscall.Syscall6(sysRegister, uintptr(r.fd), registerBufferRing, uintptr(unsafe.Pointer(&registration)), 1, 0, 0)
	if errno != 0 {
		return fmt.Errorf("register buffers: %w", errno)
	}
	for id := range uint16(count) { //nolint:gosec // a small number
		b.give(id)
	}
	return nil
}

// give hands a buffer to the kernel.
func (b *buffers) give(id uint16) {
	e := &b.list[int(b.tail)&(len(b.list)-1)]
	e.addr = uint64(uintptr(unsafe.Pointer(&b.memory[int(id)*b.size])))
	e.len, e.id = uint32(b.size), id //nolint:gosec // a small number
	b.tail++
	// The tail is 16 bits behind the first entry's id; both are written as one word, so that the kernel sees the entry first.
	first := (*uint32)(unsafe.Pointer(&b.list[0].id))
	atomic.StoreUint32(first, uint32(b.list[0].id)|uint32(b.tail)<<16)
}

// Close ends the ring. The kernel cancels what is under way.
func (r *Ring) Close() error {
	err := unix.Close(r.fd)
	for _, memory := range [][]byte{r.memory, r.entries, r.received.ring, r.received.memory} {
		if memory != nil {
			err = errors.Join(err, unix.Munmap(memory))
		}
	}
	return err
}

// push returns the next submission, to be filled in at once.
func (r *Ring) push(op uint8, fd int, user uint64) *submission {
	if r.full() && len(r.waiting) == 0 {
		_ = r.enter(0, 0) // the kernel takes all, unless it has no memory; the error comes again when waiting
	}
	next := submission{op: op, fd: int32(fd), user: user} //nolint:gosec // a descriptor
	if r.full() || len(r.waiting) > 0 {
		r.waiting = append(r.waiting, next)
		return &r.waiting[len(r.waiting)-1]
	}
	e := r.place()
	*e = next
	return e
}

func (r *Ring) full() bool { return int(r.pending) == len(r.sqes) }

// place returns the next free entry of the queue.
func (r *Ring) place() *submission {
	e := &r.sqes[r.tail&r.sqMask]
	r.tail++
	r.pending++
	return e
}

// refill puts what waits into the queue as far as there is room.
func (r *Ring) refill() {
	n := 0
	for ; n < len(r.waiting) && !r.full(); n++ {
		*r.place() = r.waiting[n]
	}
	if n > 0 {
		r.waiting = r.waiting[:copy(r.waiting, r.waiting[n:])]
	}
}

func (e *submission) memory(b []byte) {
	e.addr, e.len = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), uint32(len(b)) //nolint:gosec // a buffer
}

// Receive completes when something was received, which Received returns, or with 0 at the end. later says that
// nothing is expected at once.
func (r *Ring) Receive(fd int, later bool, user uint64) {
	e := r.push(opRecv, fd, user)
	e.flags = flagBufferSelect
	if later {
		e.ioprio = pollFirst
	}
}

// Send completes when all of b was sent. b must stay as it is until then.
func (r *Ring) Send(fd int, b []byte, user uint64) {
	e := r.push(opSend, fd, user)
	e.memory(b)
	e.opFlags = unix.MSG_NOSIGNAL | unix.MSG_WAITALL
}

// Accept completes with the descriptor of each new connection, until it is canceled or fails.
func (r *Ring) Accept(fd int, user uint64) {
	e := r.push(opAccept, fd, user)
	e.ioprio = acceptMultishot
	e.opFlags = unix.SOCK_CLOEXEC
}

// Connect completes when the connection is made. to must stay as it is until then.
func (r *Ring) Connect(fd int, to *Address, user uint64) {
	e := r.push(opConnect, fd, user)
	e.addr, e.off = uint64(uintptr(unsafe.Pointer(&to.raw))), uint64(to.size)
}

// Read completes when something was read into b, which must stay until then.
func (r *Ring) Read(fd int, b []byte, user uint64) {
	e := r.push(opRead, fd, user)
	e.memory(b)
	e.off = ^uint64(0)
}

// Cancel ends the operation with the given user value, which then completes with ECANCELED unless it is done already.
func (r *Ring) Cancel(target, user uint64) {
	e := r.push(opAsyncCancel, -1, user)
	e.addr = target
}

// CloseFile closes a descriptor.
func (r *Ring) CloseFile(fd int, user uint64) { r.push(opClose, fd, user) }

// Received returns what an operation received. It is valid until Recycle.
func (r *Ring) Received(c Completion) []byte {
	if c.flags&completionBuffer == 0 || c.Res <= 0 {
		return nil
	}
	from := int(c.flags>>16) * r.received.size
	return r.received.memory[from : from+int(c.Res)]
}

// Recycle gives the buffer of what was received back.
func (r *Ring) Recycle(c Completion) {
	if c.flags&completionBuffer != 0 {
		r.received.give(uint16(c.flags >> 16)) //nolint:gosec // it has 16 bits
	}
}

// Wait submits what was asked for and calls handle with each completion, of which it waits for the first until timeout
// ends; a negative timeout is for ever.
func (r *Ring) Wait(timeout time.Duration, handle func(Completion)) error {
	if err := r.await(timeout); err != nil {
		return err
	}
	head := *r.cqHead
	for tail := atomic.LoadUint32(r.cqTail); head != tail; head++ {
		c := r.cqes[head&r.cqMask]
		atomic.StoreUint32(r.cqHead, head+1)
		handle(c)
	}
	return nil
}

// await submits, and returns when there is a completion or the time is over.
func (r *Ring) await(timeout time.Duration) error {
	r.refill()
	wait := uintptr(1)
	if len(r.waiting) > 0 || *r.cqHead != atomic.LoadUint32(r.cqTail) {
		wait = 0
	}
	err := r.enter(wait, timeout)
	if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ETIME) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EAGAIN) {
		return nil // what was not submitted is the next time
	}
	return err
}

// enter submits, and waits for so many completions; a negative timeout is for ever.
func (r *Ring) enter(wait uintptr, timeout time.Duration) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	var size uintptr
	var limit unsafe.Pointer
	flags := uintptr(enterGetEvents)
	if wait > 0 && timeout >= 0 {
		flags |= enterExtArg
		r.limit.time = unix.NsecToTimespec(int64(timeout))
		r.limit.timeout = uint64(uintptr(unsafe.Pointer(&r.limit.time)))
		limit, size = unsafe.Pointer(&r.limit), unsafe.Offsetof(r.limit.time)
	}
	n, _, errno := syscall.Syscall6(sysEnter, uintptr(r.fd), uintptr(r.pending), wait, flags, uintptr(limit), size)
	if errno != 0 {
		return errno
	}
	r.pending -= uint32(n)
	return nil
}
