package main

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	kindpb "vortex/proto/kind"
)

// errLost is a transaction that did not happen although nothing stood in its way.
var errLost = errors.New("the transaction did not happen")

// kindStore speaks Kind's protocol.
type kindStore struct{ kindpb.KindServiceClient }

func (s kindStore) put(ctx context.Context, key string, value []byte) error {
	_, err := s.Put(ctx, &kindpb.PutRequest{Key: key, Value: value})
	return err
}

func (s kindStore) get(ctx context.Context, key string, linearizable bool) error {
	req := &kindpb.GetRequest{Key: key}
	if !linearizable {
		req.Consistency = kindpb.Consistency_SNAPSHOT
	}
	_, err := s.Get(ctx, req)
	return err
}

func (s kindStore) putAll(ctx context.Context, keys []string, values [][]byte) error {
	req := &kindpb.TxnRequest{Operations: make([]*kindpb.Operation, len(keys))}
	for i, key := range keys {
		put := &kindpb.PutRequest{Key: key, Value: values[i]}
		req.Operations[i] = &kindpb.Operation{Operation: &kindpb.Operation_Put{Put: put}}
	}
	resp, err := s.Txn(ctx, req)
	if err == nil && !resp.GetSuccess() {
		err = errLost
	}
	return err
}

func (s kindStore) watch(ctx context.Context, addr string, ready chan<- struct{}, saw func(key string)) error {
	prefix := "bench:item:"
	c := call{addr: addr, method: kindpb.KindService_Watch_FullMethodName, request: &kindpb.WatchRequest{KeyPrefix: &prefix}}
	return c.each(ctx, func() { close(ready) }, func(message []byte) error {
		var ev kindpb.WatchEvent
		if err := proto.Unmarshal(message, &ev); err != nil {
			return err
		}
		saw(ev.GetKey())
		return nil
	})
}

// etcdStore speaks etcd's protocol.
type etcdStore struct{ kv etcdserverpb.KVClient }

func (s etcdStore) put(ctx context.Context, key string, value []byte) error {
	_, err := s.kv.Put(ctx, &etcdserverpb.PutRequest{Key: []byte(key), Value: value})
	return err
}

func (s etcdStore) get(ctx context.Context, key string, linearizable bool) error {
	resp, err := s.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(key), Serializable: !linearizable})
	if err == nil && len(resp.GetKvs()) != 1 {
		err = errors.New("the key is not there")
	}
	return err
}

func (s etcdStore) putAll(ctx context.Context, keys []string, values [][]byte) error {
	req := &etcdserverpb.TxnRequest{Success: make([]*etcdserverpb.RequestOp, len(keys))}
	for i, key := range keys {
		put := &etcdserverpb.PutRequest{Key: []byte(key), Value: values[i]}
		req.Success[i] = &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: put}}
	}
	_, err := s.kv.Txn(ctx, req)
	return err
}

func (s etcdStore) watch(ctx context.Context, addr string, ready chan<- struct{}, saw func(key string)) error {
	create := &etcdserverpb.WatchCreateRequest{Key: []byte("bench:item:"), RangeEnd: []byte("bench:item;")}
	request := &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: create}}
	c := call{addr: addr, method: "/etcdserverpb.Watch/Watch", request: request, more: true}
	return c.each(ctx, func() {}, func(message []byte) error {
		var resp etcdserverpb.WatchResponse
		if err := proto.Unmarshal(message, &resp); err != nil {
			return err
		}
		if resp.GetCreated() {
			close(ready)
		}
		for _, ev := range resp.GetEvents() {
			saw(string(ev.GetKv().GetKey()))
		}
		return nil
	})
}
