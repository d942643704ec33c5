package client

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"vortex"
)

// CreateToken makes a bearer token with a role and returns it. The store keeps its hash only, so it cannot be shown
// again. A ttl of 0 never expires. A token of that name is Exists.
func (k *Kind) CreateToken(ctx context.Context, name, role string, ttl time.Duration) (string, error) {
	token := "vx_" + rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(token))
	rec := vortex.TokenRecord{Name: name, Hash: hex.EncodeToString(sum[:]), Role: role, CreatedAt: time.Now().UTC()}
	if ttl > 0 {
		rec.ExpiresAt = rec.CreatedAt.Add(ttl)
	}
	value, err := vortex.Tokens.Encode(rec)
	if err != nil {
		return "", err
	}
	made, err := k.CompareAndSwap(ctx, vortex.Tokens.Key(name), nil, value, ttl)
	if err == nil && !made {
		err = vortex.Errorf(vortex.Exists, "there is a token %q already; remove it first with `vortex token rm %s`", name, name)
	}
	return token, err
}

// Tokens lists the tokens, without what they are.
func (k *Kind) Tokens(ctx context.Context) ([]vortex.TokenRecord, error) {
	return table(ctx, k, vortex.Tokens)
}

// RemoveToken takes everything from a token at once, and reports whether there was one.
func (k *Kind) RemoveToken(ctx context.Context, name string) (bool, error) {
	return k.Delete(ctx, vortex.Tokens.Key(name))
}

// PutRole makes a role, or changes what one allows.
func (k *Kind) PutRole(ctx context.Context, role vortex.RoleRecord) error {
	role.CreatedAt = time.Now().UTC()
	value, err := vortex.Roles.Encode(role)
	if err != nil {
		return err
	}
	_, err = k.Put(ctx, vortex.Roles.Key(role.Name), value, 0)
	return err
}

// Roles lists the roles that were made; there are built-in ones besides.
func (k *Kind) Roles(ctx context.Context) ([]vortex.RoleRecord, error) {
	return table(ctx, k, vortex.Roles)
}

// RemoveRole takes what a role allows from all who have it at once, and reports whether there was one.
func (k *Kind) RemoveRole(ctx context.Context, name string) (bool, error) {
	return k.Delete(ctx, vortex.Roles.Key(name))
}

// table reads every record of a table.
func table[T any](ctx context.Context, k *Kind, t vortex.Table[T]) ([]T, error) {
	found, err := k.Scan(ctx, t.Prefix+":")
	if err != nil {
		return nil, err
	}
	rows := make([]T, len(found))
	for i, rec := range found {
		if rows[i], err = t.Decode(rec.Value); err != nil {
			return nil, err
		}
	}
	return rows, nil
}
