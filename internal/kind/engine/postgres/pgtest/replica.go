package pgtest

import (
	"fmt"
	"net/url"

	"vortex/internal/kind/kindtest"
)

// Mode says what an acknowledged commit of a primary means for its replica.
type Mode bool

// The modes of a replica.
const (
	Synchronous  Mode = true  // the replica has it on disk, too
	Asynchronous Mode = false // the replica gets it soon
)

// Replica starts a server that follows s by streaming.
func (s *Server) Replica(mode Mode) *Server {
	s.tb.Helper()
	r := prepare(s.tb)
	name := fmt.Sprintf("replica_%d", r.port)
	from := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: s.Addr(), RawQuery: "sslmode=disable&application_name=" + name}
	r.tool("pg_basebackup", "--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "-d", from.String(), "-D", r.data())
	r.Restart()
	eventually(s, "the replica streams", "SELECT 1/count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = '"+name+"'")
	if mode == Synchronous {
		s.Exec("ALTER SYSTEM SET synchronous_standby_names = '*'")
		s.Exec("SELECT pg_reload_conf()")
		eventually(s, "the replica is synchronous", "SELECT 1/count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
	}
	return r
}

// Promote makes a replica take writes. It stands alone: it waits for no replica of its own.
func (s *Server) Promote() {
	s.tb.Helper()
	s.Exec("SELECT pg_promote()")
	eventually(s, "the replica takes writes", "SELECT 1/(NOT pg_is_in_recovery())::int")
	s.Exec("ALTER SYSTEM SET synchronous_standby_names = ''")
	s.Exec("SELECT pg_reload_conf()")
}

// Detach ends a replica's streaming: what the primary writes from now on it does not get.
func (s *Server) Detach(primary *Server) {
	s.tb.Helper()
	s.Exec("ALTER SYSTEM SET primary_conninfo = ''")
	s.Exec("SELECT pg_reload_conf()")
	eventually(primary, "the replica streams no more", "SELECT 1/(count(*) = 0)::int FROM pg_stat_replication")
}

// CaughtUp waits until a replica shows everything that its primary has.
func (s *Server) CaughtUp(primary *Server) {
	s.tb.Helper()
	eventually(primary, "the replica catches up", "SELECT 1/count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()")
}

// eventually waits until a statement succeeds.
func eventually(s *Server, what, sql string) {
	s.tb.Helper()
	kindtest.Eventually(s.tb, what, func() bool { return s.tryExec(sql) == nil })
}
