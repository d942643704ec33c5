package kindrpc

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vortex"
	"vortex/internal/api"
)

// fail turns an error into what the client sees; an internal one is logged and shown by its id only.
func (s *Service) fail(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	kind := vortex.KindOf(err)
	if kind != vortex.Internal {
		return status.Error(api.GRPCCode(kind), err.Error())
	}
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return status.Error(codes.Internal, api.Hide(log, err))
}
