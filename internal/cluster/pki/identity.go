package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"vortex"
)

// Role is what the holder of a certificate is.
type Role string

// The roles, as they stand in a certificate's organization.
const (
	Server Role = "vortex:server" // has the CA's key and may do everything
	Node   Role = "vortex:node"   // runs instances; writes what is its own
)

// Roles returns every role.
func Roles() []Role { return []Role{Server, Node} }

const (
	scheme = "vortex"
	// domain is what the names in certificates end in that no DNS has.
	domain = ".vortex.internal"
)

// ServerName is a DNS name that the certificate of every server is for, and of nothing else.
const ServerName = "server" + domain

// Identity is whom a certificate of a cluster is for.
type Identity struct {
	Name    string
	Role    Role
	Cluster string // the cluster's id
	Epoch   uint64 // of the cluster: certificates of another one are not valid
}

// IsMember reports whether a certificate claims to be of a server or node of some cluster.
func IsMember(cert *x509.Certificate) bool {
	for _, o := range cert.Subject.Organization {
		if o == string(Server) || o == string(Node) {
			return true
		}
	}
	return false
}

// Identify returns whom a certificate is for. It does not check who signed it.
func Identify(cert *x509.Certificate) (Identity, error) {
	if len(cert.Subject.Organization) != 1 || !IsMember(cert) {
		return Identity{}, vortex.Errorf(vortex.Unauthenticated, "the certificate of %q is neither a server's nor a node's", cert.Subject.CommonName)
	}
	id := Identity{Name: cert.Subject.CommonName, Role: Role(cert.Subject.Organization[0])}
	for _, u := range cert.URIs {
		if u.Scheme != scheme {
			continue
		}
		epoch, err := strconv.ParseUint(strings.TrimPrefix(u.Path, "/"), 10, 64)
		if err == nil {
			id.Cluster, id.Epoch = u.Host, epoch
			return id, nil
		}
	}
	return Identity{}, vortex.Errorf(vortex.Unauthenticated, "the certificate of %q names no cluster", id.Name)
}

// uri is what a certificate says of its cluster.
func (id Identity) uri() *url.URL {
	return &url.URL{Scheme: scheme, Host: id.Cluster, Path: "/" + strconv.FormatUint(id.Epoch, 10)}
}

// KeyHash returns the SHA-256 of a certificate's public key, in hex: what stays the same when it is renewed.
func KeyHash(cert *x509.Certificate) string { return hashOf(cert.RawSubjectPublicKeyInfo) }

func hashOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

var name = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// CheckName refuses what cannot be the name of a server or node.
func CheckName(s string) error {
	if !name.MatchString(s) {
		return vortex.Errorf(vortex.Invalid, "expected a node's name of at most 63 letters, digits, '.', '_' and '-' between letters or digits, got %q", s)
	}
	return nil
}

// BundleHash is KeyHash of the first certificate of a bundle, PEM.
func BundleHash(bundle []byte) (string, error) {
	certs, err := parseCertificates(bundle)
	if err != nil {
		return "", err
	}
	return KeyHash(certs[0]), nil
}
