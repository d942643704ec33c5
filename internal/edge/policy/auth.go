package policy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/crypto/bcrypt"

	"vortex"
)

// auth asks for a user's name and password (HTTP Basic, RFC 7617).
type auth struct {
	users map[string][]byte // bcrypt hashes by name
	dummy []byte            // what the password of an unknown user is compared with, so that it takes as long
	field string            // what a refusal asks for
	seed  [16]byte
	known [knownSlots]atomic.Pointer[[sha256.Size]byte]
}

// knownSlots is how many right credentials are remembered, as hashes with a secret seed, so that they need no bcrypt again.
const knownSlots = 256

// maxCredentials is how long an Authorization field may be.
const maxCredentials = 512

// maxChecks is how many passwords wait to be checked or are checked at once, and checking lets half of the processors do so: guessing
// must not take the machine from those whose password is known.
const maxChecks = 64

var (
	checking = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	checks   atomic.Int64
)

func compileAuth(from *vortex.BasicAuth) (*auth, error) {
	if from == nil {
		return nil, nil
	}
	if len(from.Users) == 0 {
		return nil, errors.New("basicAuth.users: expected at least one")
	}
	realm := from.Realm
	if realm == "" {
		realm = "restricted"
	}
	a := &auth{users: map[string][]byte{}, field: "WWW-Authenticate: Basic realm=\"" + realm + "\", charset=\"UTF-8\"\r\n"}
	for name, hash := range from.Users {
		if err := vortex.CheckPasswordHash(hash); err != nil {
			return nil, fmt.Errorf("basicAuth.users.%s: %w", name, err)
		}
		a.users[name] = []byte(hash)
		if string(a.dummy) < hash {
			a.dummy = []byte(hash)
		}
	}
	_, _ = rand.Read(a.seed[:]) // never fails
	return a, nil
}

// refuse returns the answer to a request that may not pass.
func (a *auth) refuse(h Head) (Answer, bool) {
	var buf [maxCredentials]byte
	if credentials, ok := readBasic(buf[:0], h); ok {
		switch right, busy := a.right(credentials); {
		case right:
			return Answer{}, false
		case busy:
			return Answer{
				Status: 503, Fields: "Retry-After: 1\r\n", Code: "BUSY",
				Error: "too many passwords are being checked; try again in a moment",
			}, true
		}
	}
	return Answer{
		Status: 401, Fields: a.field, Code: "UNAUTHENTICATED", Error: "a user's name and password are needed here",
	}, true
}

// quick reports whether refuse takes no time: there is nothing to check, or it was right before.
func (a *auth) quick(h Head) bool {
	var buf [maxCredentials]byte
	credentials, ok := readBasic(buf[:0], h)
	if !ok || bytes.IndexByte(credentials, ':') < 0 {
		return true
	}
	_, _, known := a.recall(credentials)
	return known
}

// readBasic appends the name:password that a request comes with, if it does with exactly one.
func readBasic(b []byte, h Head) ([]byte, bool) {
	value, ok := h.Field("authorization", 0)
	if _, twice := h.Field("authorization", 1); !ok || twice {
		return nil, false
	}
	return decodeBasic(b, value)
}

// recall reports whether credentials were right before. If not, sum is for the slot once they are.
func (a *auth) recall(credentials []byte) (slot *atomic.Pointer[[sha256.Size]byte], sum [sha256.Size]byte, known bool) {
	var keyed [16 + maxCredentials]byte
	sum = sha256.Sum256(append(append(keyed[:0], a.seed[:]...), credentials...))
	slot = &a.known[sum[0]]
	stored := slot.Load()
	return slot, sum, stored != nil && subtle.ConstantTimeCompare(stored[:], sum[:]) == 1
}

// decodeBasic appends name:password.
func decodeBasic(b, value []byte) ([]byte, bool) {
	if len(value) < 6 || !equalFold(value[:6], "basic ") {
		return nil, false
	}
	value = trim(value[6:])
	if base64.StdEncoding.DecodedLen(len(value)) > cap(b) {
		return nil, false
	}
	b, err := base64.StdEncoding.AppendDecode(b, value)
	return b, err == nil
}

// right reports whether name:password is a user's, or that too many ask that.
func (a *auth) right(credentials []byte) (right, busy bool) {
	name, password, ok := bytes.Cut(credentials, []byte(":"))
	if !ok {
		return false, false
	}
	slot, sum, known := a.recall(credentials)
	if known {
		return true, false
	}
	if checks.Add(1) > maxChecks {
		checks.Add(-1)
		return false, true
	}
	defer checks.Add(-1)
	checking <- struct{}{}
	defer func() { <-checking }()
	hash, exists := a.users[string(name)]
	if !exists {
		hash = a.dummy
	}
	if bcrypt.CompareHashAndPassword(hash, password) != nil || !exists {
		return false, false
	}
	slot.Store(&sum)
	return true, false
}
