package calls

// FIFO is a queue that reuses its memory. Its zero value is empty. Bounds are the user's business.
type FIFO[T any] struct {
	items []T
	head  int
}

// Len returns the number of items.
func (q *FIFO[T]) Len() int { return len(q.items) - q.head }

// Push appends an item.
func (q *FIFO[T]) Push(v T) {
	if len(q.items) == cap(q.items) && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v)
}

// Front returns the first item of a queue that is not empty.
func (q *FIFO[T]) Front() T { return q.items[q.head] }

// Pop removes and returns the first item of a queue that is not empty.
func (q *FIFO[T]) Pop() T {
	var zero T
	v := q.items[q.head]
	q.items[q.head] = zero
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		if cap(q.items) > fifoKeepMax {
			q.items = nil
		}
	}
	return v
}

// fifoKeepMax is the capacity beyond which an emptied queue gives its memory back after a burst.
const fifoKeepMax = 4096
