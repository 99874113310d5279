package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "sidelane.test/calls/stubs/echo"
)

// ---- cancellation -------------------------------------------------------------------------------

// serverSees begins calls, gives each up once the server has it, and asks when it saw that.
func serverSees(g *ground, begin func(ctx context.Context, behaviour *pb.Behaviour)) {
	witness := g.witness()
	var took []time.Duration
	for range times {
		key := freshKey("cancelled")
		ctx, cancel := context.WithCancel(g.ctx)
		begin(ctx, &pb.Behaviour{LedgerKey: key})
		sees(g.ctx, witness, key, pb.Moment_MOMENT_ARRIVED)
		givenUp := time.Now()
		cancel()
		seen := sees(g.ctx, witness, key, pb.Moment_MOMENT_CANCELLED)
		took = append(took, time.Unix(0, seen.GetUnixNanos()).Sub(givenUp))
	}
	checkTimes(took)
}

func checkTimes(took []time.Duration) {
	middle := median(took)
	holds(middle < cancellationLimit, "seen after %v (median of %d): %v", middle, times, took)
}

func serverSeesCancelledUnary(g *ground) {
	echo := g.echo()
	serverSees(g, func(ctx context.Context, behaviour *pb.Behaviour) {
		behaviour.DelayMs = forEverMs
		go echo.Unary(ctx, &pb.UnaryRequest{Behaviour: behaviour})
	})
	// The connection is as good as before.
	_, err := echo.Unary(g.ctx, &pb.UnaryRequest{})
	works(err)
}

func serverSeesCancelledClientStream(g *ground) {
	echo := g.echo()
	serverSees(g, func(ctx context.Context, behaviour *pb.Behaviour) {
		stream, err := echo.Collect(ctx)
		works(err)
		works(stream.Send(&pb.CollectRequest{Behaviour: behaviour}))
	})
}

func serverSeesCancelledServerStream(g *ground) {
	echo := g.echo()
	serverSees(g, func(ctx context.Context, behaviour *pb.Behaviour) {
		behaviour.DelayMs, behaviour.AfterMessages = forEverMs, 1
		request := &pb.ExpandRequest{Messages: 2, Bytes: 10, Behaviour: behaviour}
		answers, err := echo.Expand(ctx, request)
		works(err)
		first(answers)
	})
}

func serverSeesCancelledConversation(g *ground) {
	echo := g.echo()
	serverSees(g, func(ctx context.Context, behaviour *pb.Behaviour) {
		stream, err := echo.Chat(ctx)
		works(err)
		works(stream.Send(&pb.ChatRequest{Behaviour: behaviour}))
		first(stream)
	})
}

func clientSeesCancellingServer(g *ground) {
	echo, witness := g.echo(), g.witness()
	var took []time.Duration
	for range times {
		key := freshKey("cancelling-server")
		behaviour := &pb.Behaviour{LedgerKey: key, AfterMessages: 1, DelayMs: 20, Cancel: true}
		request := &pb.ExpandRequest{Messages: 2, Bytes: 10, Behaviour: behaviour}
		answers, err := echo.Expand(g.ctx, request)
		works(err)
		first(answers)
		ended := broken(answers)
		now := time.Now()
		equal(ended.Code(), codes.Canceled, "the status")
		seen := sees(g.ctx, witness, key, pb.Moment_MOMENT_FINISHED)
		took = append(took, now.Sub(time.Unix(0, seen.GetUnixNanos())))
	}
	checkTimes(took)
}

// ---- deadlines ----------------------------------------------------------------------------------

const deadline = 200 * time.Millisecond

// endsInTime: grpc-go has a clock of its own, so the client ends in time anyway; the server must,
// too.
func endsInTime(g *ground, call func(ctx context.Context, behaviour *pb.Behaviour) error) {
	witness := g.witness()
	var late []time.Duration
	for range 5 {
		key := freshKey("deadline")
		start := time.Now()
		ctx, cancel := context.WithTimeout(g.ctx, deadline)
		ended := fails(call(ctx, &pb.Behaviour{LedgerKey: key, DelayMs: forEverMs}))
		took := time.Since(start)
		cancel()
		g.checkDeadline(ended)
		// Both sidecars and the server each count in whole milliseconds, rounded down.
		holds(took > deadline-4*time.Millisecond, "ended after %v, before %v", took, deadline)
		late = append(late, took-deadline)
		sees(g.ctx, witness, key, pb.Moment_MOMENT_CANCELLED)
	}
	middle := median(late)
	holds(middle < 50*time.Millisecond, "late by %v (median of 5): %v", middle, late)
}

func deadlineOfUnary(g *ground) {
	echo := g.echo()
	endsInTime(g, func(ctx context.Context, behaviour *pb.Behaviour) error {
		_, err := echo.Unary(ctx, &pb.UnaryRequest{Behaviour: behaviour})
		return err
	})
}

func deadlineOfStream(g *ground) {
	echo := g.echo()
	endsInTime(g, func(ctx context.Context, behaviour *pb.Behaviour) error {
		behaviour.AfterMessages = 1
		request := &pb.ExpandRequest{Messages: 2, Bytes: 10, Behaviour: behaviour}
		answers, err := echo.Expand(ctx, request)
		works(err)
		first(answers)
		_, err = answers.Recv()
		return err
	})
}

func remainingTimeIsPassedOn(g *ground) {
	key := freshKey("remaining")
	set := 20 * time.Second
	ctx, cancel := context.WithTimeout(g.ctx, set)
	defer cancel()
	request := &pb.UnaryRequest{Behaviour: &pb.Behaviour{LedgerKey: key}}
	_, err := g.echo().Unary(ctx, request)
	works(err)
	seen := sees(g.ctx, g.witness(), key, pb.Moment_MOMENT_ARRIVED)
	left := time.Duration(seen.GetRemainingMs()) * time.Millisecond
	holds(set-5*time.Second < left && left <= set, "of %v %v were left", set, left)
	if g.isMesh() {
		holds(left < set, "the way took no time: %v of %v were left", left, set)
	}
}

