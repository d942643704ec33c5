package client

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"regexp"
	"strings"
	"time"

	"vortex"
)

// JoinToken lets a machine join a cluster. It names the cluster's CA, so that the machine knows whom it talks to before it shows the secret.
type JoinToken struct {
	ID     string // of the record
	Secret string
	CA     string // SHA-256 of the CA's public key, in hex
}

const joinPrefix = "vxj"

// String returns the token as people pass it on: vxj_<id>_<secret>_<hash>.
func (t JoinToken) String() string {
	return strings.Join([]string{joinPrefix, t.ID, t.Secret, t.CA}, "_")
}

// Hash returns what the store keeps of the secret.
func (t JoinToken) Hash() string {
	sum := sha256.Sum256([]byte(t.Secret))
	return hex.EncodeToString(sum[:])
}

var joinToken = regexp.MustCompile(`^vxj_([a-z2-7]{4,32})_([A-Za-z0-9]{20,128})_([0-9a-f]{64})$`)

// ParseJoinToken reads a token as String writes it.
func ParseJoinToken(text string) (JoinToken, error) {
	m := joinToken.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil { // not quoted: it may hold a secret
		return JoinToken{}, vortex.Errorf(vortex.Invalid, "expected a join token of the form vxj_ID_SECRET_HASH, got %d characters of another form\n`vortex token join` on a server's machine prints one", len(text))
	}
	return JoinToken{ID: m[1], Secret: m[2], CA: m[3]}, nil
}

// CreateJoinToken makes a token for so many machines to join as a role, and returns it. The store keeps its hash only. A store
// that is of no cluster is Precondition.
func (k *Kind) CreateJoinToken(ctx context.Context, role vortex.ClusterRole, ttl time.Duration, uses uint32) (JoinToken, error) {
	pin, err := k.clusterPin(ctx)
	if err != nil {
		return JoinToken{}, err
	}
	t := JoinToken{ID: strings.ToLower(rand.Text()[:8]), Secret: rand.Text(), CA: pin}
	now := time.Now().UTC()
	value, err := vortex.JoinTokens.Encode(vortex.JoinRecord{ID: t.ID, Hash: t.Hash(), Role: role, Uses: uses, ExpiresAt: now.Add(ttl), CreatedAt: now})
	if err != nil {
		return JoinToken{}, err
	}
	made, err := k.CompareAndSwap(ctx, vortex.JoinTokens.Key(t.ID), nil, value, ttl)
	if err == nil && !made {
		err = vortex.Errorf(vortex.Conflict, "there is a join token %s already; try again", t.ID)
	}
	return t, err
}

// clusterPin returns the hash of the cluster's CA.
func (k *Kind) clusterPin(ctx context.Context) (string, error) {
	rec, err := k.Get(ctx, vortex.Clusters.Key("self"))
	if vortex.IsKind(err, vortex.NotFound) {
		return "", vortex.Errorf(vortex.Precondition, "this server is of no cluster that others can join\nstart it with --advertise ADDRESS, at which the others reach it")
	}
	if err != nil {
		return "", err
	}
	cluster, err := vortex.Clusters.Decode(rec.Value)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode([]byte(cluster.CA))
	if block == nil {
		return "", vortex.Errorf(vortex.Precondition, "the cluster's record holds no certificate of its CA; its servers write it when they start")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", vortex.Errorf(vortex.Precondition, "the certificate of the cluster's CA cannot be read: %w", err)
	}
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}

// JoinTokens lists the tokens that let machines join, without what they are.
func (k *Kind) JoinTokens(ctx context.Context) ([]vortex.JoinRecord, error) {
	return table(ctx, k, vortex.JoinTokens)
}

// RemoveJoinToken makes a token worth nothing, and reports whether there was one. Who joined with it stays.
func (k *Kind) RemoveJoinToken(ctx context.Context, id string) (bool, error) {
	return k.Delete(ctx, vortex.JoinTokens.Key(id))
}

// RemoveMember puts a server or node out of the cluster, and reports whether it was one: its certificate is worth nothing at once, and its
// name is free.
func (k *Kind) RemoveMember(ctx context.Context, name string) (bool, error) {
	return k.Delete(ctx, vortex.Identities.Key(name))
}

// Members lists the servers and nodes that were let in.
func (k *Kind) Members(ctx context.Context) ([]vortex.IdentityRecord, error) {
	return table(ctx, k, vortex.Identities)
}
