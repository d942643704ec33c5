package api

import (
	"net/http"

	"vortex"
	"vortex/client"
	"vortex/internal/kind"
)

// listEdges tells what the edge of this process is doing, and of the others what their records say.
func (s *Server) listEdges(*http.Request) (client.EdgeList, error) {
	list := client.EdgeList{Edges: []client.Edge{}}
	own := ""
	if s.Edge != nil {
		e := s.Edge()
		own = e.ID
		list.Edges = append(list.Edges, e)
	}
	s.Store.View(func(v kind.View) {
		for _, e := range kind.List(v, vortex.Edges) {
			if rec := e.Value; rec.ID != own {
				list.Edges = append(list.Edges, client.Edge{
					ID: rec.ID, Node: rec.Node, Address: rec.Address, Revision: rec.Revision, Busy: append([]string{}, rec.Busy...),
					Listeners: []client.EdgeListener{}, Routes: []client.EdgeRoute{}, Backends: []client.EdgeBackend{},
				})
			}
		}
	})
	list.Total = len(list.Edges)
	return list, nil
}
