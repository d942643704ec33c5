package client

import (
	"context"

	"vortex"
	kindpb "vortex/proto/kind"
)

// schemaPrefix is where the store keeps the KSL texts that were loaded at run time.
const schemaPrefix = "vortex:schema:"

// Schema returns the types in force and the texts they come from; the first text, without a name, is what is built in.
func (k *Kind) Schema(ctx context.Context) (*kindpb.SchemaResponse, error) {
	return k.schema(ctx, &kindpb.SchemaRequest{})
}

// CheckSchema returns what a KSL text under a name would change, and changes nothing. The error is
// Invalid when the text is no schema, or could not be in force even when it is forced.
func (k *Kind) CheckSchema(ctx context.Context, name string, text []byte) (*kindpb.SchemaResponse, error) {
	return k.schema(ctx, &kindpb.SchemaRequest{Name: name, Text: text, CheckOnly: true})
}

// LoadSchema puts the types of a KSL text into force and keeps it under a name. What is breaking is
// refused with an Invalid error unless it is forced.
func (k *Kind) LoadSchema(ctx context.Context, name string, text []byte, force bool) (*kindpb.SchemaResponse, error) {
	return k.schema(ctx, &kindpb.SchemaRequest{Name: name, Text: text, Force: force})
}

// RemoveSchema takes the types of a stored text out of force and reports whether there was one. While records are of
// its types this is breaking: it is refused unless it is forced, and the records become opaque.
func (k *Kind) RemoveSchema(ctx context.Context, name string, force bool) (bool, error) {
	if force {
		if _, err := k.Get(ctx, schemaPrefix+name); err != nil {
			if vortex.IsKind(err, vortex.NotFound) {
				err = nil
			}
			return false, err
		}
		if _, err := k.LoadSchema(ctx, name, []byte("# removed\n"), true); err != nil {
			return false, err
		}
	}
	return k.Delete(ctx, schemaPrefix+name)
}

func (k *Kind) schema(ctx context.Context, req *kindpb.SchemaRequest) (*kindpb.SchemaResponse, error) {
	resp, err := k.client.Schema(ctx, req)
	if err != nil {
		return nil, k.fail(ctx, err)
	}
	return resp, nil
}
