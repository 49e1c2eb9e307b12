package rangegroup

import (
	"github.com/pontoon-kv/pontoon/multiraft"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/storage"
	"go.etcd.io/raft/v3/raftpb"
)

// group is what the lane needs of its Raft group; *multiraft.Group is one, tests have another.
type group interface {
	Propose(data []byte) (index uint64, err error)
	ReadIndex(ctx string) error
	TransferLeader(to ids.ReplicaID)
	TellCommit(index uint64)
	Schedule()
	Status() multiraft.Status
}

var _ group = (*multiraft.Group)(nil)

// machine is a Replica as multiraft drives it. It is a type of its own so that nobody else can.
type machine struct{ r *Replica }

var _ multiraft.StateMachine = machine{}

func (m machine) Process(g *multiraft.Group) bool {
	m.r.process(g)
	return false
}

func (m machine) Changed(_ *multiraft.Group, s multiraft.Status) { m.r.changed(s) }

func (m machine) Apply(g *multiraft.Group, entries []*raftpb.Entry) error {
	return m.r.apply(g, entries)
}

func (m machine) ReadState(g *multiraft.Group, rs multiraft.ReadState) { m.r.readState(g, rs) }

func (m machine) SnapshotState(*multiraft.Group) storage.RangeState {
	return storage.RangeState{
		Descriptor: m.r.desc, Replica: m.r.replica, ConfState: m.r.conf, Applied: m.r.applied,
	}
}

func (m machine) Restored(_ *multiraft.Group, s storage.RangeState) error {
	m.r.restored(s)
	return nil
}

func (m machine) Idle() bool { return m.r.idle() }
