package bootstrap

import (
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	"vortex"
)

// Secret is what the servers of a cluster to be share. What they use is derived from it.
type Secret struct {
	gossip []byte
	id     string
	word   string
}

const (
	leastSecret = 16      // characters
	rounds      = 200_000 // a guess costs about a tenth of a second
	keyBytes    = 32
	tokenID     = 8 // characters
)

// ParseSecret derives from a secret what is used of it. It takes about a tenth of a second.
func ParseSecret(text string) (Secret, error) {
	text = strings.TrimSpace(text)
	if len(text) < leastSecret { // not quoted: it is a secret
		return Secret{}, vortex.Errorf(vortex.Invalid, "expected a secret of at least %d characters that all servers share, got %d; `vortex token new` makes one", leastSecret, len(text))
	}
	if strings.HasPrefix(text, "vxj_") {
		return Secret{}, vortex.Errorf(vortex.Invalid, "expected the secret that all servers share, got a token for joining; `vortex token new` makes one, or leave out --bootstrap to join a cluster that is there")
	}
	master, err := pbkdf2.Key(sha256.New, text, []byte("vortex bootstrap"), rounds, keyBytes)
	if err != nil {
		return Secret{}, fmt.Errorf("derive keys from the secret: %w", err)
	}
	derive := func(what string) []byte {
		if err != nil {
			return nil
		}
		var key []byte
		key, err = hkdf.Expand(sha256.New, master, what, keyBytes)
		return key
	}
	readable := base32.StdEncoding.WithPadding(base32.NoPadding)
	s := Secret{
		gossip: derive("gossip"),
		id:     strings.ToLower(readable.EncodeToString(derive("token id")))[:tokenID],
		word:   readable.EncodeToString(derive("token")),
	}
	if err != nil {
		return Secret{}, fmt.Errorf("derive keys from the secret: %w", err)
	}
	return s, nil
}

// Token returns id and secret of the token that the others join with. It tells nothing of the secret itself.
func (s Secret) Token() (id, word string) { return s.id, s.word }
