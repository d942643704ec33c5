package pool

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"
)

// DefaultCookie is what the name of a pool's session cookie begins with, and the pool's own name ends.
const DefaultCookie = "vortex-"

// sessions are the cookies that keep clients at their backends.
type sessions struct {
	name    string
	tokens  map[string]*Backend // by a cookie's value
	cookies map[*Backend]string // the Set-Cookie that begins a session, without Secure
}

// newSessions makes the cookies of a pool's backends.
func newSessions(pool string, s Sticky, backends []*Backend) *sessions {
	made := &sessions{s.Cookie, make(map[string]*Backend, len(backends)), make(map[*Backend]string, len(backends))}
	age := ""
	if s.TTL > 0 {
		age = fmt.Sprintf("; Max-Age=%d", max(int(s.TTL/time.Second), 1))
	}
	for _, b := range backends {
		token := sessionToken(s.Key, pool, b.Instance)
		made.tokens[token] = b
		made.cookies[b] = s.Cookie + "=" + token + "; Path=/" + age + "; HttpOnly; SameSite=Lax"
	}
	return made
}

// sessionToken names an instance to those who have the key: 128 bits of HMAC-SHA256, which others can neither read nor guess.
func sessionToken(key []byte, pool, instance string) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "session\x00%s\x00%s", pool, instance)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// AppendCookie appends the header field that makes the client's session be at b, if there is to be one and it is not there
// already. secure is whether the client came over TLS. It does not allocate but for what to grows.
func (p *Pool) AppendCookie(to []byte, w Want, b *Backend, secure bool) []byte {
	m := p.members.Load()
	if m.sessions == nil || w.stuck == b {
		return to
	}
	cookie := m.sessions.cookies[b]
	if cookie == "" {
		return to
	}
	to = append(to, "Set-Cookie: "...)
	to = append(to, cookie...)
	if secure {
		to = append(to, "; Secure"...)
	}
	return append(to, '\r', '\n')
}
