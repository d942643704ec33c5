package kind

import (
	"context"
)

// Writer commits on behalf of a loop. Its conditions hold every write of a leader's loop to the
// leader's epoch: once another server has taken over, its commits fail with Conflict and change nothing.
type Writer struct {
	Store *Store
	If    []Condition
}

// Commit makes the writes happen in one transaction under the writer's conditions.
func (w Writer) Commit(ctx context.Context, ops ...Op) error {
	if len(ops) == 0 {
		return nil
	}
	_, err := w.Store.Commit(ctx, Txn{If: w.If, Ops: ops})
	return err
}
