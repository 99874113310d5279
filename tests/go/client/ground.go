package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "sidelane.test/calls/stubs/echo"
)

const (
	mib          = 1024 * 1024
	messageLimit = 80 * mib
	userAgent    = "sidelane-tests/1"
	// Longer than a case may take.
	forEverMs = 600_000
	// How long a server may take until it has seen what it must see.
	soon              = 10 * time.Second
	times             = 20
	cancellationLimit = 50 * time.Millisecond
)

// ground is where a case takes place.
type ground struct {
	target     string
	server     string
	serverKind string
	caller     string

	ctx    context.Context
	opened []*grpc.ClientConn
}

// failure is what a case fails with, thrown by its checks.
type failure struct{ text string }

// run runs one case, and gives what failed; nil if nothing did.
func (g *ground) run(it testCase) (failed any) {
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		if thrown := recover(); thrown != nil {
			known, checked := thrown.(failure)
			if !checked {
				panic(thrown)
			}
			failed = known.text
		}
		cancel()
		for _, connection := range g.opened {
			connection.Close()
		}
		g.opened = nil
	}()
	g.ctx = ctx
	it.run(g)
	return nil
}

func (g *ground) isMesh() bool { return g.caller != "" }

// echo is a client on a connection of its own.
func (g *ground) echo() pb.EchoClient { return pb.NewEchoClient(g.channel(g.target)) }

func (g *ground) witness() pb.WitnessClient { return pb.NewWitnessClient(g.channel(g.server)) }

func (g *ground) channel(address string) *grpc.ClientConn {
	connection, err := grpc.NewClient(
		address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent(userAgent),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(messageLimit),
			grpc.MaxCallSendMsgSize(messageLimit),
		),
	)
	works(err)
	g.opened = append(g.opened, connection)
	return connection
}

// sees waits until the server has seen so much of the call, and returns that.
func sees(ctx context.Context, witness pb.WitnessClient, key string, moment pb.Moment) *pb.ObserveResponse {
	request := &pb.ObserveRequest{Key: key, Moment: moment, TimeoutMs: uint32(soon.Milliseconds())}
	seen, err := witness.Observe(ctx, request)
	works(err)
	return seen
}

func count(ctx context.Context, witness pb.WitnessClient, key string) *pb.CountCallsResponse {
	seen, err := witness.CountCalls(ctx, &pb.CountCallsRequest{Key: key})
	works(err)
	return seen
}

var numbers atomic.Int64

func freshKey(name string) string {
	return fmt.Sprintf("%s-go-%d-%d", name, os.Getpid(), numbers.Add(1))
}

// noise does not repeat and does not compress well, and is the same for the same length.
func noise(length int) []byte {
	bytes := make([]byte, length)
	rand.New(rand.NewSource(int64(length))).Read(bytes)
	return bytes
}

func fail(format string, arguments ...any) {
	_, file, line, _ := runtime.Caller(2)
	text := fmt.Sprintf(format, arguments...)
	panic(failure{fmt.Sprintf("%.1000s (%s:%d)", text, file, line)})
}

func works(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func holds(condition bool, format string, arguments ...any) {
	if !condition {
		fail(format, arguments...)
	}
}

func equal[T comparable](given, wanted T, what string) {
	if given != wanted {
		fail("%s is %v, not %v", what, given, wanted)
	}
}

func equalAll[T comparable](given, wanted []T, what string) {
	if !slices.Equal(given, wanted) {
		fail("%s is %v, not %v", what, given, wanted)
	}
}

// fails gives the status of a call that must fail.
func fails(err error) *status.Status {
	if err == nil || errors.Is(err, io.EOF) {
		fail("the call did not fail: %v", err)
	}
	return status.Convert(err)
}

// median is the middle one.
func median[T cmp.Ordered](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// received is all that is left of a stream, which must end well.
func received[M any](stream interface{ Recv() (*M, error) }) []*M {
	var all []*M
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		works(err)
		all = append(all, message)
	}
}

// first is the next message, which must be there.
func first[M any](stream interface{ Recv() (*M, error) }) *M {
	message, err := stream.Recv()
	works(err)
	return message
}

// broken gives the status with which a stream ends now.
func broken[M any](stream interface{ Recv() (*M, error) }) *status.Status {
	_, err := stream.Recv()
	return fails(err)
}

// checkDeadline: tonic's server ends a call in time, but with its own words, and may be the first
// to do so.
func (g *ground) checkDeadline(ended *status.Status) {
	tonic := !g.isMesh() && g.serverKind == "Rust" && ended.Code() == codes.Canceled
	holds(tonic || ended.Code() == codes.DeadlineExceeded, "the status is %v", ended)
}
