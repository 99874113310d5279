package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "sidelane.test/calls/stubs/echo"
)

const (
	echoedPrefix   = "x-test-"
	compressHeader = "x-test-compress"
	detailsHeader  = "grpc-status-details-bin"
)

type echo struct {
	pb.UnimplementedEchoServer
	node   string
	ledger *ledger
}

// visitor is a call and what is to be done with it. Left unfinished, its caller has given up.
type visitor struct {
	ctx       context.Context
	ledger    *ledger
	visit     *visit
	behaviour *pb.Behaviour
	metadata  metadata.MD
	echoed    metadata.MD
	// The trailers have them: whatever is set there again comes twice.
	responded bool
}

func (e *echo) visited(ctx context.Context, behaviour *pb.Behaviour) (*visitor, error) {
	received, _ := metadata.FromIncomingContext(ctx)
	echoed := metadata.MD{}
	if behaviour.GetEchoMetadata() {
		for name, values := range received {
			if strings.HasPrefix(name, echoedPrefix) {
				echoed[name] = values
			}
		}
	}
	if len(received[compressHeader]) > 0 {
		if err := grpc.SetSendCompressor(ctx, "gzip"); err != nil {
			return nil, status.Errorf(codes.Internal, "no gzip: %v", err)
		}
	}
	deadline, limited := ctx.Deadline()
	return &visitor{
		ctx:       ctx,
		ledger:    e.ledger,
		visit:     e.ledger.arrive(behaviour.GetLedgerKey(), time.Until(deadline), limited),
		behaviour: behaviour,
		metadata:  received,
		echoed:    echoed,
	}, nil
}

// leave is deferred: whoever has not finished by then was given up.
func (v *visitor) leave() {
	v.ledger.end(v.visit, pb.Moment_MOMENT_CANCELLED)
}

func (v *visitor) finish() {
	v.ledger.end(v.visit, pb.Moment_MOMENT_FINISHED)
}

func (v *visitor) isDue(messages uint64) bool {
	return messages == uint64(v.behaviour.GetAfterMessages())
}

// act does what the behaviour says: waits, and perhaps fails.
func (v *visitor) act() error {
	delay := time.Duration(v.behaviour.GetDelayMs()) * time.Millisecond
	if every := v.behaviour.GetGather(); every > 0 {
		key, arrived := v.behaviour.GetLedgerKey(), pb.Moment_MOMENT_ARRIVED
		if _, _, all := v.ledger.wait(key, arrived, int(every), delay); !all {
			v.finish()
			count := v.ledger.count(key, arrived)
			return status.Errorf(codes.Aborted, "only %d of %d calls came within %v", count, every, delay)
		}
	} else if delay > 0 {
		select {
		case <-time.After(delay):
		case <-v.ctx.Done():
			return status.FromContextError(v.ctx.Err()).Err()
		}
	}
	if v.behaviour.GetCancel() {
		v.finish()
		return status.Error(codes.Canceled, "given up by the server")
	}
	if code := v.behaviour.GetStatus(); code != 0 {
		v.finish()
		trailers := metadata.MD{}
		if !v.responded {
			trailers = v.echoed.Copy()
		}
		if details := v.behaviour.GetDetails(); len(details) > 0 {
			trailers.Set(detailsHeader, string(details))
		}
		if err := grpc.SetTrailer(v.ctx, trailers); err != nil {
			return err
		}
		return status.Error(codes.Code(code), v.behaviour.GetMessage())
	}
	return nil
}

// respond puts the echoed metadata into the answer's headers and its trailers.
func (v *visitor) respond() error {
	v.responded = true
	return errors.Join(grpc.SendHeader(v.ctx, v.echoed), grpc.SetTrailer(v.ctx, v.echoed))
}

func (e *echo) Unary(ctx context.Context, request *pb.UnaryRequest) (*pb.UnaryResponse, error) {
	visitor, err := e.visited(ctx, request.GetBehaviour())
	if err != nil {
		return nil, err
	}
	defer visitor.leave()
	if err := visitor.act(); err != nil {
		return nil, err
	}
	if err := visitor.respond(); err != nil {
		return nil, err
	}
	visitor.finish()
	return &pb.UnaryResponse{
		Payload:     request.GetPayload(),
		Node:        e.node,
		RemainingMs: visitor.visit.milliseconds(),
		Metadata:    lines(visitor.metadata),
	}, nil
}

