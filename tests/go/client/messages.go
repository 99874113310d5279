package main

import (
	"bytes"
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "sidelane.test/calls/stubs/echo"
)

// ---- unary --------------------------------------------------------------------------------------

func unaryIsGivenBack(g *ground) {
	key := freshKey("unary")
	request := &pb.UnaryRequest{Payload: noise(1000), Behaviour: &pb.Behaviour{LedgerKey: key}}
	response, err := g.echo().Unary(g.ctx, request)
	works(err)
	holds(bytes.Equal(response.GetPayload(), noise(1000)), "another payload came back")
	equal(response.GetNode(), "echo", "the answering node")
	remaining := response.GetRemainingMs()
	var source, lane []string
	if g.isMesh() {
		// Without a deadline of its own a unary call gets the rule's, 5 s.
		holds(0 < remaining && remaining <= 5_000, "of the rule's 5 s %d ms were left", remaining)
		source, lane = []string{g.caller}, []string{"general"}
	} else {
		equal(remaining, -1, "the remaining time, where no deadline was set,")
	}
	equalAll(told(response, "sidelane-source-node"), source, "sidelane-source-node")
	equalAll(told(response, "sidelane-lane"), lane, "sidelane-lane")
	executedOnce(g, key)
}

func executedOnce(g *ground, key string) {
	seen := count(g.ctx, g.witness(), key)
	holds(seen.GetArrived() == 1 && seen.GetFinished() == 1, "executed: %v", seen)
}

func told(response *pb.UnaryResponse, name string) []string {
	var values []string
	for _, line := range response.GetMetadata() {
		if value, found := strings.CutPrefix(line, name+": "); found {
			values = append(values, value)
		}
	}
	return values
}

func emptyMessages(g *ground) {
	echo := g.echo()
	response, err := echo.Unary(g.ctx, &pb.UnaryRequest{})
	works(err)
	equal(len(response.GetPayload()), 0, "the payload's length")
	for _, messages := range []int{0, 5} {
		stream, err := echo.Collect(g.ctx)
		works(err)
		for range messages {
			works(stream.Send(&pb.CollectRequest{}))
		}
		collected, err := stream.CloseAndRecv()
		works(err)
		equal(collected.GetMessages(), uint64(messages), "how many empty messages")
		equal(collected.GetBytes(), 0, "how many bytes of empty messages")
	}
	answers, err := echo.Expand(g.ctx, &pb.ExpandRequest{})
	works(err)
	equal(len(received(answers)), 0, "how many answers where none were wanted")
}

func unaryOf4MiB(g *ground) {
	payload := noise(4 * mib)
	response, err := g.echo().Unary(g.ctx, &pb.UnaryRequest{Payload: payload})
	works(err)
	holds(bytes.Equal(response.GetPayload(), payload), "another payload came back")
}

// ---- metadata -----------------------------------------------------------------------------------

const (
	textHeader   = "x-test-text"
	binaryHeader = "x-test-data-bin"
)

var (
	texts    = []string{"one", "two, and a comma", "one", "four"}
	binaries = []string{"\x00\xff\x80", "", "\r\n", "\x01\x02\x03\x04"}
)

func withMetadata(ctx context.Context) context.Context {
	for index, text := range texts {
		ctx = metadata.AppendToOutgoingContext(ctx, textHeader, text, binaryHeader, binaries[index])
	}
	return ctx
}

// expectedTexts are the texts as they come from this server: Node joins values of one name, as gRPC
// allows for those that are not binary.
func (g *ground) expectedTexts() []string {
	if g.serverKind == "Node" {
		return []string{strings.Join(texts, ", ")}
	}
	return texts
}

func (g *ground) checkMetadata(md metadata.MD, where string) {
	equalAll(md.Get(textHeader), g.expectedTexts(), textHeader+" "+where)
	equalAll(md.Get(binaryHeader), binaries, binaryHeader+" "+where)
}

func metadataOfUnary(g *ground) {
	var headers, trailers metadata.MD
	request := &pb.UnaryRequest{Behaviour: &pb.Behaviour{EchoMetadata: true}}
	response, err := g.echo().Unary(withMetadata(g.ctx), request, grpc.Header(&headers), grpc.Trailer(&trailers))
	works(err)
	g.checkMetadata(headers, "in the answer's headers")
	g.checkMetadata(trailers, "in the answer's trailers")
	equalAll(told(response, textHeader), g.expectedTexts(), "what the server saw")
	wanted := []string{"AP+A", "", "DQo=", "AQIDBA=="}
	equalAll(told(response, binaryHeader), wanted, "what the server saw")
}

func metadataOfStreams(g *ground) {
	stream, err := g.echo().Chat(withMetadata(g.ctx))
	works(err)
	works(stream.Send(&pb.ChatRequest{Behaviour: &pb.Behaviour{EchoMetadata: true}}))
	works(stream.CloseSend())
	headers, err := stream.Header()
	works(err)
	g.checkMetadata(headers, "in the answer's headers")
	equal(len(received(stream)), 1, "the number of answers")
	g.checkMetadata(stream.Trailer(), "in the answer's trailers")
}

