package gossip

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"vortex"
)

// Member is what a machine of the cluster says of itself.
type Member struct {
	Name string             `json:"-"` // the mesh's id
	Role vortex.ClusterRole `json:"r"`
	// Kind is host:port of a server's gRPC services.
	Kind    string `json:"k,omitempty"`
	Version string `json:"v,omitempty"`
	// Labels are the node's, as many as there is room for.
	Labels map[string]string `json:"l,omitempty"`
	// CPUMillis and MemoryBytes are what the machine has; the others what was free when it looked last.
	CPUMillis       uint64 `json:"c,omitempty"`
	MemoryBytes     uint64 `json:"m,omitempty"`
	FreeCPUMillis   uint64 `json:"fc,omitempty"`
	FreeMemoryBytes uint64 `json:"fm,omitempty"`
}

// note is a member as it is sent. Labels are left out, the last first, until there is room.
func (m Member) note() ([]byte, error) {
	names := slices.Sorted(maps.Keys(m.Labels))
	m.Labels = maps.Clone(m.Labels)
	for {
		note, err := json.Marshal(m)
		if err != nil {
			return nil, vortex.Errorf(vortex.Internal, "encode what gossip says: %w", err)
		}
		if len(note) <= MostNote {
			return note, nil
		}
		if len(names) == 0 {
			return nil, vortex.Errorf(vortex.Invalid, "gossip: the address %q is too long to be told", m.Kind)
		}
		delete(m.Labels, names[len(names)-1])
		names = names[:len(names)-1]
	}
}

// memberOf reads what another machine says of itself; ok is false when it cannot be read.
func memberOf(p Peer) (m Member, ok bool) {
	if json.Unmarshal(p.Note, &m) != nil {
		return Member{}, false
	}
	m.Name = p.ID
	return m, true
}

// keyBytes is the length of a key.
const keyBytes = 32

// ParseKeys reads the members' keys: hexadecimal, one in a line. The first encrypts, each decrypts.
func ParseKeys(text []byte) (keys [][]byte, err error) {
	for word := range strings.FieldsSeq(string(text)) {
		key, err := hex.DecodeString(word)
		if err != nil || len(key) != keyBytes { // not quoted: it is a secret
			return nil, vortex.Errorf(vortex.Invalid, "expected keys of %d hexadecimal digits, one in a line, got %d characters of another form", 2*keyBytes, len(word))
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, vortex.Errorf(vortex.Invalid, "expected keys of %d hexadecimal digits, one in a line, got none", 2*keyBytes)
	}
	return keys, nil
}
