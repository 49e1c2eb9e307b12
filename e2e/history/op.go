package history

// Kind is what an operation asked for.
type Kind string

// The kinds of operation.
const (
	Put    Kind = "put"    // of Key, and of the keys in More
	Delete Kind = "delete" // of the keys [Key, End), or of Key if End is empty
	CAS    Kind = "cas"    // put if the key's mod revision is IfMod, else read it
	Read   Kind = "read"   // of the keys [Key, End), or of Key if End is empty
)

// Outcome is what the client knows about an operation's effect.
type Outcome string

// The outcomes.
const (
	OK      Outcome = "ok"
	Failed  Outcome = "failed"  // certainly without effect
	Unknown Outcome = "unknown" // may have happened, or may still
)

// Op is one operation of one client: a line of the history.
type Op struct {
	Client int    `json:"client"`
	Kind   Kind   `json:"kind"`
	Key    string `json:"key"`
	End    string `json:"end,omitempty"`
	// Value is what was written; no two operations write the same.
	Value string `json:"value,omitempty"`
	IfMod int64  `json:"ifMod,omitempty"`
	// More are further keys that a Put or CAS writes with Key, in one transaction; only Key and Value are set.
	More []KV `json:"more,omitempty"`
	// At is the revision a read named; 0 is now.
	At           int64 `json:"at,omitempty"`
	Serializable bool  `json:"serializable,omitempty"`

	// Began and Ended are nanoseconds on the recorder's clock; no two are the same.
	Began int64 `json:"began"`
	Ended int64 `json:"ended"`

	Outcome Outcome `json:"outcome"`
	Error   string  `json:"error,omitempty"`
	// Revision is the answer's header. Changed says that the operation changed something (a put always does).
	Revision int64 `json:"revision,omitempty"`
	Changed  bool  `json:"changed,omitempty"`
	KVs      []KV  `json:"kvs,omitempty"` // what a read, or a CAS whose condition failed, returned
}

// KV is a key as a read saw it. Create and Version are 0 if they were not recorded.
type KV struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Mod     int64  `json:"mod,omitempty"`
	Create  int64  `json:"create,omitempty"`
	Version int64  `json:"version,omitempty"`
}

// mutates reports whether the operation certainly changed something.
func (o *Op) mutates() bool { return o.Outcome == OK && o.Changed }

// reads reports whether KVs say what the operation's keys were.
func (o *Op) reads() bool {
	return o.Outcome == OK && (o.Kind == Read || o.Kind == CAS && !o.Changed)
}

// state is the revision whose state a read shows.
func (o *Op) state() int64 {
	if o.At != 0 {
		return o.At
	}
	return o.Revision
}

// covers reports whether the operation is about the key, More apart.
func (o *Op) covers(key string) bool {
	if o.End == "" {
		return key == o.Key
	}
	return o.Key <= key && key < o.End
}