// expiredOnArrival goes as far as grpc-go does: it does not send a call whose time is over, so the
// shortest that it sends may just arrive.
func expiredOnArrival(g *ground) {
	key := freshKey("expired")
	echo := g.echo()
	// Connects.
	_, err := echo.Unary(g.ctx, &pb.UnaryRequest{})
	works(err)
	ctx, cancel := context.WithTimeout(g.ctx, 100*time.Microsecond)
	defer cancel()
	behaviour := &pb.Behaviour{LedgerKey: key, DelayMs: forEverMs}
	_, err = echo.Unary(ctx, &pb.UnaryRequest{Behaviour: behaviour})
	g.checkDeadline(fails(err))
	witness := g.witness()
	if count(g.ctx, witness, key).GetArrived() > 0 {
		sees(g.ctx, witness, key, pb.Moment_MOMENT_CANCELLED)
	}
}

// ---- crowds -------------------------------------------------------------------------------------

func thousandTinyReplies(g *ground) {
	const replies = 1000
	key := freshKey("tiny")
	behaviour := &pb.Behaviour{LedgerKey: key, Gather: replies, DelayMs: 20_000}
	echo := g.echo()
	answered := make(chan error, replies)
	for range replies {
		go func() {
			request := &pb.UnaryRequest{Payload: []byte("t"), Behaviour: behaviour}
			response, err := echo.Unary(g.ctx, request)
			if err == nil && string(response.GetPayload()) != "t" {
				err = errors.New("another payload came back")
			}
			answered <- err
		}()
	}
	for range replies {
		works(<-answered)
	}
	seen := count(g.ctx, g.witness(), key)
	holds(seen.GetArrived() == replies && seen.GetCancelled() == 0, "what the server saw: %v", seen)
}

func tenThousandCancelled(g *ground) {
	const cancelled, atATime = 10_000, 64
	key := freshKey("churn")
	echo := g.echo()
	var over atomic.Bool
	var number, called, said atomic.Int64

	churn, beside := new(sync.WaitGroup), new(sync.WaitGroup)
	failures := make(chan error, atATime+2)
	start := func(group *sync.WaitGroup, name string, work func() error) {
		group.Go(func() {
			if err := work(); err != nil {
				failures <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	start(beside, "talk", func() error { return talk(g.ctx, echo, &over, &said) })
	start(beside, "call", func() error {
		for !over.Load() {
			response, err := echo.Unary(g.ctx, &pb.UnaryRequest{Payload: []byte("beside")})
			if err != nil {
				return err
			}
			if string(response.GetPayload()) != "beside" {
				return errors.New("another payload came back")
			}
			called.Add(1)
		}
		return nil
	})
	for range atATime {
		start(churn, "cancel", func() error {
			for {
				next := number.Add(1)
				if next > cancelled {
					return nil
				}
				if err := cancelOne(g.ctx, echo, key, next); err != nil {
					return err
				}
			}
		})
	}
	churn.Wait()
	over.Store(true)
	beside.Wait()
	close(failures)
	for err := range failures {
		works(err)
	}
	holds(called.Load() > 10 && said.Load() > 10, "only %d calls and %d messages beside", called.Load(), said.Load())

	// Everything that the server got it was also told to give up.
	witness := g.witness()
	limit := time.Now().Add(soon)
	seen := count(g.ctx, witness, key)
	for seen.GetCancelled()+seen.GetFinished() < seen.GetArrived() {
		holds(time.Now().Before(limit), "cancelled calls go on at the server: %v", seen)
		time.Sleep(20 * time.Millisecond)
		seen = count(g.ctx, witness, key)
	}
	holds(seen.GetArrived() >= cancelled/2, "not enough was cancelled: %v", seen)
	equal(seen.GetFinished(), 0, "how many calls the server finished")
}

// cancelOne gives up one call: every second one after its first answer, the others at once, on the
// way, or at the server, wherever that finds them.
func cancelOne(ctx context.Context, echo pb.EchoClient, key string, number int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	behaviour := &pb.Behaviour{LedgerKey: key, DelayMs: forEverMs}
	if number%2 == 0 {
		behaviour.AfterMessages = 1
		request := &pb.ExpandRequest{Messages: 2, Bytes: 10, Behaviour: behaviour}
		answers, err := echo.Expand(ctx, request)
		if err != nil {
			return err
		}
		_, err = answers.Recv()
		return err
	}
	time.AfterFunc(time.Duration(number%5)*500*time.Microsecond, cancel)
	_, err := echo.Unary(ctx, &pb.UnaryRequest{Behaviour: behaviour})
	if status.Code(err) != codes.Canceled {
		return fmt.Errorf("a call that was given up ended with %v", err)
	}
	return nil
}

// talk is a conversation that goes on until it is over.
func talk(ctx context.Context, echo pb.EchoClient, over *atomic.Bool, said *atomic.Int64) error {
	stream, err := echo.Chat(ctx)
	if err != nil {
		return err
	}
	for !over.Load() {
		if err := stream.Send(&pb.ChatRequest{}); err != nil {
			return err
		}
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		if int64(answer.GetIndex()) != said.Load() {
			return fmt.Errorf("the index is %d, not %d", answer.GetIndex(), said.Load())
		}
		said.Add(1)
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); err == nil {
		return errors.New("there is an answer to nothing")
	}
	return nil
}
