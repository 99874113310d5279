package main

import (
	"bytes"
	"errors"
	"io"

	"google.golang.org/grpc/codes"

	pb "sidelane.test/calls/stubs/echo"
)

func clientStream(g *ground) { collect(g, 100, 1000) }

func serverStream(g *ground) { expand(g, 100, 1000) }

func clientStreamOf64MiB(g *ground) { collect(g, 64, mib) }

func serverStreamOf64MiB(g *ground) { expand(g, 64, mib) }

func collect(g *ground, messages, length int) {
	key := freshKey("collect")
	stream, err := g.echo().Collect(g.ctx)
	works(err)
	request := &pb.CollectRequest{Payload: noise(length), Behaviour: &pb.Behaviour{LedgerKey: key}}
	for range messages {
		works(stream.Send(request))
		request = &pb.CollectRequest{Payload: request.GetPayload()}
	}
	response, err := stream.CloseAndRecv()
	works(err)
	equal(response.GetMessages(), uint64(messages), "how many messages came in")
	equal(response.GetBytes(), uint64(messages*length), "how many bytes came in")
	executedOnce(g, key)
}

func expand(g *ground, messages, length int) {
	key := freshKey("expand")
	behaviour := &pb.Behaviour{LedgerKey: key}
	request := &pb.ExpandRequest{Messages: uint32(messages), Bytes: uint32(length), Behaviour: behaviour}
	answers, err := g.echo().Expand(g.ctx, request)
	works(err)
	for index := range messages {
		answer := first(answers)
		equal(answer.GetIndex(), uint32(index), "the index")
		wanted := bytes.Repeat([]byte{byte(index)}, length)
		holds(bytes.Equal(answer.GetPayload(), wanted), "answer %d has another payload", index)
	}
	equal(len(received(answers)), 0, "the number of answers too many")
	executedOnce(g, key)
}

func conversation(g *ground) {
	stream, err := g.echo().Chat(g.ctx)
	works(err)
	works(stream.Send(&pb.ChatRequest{}))
	for index := range 50 {
		answer := first(stream)
		equal(answer.GetIndex(), uint32(index), "the index")
		holds(bytes.Equal(answer.GetPayload(), noise(index)), "another payload came back")
		works(stream.Send(&pb.ChatRequest{Payload: noise(index + 1)}))
	}
	works(stream.CloseSend())
	equal(len(received(stream)), 1, "the number of answers at the end")
}

func conversationOf64MiB(g *ground) {
	payload := noise(mib)
	stream, err := g.echo().Chat(g.ctx)
	works(err)
	sent := make(chan error, 1)
	go func() {
		var err error
		for range 64 {
			err = errors.Join(err, stream.Send(&pb.ChatRequest{Payload: payload}))
		}
		sent <- errors.Join(err, stream.CloseSend())
	}()
	for index := range 64 {
		answer := first(stream)
		equal(answer.GetIndex(), uint32(index), "the index")
		holds(bytes.Equal(answer.GetPayload(), payload), "another payload came back")
	}
	works(<-sent)
	equal(len(received(stream)), 0, "the number of answers too many")
}

func halfClose(g *ground) {
	stream, err := g.echo().Chat(g.ctx)
	works(err)
	works(stream.Send(&pb.ChatRequest{Behaviour: &pb.Behaviour{Epilogue: 2}}))
	works(stream.Send(&pb.ChatRequest{}))
	works(stream.Send(&pb.ChatRequest{}))
	works(stream.CloseSend())
	var indices []uint32
	for _, answer := range received(stream) {
		indices = append(indices, answer.GetIndex())
	}
	equalAll(indices, []uint32{0, 1, 2, 3, 4}, "the answers")
}

func earlyAnswer(g *ground) {
	key := freshKey("early")
	echo := g.echo()
	stream, err := echo.Collect(g.ctx)
	works(err)
	behaviour := &pb.Behaviour{Early: true, AfterMessages: 1, LedgerKey: key}
	works(stream.Send(&pb.CollectRequest{Payload: noise(10), Behaviour: behaviour}))
	// Without CloseSend: the request never ends.
	var response pb.CollectResponse
	works(stream.RecvMsg(&response))
	equal(response.GetMessages(), 1, "how many messages came in")
	equal(response.GetBytes(), 10, "how many bytes came in")
	sees(g.ctx, g.witness(), key, pb.Moment_MOMENT_FINISHED)
	// The connection is as good as before.
	_, err = echo.Unary(g.ctx, &pb.UnaryRequest{})
	works(err)
}

func earlyRefusalOfABusySender(g *ground) {
	echo := g.echo()
	behaviour := &pb.Behaviour{
		Early:         true,
		AfterMessages: 3,
		Status:        int32(codes.ResourceExhausted),
		Message:       "enough",
	}
	for range 5 {
		stream, err := echo.Collect(g.ctx)
		works(err)
		err = stream.Send(&pb.CollectRequest{Payload: noise(100), Behaviour: behaviour})
		more := &pb.CollectRequest{Payload: noise(mib / 4)}
		for err == nil {
			err = stream.Send(more)
		}
		holds(errors.Is(err, io.EOF), "sending ended with %v", err)
		_, err = stream.CloseAndRecv()
		refused := fails(err)
		equal(refused.Code(), codes.ResourceExhausted, "the refusal")
		equal(refused.Message(), "enough", "the refusal's message")
	}
	_, err := echo.Unary(g.ctx, &pb.UnaryRequest{})
	works(err)
}
