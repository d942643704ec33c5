package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// asker asks the sample program through the edge over one connection, which it renews when it breaks.
type asker struct {
	address string // of the edge
	host    string
	conn    net.Conn
	answers *bufio.Reader
}

const askTimeout = 5 * time.Second

// ask returns the name of the instance that answered; an error when none did.
func (a *asker) ask(ctx context.Context) (string, error) {
	name, err := a.try(ctx)
	if err != nil {
		a.close()
	}
	return name, err
}

func (a *asker) try(ctx context.Context) (string, error) {
	if a.conn == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", a.address)
		if err != nil {
			return "", err
		}
		a.conn, a.answers = conn, bufio.NewReader(conn)
	}
	if err := a.conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(a.conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", a.host); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(a.answers, nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return "", err
	}
	if resp.Close {
		a.close()
	}
	name, ok := strings.CutPrefix(string(body), "Hello from ")
	if resp.StatusCode != http.StatusOK || !ok {
		return "", fmt.Errorf("the edge answered %s: %.100s", resp.Status, body)
	}
	name, _, _ = strings.Cut(name, ",")
	return name, nil
}

func (a *asker) close() {
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn = nil
	}
}
