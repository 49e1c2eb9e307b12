package book

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/pontoon-kv/pontoon/placement/sequencer"
	"github.com/pontoon-kv/pontoon/proto/ids"
	"github.com/pontoon-kv/pontoon/proto/pontoonpb"
	"github.com/pontoon-kv/pontoon/proto/wire"
	"google.golang.org/protobuf/proto"
)

// Record is one key of the book on disk and its value. Keys are addressed system keys of the placement engine:
//
//	c          BookCounters       floor, next range id, settings version
//	n <id>     NodeRecord         ids are 8 bytes, big-endian
//	q          SequencerState     epoch, holder, ceiling
//	r <id>     Descriptor
//	s <name>   SettingRecord
type Record struct{ Key, Value []byte }

// The kinds of records.
const (
	kindCounters  = 'c'
	kindNode      = 'n'
	kindSequencer = 'q'
	kindRange     = 'r'
	kindSetting   = 's'
)

func record(kind byte, id []byte, m proto.Message) Record {
	key := append([]byte{ids.SpaceSystem, kind}, id...)
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("book: a record that can't be encoded: %v", err)) // only invalid UTF-8, which decoding refused
	}
	return Record{key, value}
}

func (k *Book) counters() Record {
	return record(kindCounters, nil, &pontoonpb.BookCounters{
		Floor: int64(k.floor), NextRange: uint64(k.nextRange), SettingsVersion: k.settingsVersion,
	})
}

func (k *Book) sequencerRecord() Record {
	s := k.sequencer
	return record(kindSequencer, nil, &pontoonpb.SequencerState{
		Epoch: s.Epoch, Holder: uint64(s.Holder), DurationNs: int64(s.Duration), Released: s.Released, Ceiling: int64(s.Ceiling),
	})
}

func nodeRecord(n Node) Record { return record(kindNode, key64(uint64(n.ID)), NodeToProto(n)) }

func rangeRecord(d *ids.Descriptor) Record {
	return record(kindRange, key64(uint64(d.ID)), wire.DescriptorToProto(d))
}

func settingRecord(s *pontoonpb.SettingRecord) Record {
	return record(kindSetting, []byte(s.GetName()), s)
}

func key64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// Records returns the whole book, for the first write of a new cluster.
func (k *Book) Records() []Record {
	out := []Record{k.counters(), k.sequencerRecord()}
	for _, n := range k.Nodes() {
		out = append(out, nodeRecord(n))
	}
	for _, d := range k.Ranges() {
		out = append(out, rangeRecord(d))
	}
	for name, value := range k.settings {
		out = append(out, settingRecord(&pontoonpb.SettingRecord{Name: name, Value: value}))
	}
	return out
}

// Loader builds a book from its records.
type Loader struct{ book *Book }

// NewLoader returns a loader without records.
func NewLoader() *Loader { return &Loader{empty()} }

// Book returns the book of the records added so far.
func (l *Loader) Book() *Book { return l.book }

// Add takes a record, in any order. Key and value may be reused afterwards.
func (l *Loader) Add(key, value []byte) error {
	if len(key) < 2 || key[0] != ids.SpaceSystem {
		return fmt.Errorf("book: foreign key %q", key)
	}
	if err := l.add(key[1], value); err != nil {
		return fmt.Errorf("book: record %q: %w", key[1:], err)
	}
	return nil
}

func (l *Loader) add(kind byte, value []byte) error {
	k := l.book
	switch kind {
	case kindCounters:
		var m pontoonpb.BookCounters
		if err := proto.Unmarshal(value, &m); err != nil {
			return err
		}
		k.floor, k.nextRange, k.settingsVersion = ids.Revision(m.Floor), ids.RangeID(m.NextRange), m.SettingsVersion
	case kindSequencer:
		var m pontoonpb.SequencerState
		if err := proto.Unmarshal(value, &m); err != nil {
			return err
		}
		k.sequencer = sequencer.State{Epoch: m.Epoch, Holder: ids.NodeID(m.Holder), Duration: time.Duration(m.DurationNs),
			Released: m.Released, Ceiling: ids.Revision(m.Ceiling)}
	case kindNode:
		var m pontoonpb.NodeRecord
		if err := proto.Unmarshal(value, &m); err != nil {
			return err
		}
		k.nodes[ids.NodeID(m.Id)] = NodeFromProto(&m)
	case kindRange:
		var m pontoonpb.Descriptor
		if err := proto.Unmarshal(value, &m); err != nil {
			return err
		}
		k.ranges[ids.RangeID(m.Id)] = wire.DescriptorFromProto(&m)
	case kindSetting:
		var m pontoonpb.SettingRecord
		if err := proto.Unmarshal(value, &m); err != nil {
			return err
		}
		k.settings[m.Name] = m.Value
	default:
		return fmt.Errorf("unknown kind: written by a newer version")
	}
	return nil
}

// NodeToProto and NodeFromProto convert a node to and from its wire form.
func NodeToProto(n Node) *pontoonpb.NodeRecord {
	return &pontoonpb.NodeRecord{Id: uint64(n.ID), Name: n.Name, PeerUrls: n.PeerURLs, ClientUrls: n.ClientURLs,
		DiskId: n.DiskID, Incarnation: n.Incarnation, Labels: n.Labels}
}

// NodeFromProto is the reverse of NodeToProto.
func NodeFromProto(m *pontoonpb.NodeRecord) Node {
	return Node{ID: ids.NodeID(m.GetId()), Name: m.GetName(), PeerURLs: m.GetPeerUrls(), ClientURLs: m.GetClientUrls(),
		DiskID: m.GetDiskId(), Incarnation: m.GetIncarnation(), Labels: m.GetLabels()}
}
