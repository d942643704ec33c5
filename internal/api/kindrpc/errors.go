package kindrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vortex"
	"vortex/internal/api"
	"vortex/internal/kind"
)

// fail turns an error into what the client sees; an internal one is logged and shown by its id only.
func (s *Service) fail(err error) error {
	class := vortex.KindOf(err)
	switch { // an engine that did not answer in time says so itself, and is no time limit of the caller's
	case class != vortex.Internal:
		return status.Error(api.GRPCCode(class), shown(err))
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return status.Error(codes.Internal, api.Hide(log, err))
}

// gone is the error of an answer whose header cannot be sent: nobody is there any more who takes it.
func gone(err error) error {
	return &vortex.Error{Kind: vortex.Unavailable, Msg: "the connection has ended; retry", Err: fmt.Errorf("send header: %w", err)}
}

// maxText bounds an error's text: longer ones do not fit into the headers that carry them.
const maxText = 4 << 10

// shown is the part of an error that is meant for users, as text that the wire can carry.
func shown(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*vortex.Error](err); ok && e.Msg != "" {
		text = e.Msg
	}
	if len(text) > maxText {
		text = text[:maxText] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// refused is fail for a write: it names no key that the caller may not read.
func (s *Service) refused(ctx context.Context, err error) error {
	if by, ok := errors.AsType[kind.TakenError](err); ok {
		if acc, denied := s.authorize(ctx); denied != nil || !acc.mayRead(string(by)) {
			err = vortex.Errorf(vortex.Exists, "a value that has to be unique is taken by another record")
		}
	}
	return s.fail(err)
}
