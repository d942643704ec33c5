// Command probe is the program inside the image of the driver suite: static, a few modes, no surprises.
//
//	probe sleep                  until SIGTERM, then exit 0
//	probe term CODE              until SIGTERM, then exit CODE
//	probe stubborn               ignores SIGTERM
//	probe exit CODE
//	probe print N                "out i" on stdout and "err i" on stderr for i < N, then sleep
//	probe flood N                that many lines "line i" padded to 100 bytes on stdout, then exit 0
//	probe long N                 one line of N bytes without a line break, then exit 0
//	probe tick                   "tick i" every 20 ms
//	probe env|args|cwd|id|host   print what it sees, then exit 0
//	probe eat BYTES              touch that much memory, use 30 ms of CPU, print "ate", then sleep
//	probe fork N                 start N sleeping children, print "forked K", then sleep
//	probe orphan                 leave a child behind that keeps the output open, exit 0
//	probe serve                  HTTP on $PORT (8080): answers "hello"
//	probe cat                    copy stdin to stdout, exit 0
//	probe tty                    print whether stdin is a terminal, and its size
//	probe write PATH             create a file, print "written" or the error, exit 0
//	probe caps                   print CapEff and NoNewPrivs and Seccomp of /proc/self/status
//
//nolint:forbidigo,noctx // a program of its own that prints to its stdout and lives in a test
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "probe: no mode")
		os.Exit(2)
	}
	mode, n := os.Args[1], 0
	if len(os.Args) > 2 {
		n, _ = strconv.Atoi(os.Args[2])
	}
	run, ok := modes[mode]
	if !ok {
		fmt.Fprintln(os.Stderr, "probe: unknown mode", mode)
		os.Exit(2)
	}
	os.Exit(run(n))
}

var modes = map[string]func(n int) int{
	"sleep":    func(int) int { return untilTerm(0) },
	"term":     untilTerm,
	"stubborn": stubborn,
	"exit":     func(n int) int { return n },
	"print":    printBoth,
	"flood":    flood,
	"long":     long,
	"tick":     tick,
	"env":      func(int) int { return lines(os.Environ()) },
	"args":     func(int) int { return lines(os.Args[2:]) },
	"cwd":      cwd,
	"id":       id,
	"host":     host,
	"eat":      eat,
	"fork":     fork,
	"orphan":   orphan,
	"serve":    serve,
	"cat":      cat,
	"tty":      tty,
	"write":    write,
	"caps":     caps,
}

func untilTerm(code int) int {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	fmt.Println("ready")
	<-c
	return code
}

func stubborn(int) int {
	signal.Ignore(syscall.SIGTERM)
	fmt.Println("ready")
	for {
		time.Sleep(time.Hour)
	}
}

func printBoth(n int) int {
	for i := range n {
		fmt.Fprintln(os.Stdout, "out", i)
		fmt.Fprintln(os.Stderr, "err", i)
	}
	return untilTerm(0)
}

func flood(n int) int {
	w := bufio.NewWriter(os.Stdout)
	pad := strings.Repeat(".", 100)
	for i := range n {
		line := "line " + strconv.Itoa(i) + " "
		_, _ = w.WriteString(line + pad[:99-len(line)] + "\n")
	}
	_ = w.Flush()
	return 0
}

func long(n int) int {
	_, _ = io.WriteString(os.Stdout, strings.Repeat("x", n))
	return 0
}

func tick(int) int {
	for i := 0; ; i++ {
		fmt.Println("tick", i)
		time.Sleep(20 * time.Millisecond)
	}
}

func lines(ss []string) int {
	for _, s := range ss {
		fmt.Println(s)
	}
	return 0
}

func cwd(int) int {
	dir, err := os.Getwd()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(dir)
	return 0
}

func id(int) int {
	groups, _ := os.Getgroups()
	fmt.Println(os.Getuid(), os.Getgid(), groups)
	return 0
}

func host(int) int {
	name, _ := os.Hostname()
	fmt.Println(name)
	return 0
}

func eat(n int) int {
	b := make([]byte, n)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	for cpuTime() < 30*time.Millisecond { // enough for every driver's clock
		b[0]++
	}
	fmt.Println("ate", len(b))
	return untilTerm(0)
}

func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func fork(n int) int {
	started := 0
	for range n {
		if exec.Command("/proc/self/exe", "sleep").Start() != nil {
			break
		}
		started++
	}
	fmt.Println("forked", started)
	return untilTerm(0)
}

func orphan(int) int {
	c := exec.Command("/proc/self/exe", "stubborn")
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("left", c.Process.Pid)
	return 0
}

func serve(int) int {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	host := ""
	if os.Getenv("HOST") != "" {
		host = os.Getenv("HOST")
	}
	err := http.ListenAndServe(net.JoinHostPort(host, port), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	fmt.Println(err)
	return 1
}

func cat(int) int {
	if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
		return 1
	}
	return 0
}

func tty(int) int {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		fmt.Println("no tty")
		return 3
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGWINCH)
	fmt.Println("tty", size.Row, size.Col)
	if len(os.Args) <= 2 {
		return 0
	}
	deadline := time.After(10 * time.Second)
	for sizes := min(size.Row, 1); sizes < 2; { // wait for one resize; a terminal without a size gets its first one soon
		if now, _ := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); now != nil && *now != *size {
			fmt.Println("tty", now.Row, now.Col)
			size = now
			sizes++
			continue
		}
		select {
		case <-c:
		case <-deadline:
			return 4
		}
	}
	return 0
}

func write(int) int {
	err := os.WriteFile(os.Args[2], []byte("probe\n"), 0o644)
	if err != nil {
		fmt.Println(err)
		return 0
	}
	fmt.Println("written")
	return 0
}

func caps(int) int {
	b, _ := os.ReadFile("/proc/self/status")
	for l := range strings.Lines(string(b)) {
		for _, p := range []string{"CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"} {
			if strings.HasPrefix(l, p) {
				fmt.Print(strings.Join(strings.Fields(l), " "), "\n")
			}
		}
	}
	return 0
}
