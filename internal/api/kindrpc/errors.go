package kindrpc

import (
	"context"
	"errors"
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
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	if class := vortex.KindOf(err); class != vortex.Internal {
		return status.Error(api.GRPCCode(class), shown(err))
	}
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return status.Error(codes.Internal, api.Hide(log, err))
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