func metadataOfErrors(g *ground) {
	echo := g.echo()
	var trailers metadata.MD
	behaviour := &pb.Behaviour{EchoMetadata: true, Status: int32(codes.NotFound)}
	_, err := echo.Unary(withMetadata(g.ctx), &pb.UnaryRequest{Behaviour: behaviour}, grpc.Trailer(&trailers))
	equal(fails(err).Code(), codes.NotFound, "the status")
	g.checkMetadata(trailers, "in the only headers")

	behaviour.AfterMessages = 1
	request := &pb.ExpandRequest{Messages: 3, Bytes: 1, Behaviour: behaviour}
	answers, err := echo.Expand(withMetadata(g.ctx), request)
	works(err)
	headers, err := answers.Header()
	works(err)
	g.checkMetadata(headers, "in the headers before an error")
	first(answers)
	equal(broken(answers).Code(), codes.NotFound, "the status")
	g.checkMetadata(answers.Trailer(), "in the trailers of an error")
}

func userAgentIsKept(g *ground) {
	response, err := g.echo().Unary(g.ctx, &pb.UnaryRequest{})
	works(err)
	wanted := []string{userAgent + " grpc-go/" + grpc.Version}
	equalAll(told(response, "user-agent"), wanted, "the user-agent")
}

// ---- compression --------------------------------------------------------------------------------

func compressed(ctx context.Context) (context.Context, grpc.CallOption) {
	return metadata.AppendToOutgoingContext(ctx, "x-test-compress", "yes"), grpc.UseCompressor("gzip")
}

func gzipUnary(g *ground) {
	payload := bytes.Repeat([]byte("z"), 300_000)
	ctx, option := compressed(g.ctx)
	response, err := g.echo().Unary(ctx, &pb.UnaryRequest{Payload: payload}, option)
	works(err)
	holds(bytes.Equal(response.GetPayload(), payload), "another payload came back")
	if g.serverKind == "Rust" {
		equalAll(told(response, "grpc-encoding"), []string{"gzip"}, "how the request arrived")
	}
}

func gzipStreams(g *ground) {
	payload := bytes.Repeat([]byte("z"), 300_000)
	ctx, option := compressed(g.ctx)
	echo := g.echo()

	collecting, err := echo.Collect(ctx, option)
	works(err)
	for range 10 {
		works(collecting.Send(&pb.CollectRequest{Payload: payload}))
	}
	collected, err := collecting.CloseAndRecv()
	works(err)
	equal(collected.GetBytes(), 3_000_000, "the bytes")

	expanding, err := echo.Expand(ctx, &pb.ExpandRequest{Messages: 10, Bytes: 300_000}, option)
	works(err)
	expanded := received(expanding)
	equal(len(expanded), 10, "the number of answers")
	for _, answer := range expanded {
		equal(len(answer.GetPayload()), 300_000, "an answer's length")
	}

	chatting, err := echo.Chat(ctx, option)
	works(err)
	go func() {
		for range 10 {
			chatting.Send(&pb.ChatRequest{Payload: payload})
		}
		chatting.CloseSend()
	}()
	said := received(chatting)
	equal(len(said), 10, "the number of answers")
	for _, answer := range said {
		holds(bytes.Equal(answer.GetPayload(), payload), "another payload came back")
	}
}

// ---- status -------------------------------------------------------------------------------------

const message = "größer als 100 %: \"日本語\" 🚦\tTab\nzweite Zeile %41"

func details() []byte {
	all := make([]byte, 256)
	for index := range all {
		all[index] = byte(index)
	}
	return all
}

func failing(code codes.Code) *pb.Behaviour {
	return &pb.Behaviour{Status: int32(code), Message: message, Details: details()}
}

func checkStatus(ended *status.Status, trailers metadata.MD, code codes.Code) {
	equal(ended.Code(), code, "the status")
	equal(ended.Message(), message, "the message of "+code.String())
	given := trailers.Get("grpc-status-details-bin")
	equalAll(given, []string{string(details())}, "the details of "+code.String())
	mesh := len(trailers.Get("sidelane-error")) > 0
	holds(!mesh, "the mesh put its own words on %v", code)
}

func everyStatus(g *ground) {
	echo := g.echo()
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		var trailers metadata.MD
		request := &pb.UnaryRequest{Behaviour: failing(code)}
		_, err := echo.Unary(g.ctx, request, grpc.Trailer(&trailers))
		checkStatus(fails(err), trailers, code)
	}
}

func everyStatusAfterMessages(g *ground) {
	echo := g.echo()
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		behaviour := failing(code)
		behaviour.AfterMessages = 2
		request := &pb.ExpandRequest{Messages: 5, Bytes: 100, Behaviour: behaviour}
		answers, err := echo.Expand(g.ctx, request)
		works(err)
		first(answers)
		first(answers)
		checkStatus(broken(answers), answers.Trailer(), code)
	}
}

// errorsAreTrailersOnly has what a grpc-go client sees of them: a stream without headers and
// without messages.
func errorsAreTrailersOnly(g *ground) {
	request := &pb.ExpandRequest{Messages: 1, Behaviour: failing(codes.NotFound)}
	answers, err := g.echo().Expand(g.ctx, request)
	works(err)
	headers, err := answers.Header()
	holds(err == nil || status.Code(err) == codes.NotFound, "instead of headers came %v", err)
	equal(len(headers), 0, "the number of headers before a status alone")
	checkStatus(broken(answers), answers.Trailer(), codes.NotFound)
}
