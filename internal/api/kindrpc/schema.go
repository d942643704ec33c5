package kindrpc

import (
	"context"

	"vortex/internal/kind"
	"vortex/internal/kind/ksl"
	kindpb "vortex/proto/kind"
)

// Schema implements the wire contract.
func (s *Service) Schema(ctx context.Context, req *kindpb.SchemaRequest) (*kindpb.SchemaResponse, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	resp := &kindpb.SchemaResponse{}
	schema := s.Store.Schema()
	if len(req.GetText()) > 0 {
		if err := acc.schema(); err != nil {
			return nil, s.fail(err)
		}
		change, err := s.changeSchema(ctx, req)
		if err != nil {
			return nil, s.fail(err)
		}
		schema = change.Schema
		resp.Differences = differenceMessages(change.Differences)
	}
	for _, typ := range schema.Types {
		resp.Types = append(resp.Types, s.typeMessage(schema, typ))
	}
	for _, text := range s.Store.SchemaTexts() {
		if acc.mayRead(kind.SchemaPrefix + text.Name) {
			resp.Texts = append(resp.Texts, &kindpb.SchemaText{Name: text.Name, Text: text.Text, Revision: uint64(text.Revision)})
		}
	}
	return resp, nil
}

// changeSchema checks a KSL text and, unless only a check is asked for, puts it into the store.
func (s *Service) changeSchema(ctx context.Context, req *kindpb.SchemaRequest) (*kind.SchemaChange, error) {
	if req.GetCheckOnly() {
		return s.Store.CheckSchema(ctx, req.GetName(), req.GetText())
	}
	return s.Store.LoadSchema(ctx, req.GetName(), req.GetText(), req.GetForce())
}

func (s *Service) typeMessage(schema *ksl.Schema, typ *ksl.Type) *kindpb.SchemaType {
	t := &kindpb.SchemaType{
		Name: typ.Name, Prefix: typ.Prefix, Fields: typ.FieldNames(),
		Building: s.Store.Building(typ.Name), Definition: schema.Definition(typ),
	}
	for _, f := range typ.Indexed() {
		t.Indexed = append(t.Indexed, f.Name)
	}
	return t
}

func differenceMessages(differences []ksl.Difference) []*kindpb.SchemaDifference {
	out := make([]*kindpb.SchemaDifference, len(differences))
	for i, d := range differences {
		out[i] = &kindpb.SchemaDifference{Path: d.Path, What: d.What, Breaking: d.Breaking}
	}
	return out
}
