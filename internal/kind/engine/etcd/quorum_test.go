package etcd_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
)

// memberVariable holds the configuration of a member that this binary runs instead of its tests, as a process to be killed.
const memberVariable = "VORTEX_TEST_MEMBER"

func TestMain(m *testing.M) {
	if text := os.Getenv(memberVariable); text != "" {
		runMember(text)
		return
	}
	os.Exit(m.Run())
}

// runMember serves until it is killed, or its standard input ends with the test.
func runMember(text string) {
	var c etcd.Embedded
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	e, err := c.Open(context.Background())
	if err != nil {
		panic(err)
	}
	fmt.Println(e.Group().Status().ID)
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// authority signs certificates of members.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// memberName is what all members' certificates are good for.
const memberName = "member.vortex"

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(a.dir, "ca.crt"), "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate that is good for the names, for so long.
func (a *authority) issue(file string, lifetime time.Duration, names ...string) etcd.PeerTLS {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: file}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime), KeyUsage: x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	files := etcd.PeerTLS{
		CA: filepath.Join(a.dir, "ca.crt"), Cert: filepath.Join(a.dir, file+".crt"), Key: filepath.Join(a.dir, file+".key"), Name: memberName,
	}
	writePEM(a.t, files.Cert, "CERTIFICATE", der)
	writePEM(a.t, files.Key, "EC PRIVATE KEY", private)
	return files
}

// quorum is a group of members that speak TLS over loopback.
type quorum struct {
	t         *testing.T
	authority *authority
	members   []etcd.Embedded
	engines   []*etcd.Engine
}

// newQuorum opens a group of so many members in this process.
func newQuorum(t *testing.T, size int) *quorum {
	t.Helper()
	q, _ := newQuorumBeside(t, size, false)
	return q
}

// newQuorumBeside opens a group of so many members in this process, and another as a process of its own if asked to.
func newQuorumBeside(t *testing.T, size int, beside bool) (q *quorum, kill func()) {
	t.Helper()
	q = &quorum{t: t, authority: newAuthority(t)}
	group := map[string]string{}
	all := size
	if beside {
		all++
	}
	for i := range all {
		c := q.next()
		group[c.Name] = c.PeerTLS.URL(c.PeerAddr)
		q.members = append(q.members, c)
		q.members[i].Group = group
	}
	opened := make(chan error, size)
	q.engines = make([]*etcd.Engine, size)
	for i := range size {
		go func() {
			var err error
			q.engines[i], err = q.members[i].Open(t.Context())
			opened <- err
		}()
	}
	if beside {
		kill = q.process(q.members[size])
	}
	for range size {
		if err := <-opened; err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(q.close)
	return q, kill
}

// close ends the members in this process.
func (q *quorum) close() {
	var all sync.WaitGroup
	for _, e := range q.engines {
		if e != nil {
			all.Go(func() { _ = e.Close() })
		}
	}
	all.Wait()
}

// next configures another member.
func (q *quorum) next() etcd.Embedded {
	q.t.Helper()
	name := fmt.Sprintf("m%d", len(q.members))
	return etcd.Embedded{
		Dir: q.t.TempDir(), Name: name, PeerAddr: freeAddr(q.t), PeerTLS: q.authority.issue(name, time.Hour, memberName, name),
	}
}

// add makes a learner and returns its place and, where it is to run in this process, opens it.
func (q *quorum) add(by *etcd.Engine) (c etcd.Embedded, id uint64) {
	q.t.Helper()
	c = q.next()
	c.Join, c.Group = true, map[string]string{}
	members, err := by.Group().Members(q.t.Context())
	if err != nil {
		q.t.Fatal(err)
	}
	for _, m := range members {
		c.Group[m.Name] = m.URL
	}
	var m etcd.Member
	kindtest.Eventually(q.t, "a learner is let in", func() bool { // members must have been connected for a while
		m, err = by.Group().AddLearner(q.t.Context(), c.PeerTLS.URL(c.PeerAddr))
		return err == nil
	})
	q.members = append(q.members, c)
	return c, m.ID
}

// open starts a member in this process.
func (q *quorum) open(c etcd.Embedded) *etcd.Engine {
	q.t.Helper()
	e, err := c.Open(q.t.Context())
	if err != nil {
		q.t.Fatal(err)
	}
	q.engines = append(q.engines, e)
	return e
}

// outside is the id of the member that this process does not run.
func (q *quorum) outside() uint64 {
	q.t.Helper()
	for _, m := range q.engines[0].Group().Known() {
		if m.Name == q.members[len(q.members)-1].Name {
			return m.ID
		}
	}
	q.t.Fatal("no such member")
	return 0
}

// process starts a member as a process of its own and returns what kills it.
func (q *quorum) process(c etcd.Embedded) (kill func()) {
	q.t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		q.t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), memberVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		q.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		q.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		q.t.Fatal(err)
	}
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			_ = in.Close()
		}
	}
	q.t.Cleanup(kill)
	if !bufio.NewScanner(out).Scan() {
		q.t.Fatal("the member does not start")
	}
	return kill
}

// promote waits until a learner has its vote.
func (q *quorum) promote(by *etcd.Engine, id uint64) {
	q.t.Helper()
	var last error
	kindtest.Eventually(q.t, "the learner is promoted", func() bool {
		last = by.Group().Promote(q.t.Context(), id)
		return last == nil
	})
}

// lead makes one of the members the leader.
func (q *quorum) lead(id uint64) {
	q.t.Helper()
	kindtest.Eventually(q.t, "the member leads", func() bool {
		for _, e := range q.engines {
			if s := e.Group().Status(); s.Leader == id {
				return true
			} else if s.Leader == s.ID {
				_ = e.Group().Hand(q.t.Context(), id)
			}
		}
		return false
	})
}
