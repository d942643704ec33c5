package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func request(t *testing.T, url string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

func TestAnswers(t *testing.T) {
	s := newServer("web-1", "v7")
	web := httptest.NewServer(s.handler())
	defer web.Close()
	for _, step := range []struct {
		path   string
		status int
		body   string
	}{
		{"/", 200, "Hello from web-1, version v7"},
		{"/health", 200, "ok"},
		{"/fail", 200, "healthy: false"},
		{"/health", 503, "failing on purpose"},
		{"/fail", 200, "healthy: true"},
		{"/health", 200, "ok"},
		{"/slow?ms=1", 200, "after 1 ms"},
		{"/slow?ms=soon", 400, `expected a number from 0 to 60000, got "soon"`},
		{"/exit?code=999", 400, "expected a number from 0 to 255"},
		{"/nowhere", 404, ""},
	} {
		status, body := request(t, web.URL+step.path)
		if status != step.status || !strings.Contains(body, step.body) {
			t.Errorf("GET %s answered %d %q, want %d with %q", step.path, status, body, step.status, step.body)
		}
	}
}

func TestExitAnswersFirst(t *testing.T) {
	s := newServer("web-1", "v7")
	web := httptest.NewServer(s.handler())
	defer web.Close()
	for range 2 {
		if status, body := request(t, web.URL+"/exit?code=3"); status != 200 || body != "exiting with 3\n" {
			t.Fatalf("/exit answered %d %q", status, body)
		}
	}
	select {
	case <-s.exit:
	case <-t.Context().Done():
		t.Fatal("nothing asked for the exit")
	}
	if s.exitCode() != 3 {
		t.Errorf("the exit code is %d, want 3", s.exitCode())
	}
}

func TestStoppingFinishesRequests(t *testing.T) {
	s := newServer("web-1", "v7")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	began := make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(began)
		s.handler().ServeHTTP(w, r)
	})
	stopping, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- s.serve(stopping, listener, handler) }()
	go func() {
		<-began
		stop()
	}()
	if status, body := request(t, "http://"+listener.Addr().String()+"/slow?ms=100"); status != 200 || !strings.Contains(body, "after 100 ms") {
		t.Errorf("the request under way was answered with %d %q", status, body)
	}
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestBadFlags(t *testing.T) {
	if code := run([]string{"-prot", "1"}, func(string) string { return "" }); code != 2 {
		t.Errorf("the exit code of a wrong flag is %d, want 2", code)
	}
	if code := run(nil, func(string) string { return "no port" }); code != 1 {
		t.Errorf("the exit code of a wrong port is %d, want 1", code)
	}
}
