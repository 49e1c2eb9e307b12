package sequencer

import (
	"fmt"
	"testing"
)

func TestZZ(t *testing.T) {
	w := run(3, 2500, rules{}, laneRules{}, true)
	fmt.Println(w.trace.String(), w.count)
}