func (e *echo) Collect(stream pb.Echo_CollectServer) error {
	response := &pb.CollectResponse{Node: e.node}
	message, err := next(stream)
	if err != nil {
		return err
	}
	visitor, err := e.visited(stream.Context(), message.GetBehaviour())
	if err != nil {
		return err
	}
	defer visitor.leave()
	for message != nil {
		response.Messages++
		response.Bytes += uint64(len(message.GetPayload()))
		if visitor.behaviour.GetEarly() && visitor.isDue(response.Messages) {
			break
		}
		if message, err = next(stream); err != nil {
			return err
		}
	}
	if err := visitor.act(); err != nil {
		return err
	}
	if err := visitor.respond(); err != nil {
		return err
	}
	visitor.finish()
	return stream.SendAndClose(response)
}

func (e *echo) Expand(request *pb.ExpandRequest, stream pb.Echo_ExpandServer) error {
	visitor, err := e.visited(stream.Context(), request.GetBehaviour())
	if err != nil {
		return err
	}
	defer visitor.leave()
	// Nothing was answered yet: an error now is an answer of trailers only.
	acted := visitor.isDue(0)
	if acted {
		if err := visitor.act(); err != nil {
			return err
		}
	}
	if err := visitor.respond(); err != nil {
		return err
	}
	for index := range request.GetMessages() {
		if !acted && visitor.isDue(uint64(index)) {
			acted = true
			if err := visitor.act(); err != nil {
				return err
			}
		}
		payload := bytes.Repeat([]byte{byte(index)}, int(request.GetBytes()))
		answer := &pb.ExpandResponse{Index: index, Payload: payload, Node: e.node}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
	if !acted {
		if err := visitor.act(); err != nil {
			return err
		}
	}
	visitor.finish()
	return nil
}

func (e *echo) Chat(stream pb.Echo_ChatServer) error {
	message, err := next(stream)
	if err != nil {
		return err
	}
	visitor, err := e.visited(stream.Context(), message.GetBehaviour())
	if err != nil {
		return err
	}
	defer visitor.leave()
	acted := visitor.isDue(0)
	if acted {
		if err := visitor.act(); err != nil {
			return err
		}
	}
	if err := visitor.respond(); err != nil {
		return err
	}
	epilogue := visitor.behaviour.GetEpilogue()
	for index := uint32(0); message != nil || epilogue > 0; index++ {
		if !acted && visitor.isDue(uint64(index)) {
			acted = true
			if err := visitor.act(); err != nil {
				return err
			}
		}
		answer := &pb.ChatResponse{Payload: message.GetPayload(), Index: index, Node: e.node}
		if err := stream.Send(answer); err != nil {
			return err
		}
		if message == nil {
			epilogue--
		} else if message, err = next(stream); err != nil {
			return err
		}
	}
	visitor.finish()
	return nil
}

// next is the next message; nil once the caller has ended its stream.
func next[M any](stream interface {
	Recv() (*M, error)
	Context() context.Context
}) (*M, error) {
	message, err := stream.Recv()
	if !errors.Is(err, io.EOF) {
		return message, err
	}
	// Node ends the request of a call that it gives up, and resets it a moment later.
	select {
	case <-stream.Context().Done():
		return nil, stream.Context().Err()
	case <-time.After(settles):
		return nil, nil
	}
}

// settles is how far apart the end of a request and its reset may come.
const settles = 100 * time.Millisecond

// lines has "name: value" for each, -bin values in padded base64, the order within a name kept.
func lines(received metadata.MD) []string {
	var names []string
	for name := range received {
		names = append(names, name)
	}
	slices.Sort(names)
	var lines []string
	for _, name := range names {
		for _, value := range received[name] {
			if strings.HasSuffix(name, "-bin") {
				value = base64.StdEncoding.EncodeToString([]byte(value))
			}
			lines = append(lines, fmt.Sprintf("%s: %s", name, value))
		}
	}
	return lines
}

type witness struct {
	pb.UnimplementedWitnessServer
	ledger *ledger
}

func (w *witness) Observe(_ context.Context, request *pb.ObserveRequest) (*pb.ObserveResponse, error) {
	within := time.Duration(request.GetTimeoutMs()) * time.Millisecond
	seen, when, reached := w.ledger.wait(request.GetKey(), request.GetMoment(), 1, within)
	if !reached {
		return nil, status.Errorf(codes.NotFound, "call `%s` is not %v after %v", request.GetKey(), request.GetMoment(), within)
	}
	return &pb.ObserveResponse{UnixNanos: when.UnixNano(), RemainingMs: seen.milliseconds()}, nil
}

func (w *witness) CountCalls(_ context.Context, request *pb.CountCallsRequest) (*pb.CountCallsResponse, error) {
	key := request.GetKey()
	return &pb.CountCallsResponse{
		Arrived:   w.ledger.count(key, pb.Moment_MOMENT_ARRIVED),
		Finished:  w.ledger.count(key, pb.Moment_MOMENT_FINISHED),
		Cancelled: w.ledger.count(key, pb.Moment_MOMENT_CANCELLED),
	}, nil
}
