// The call matrix with grpc-go, unchanged from its module proxy, as the client.
//
// Runs the cases of tests/src/cases by the same names, and prints a line of JSON for each.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
)

// A case is a function that makes calls and says what must come of them.
type testCase struct {
	name string
	run  func(*ground)
}

var cases = []testCase{
	{"unary_is_given_back", unaryIsGivenBack},
	{"empty_messages", emptyMessages},
	{"unary_of_4_mib", unaryOf4MiB},
	{"metadata_of_unary", metadataOfUnary},
	{"metadata_of_streams", metadataOfStreams},
	{"metadata_of_errors", metadataOfErrors},
	{"user_agent_is_kept", userAgentIsKept},
	{"gzip_unary", gzipUnary},
	{"gzip_streams", gzipStreams},
	{"client_stream", clientStream},
	{"server_stream", serverStream},
	{"conversation", conversation},
	{"client_stream_of_64_mib", clientStreamOf64MiB},
	{"server_stream_of_64_mib", serverStreamOf64MiB},
	{"conversation_of_64_mib", conversationOf64MiB},
	{"half_close", halfClose},
	{"early_answer", earlyAnswer},
	{"early_refusal_of_a_busy_sender", earlyRefusalOfABusySender},
	{"every_status", everyStatus},
	{"every_status_after_messages", everyStatusAfterMessages},
	{"errors_are_trailers_only", errorsAreTrailersOnly},
	{"server_sees_cancelled_unary", serverSeesCancelledUnary},
	{"server_sees_cancelled_client_stream", serverSeesCancelledClientStream},
	{"server_sees_cancelled_server_stream", serverSeesCancelledServerStream},
	{"server_sees_cancelled_conversation", serverSeesCancelledConversation},
	{"client_sees_cancelling_server", clientSeesCancellingServer},
	{"deadline_of_unary", deadlineOfUnary},
	{"deadline_of_stream", deadlineOfStream},
	{"remaining_time_is_passed_on", remainingTimeIsPassedOn},
	{"expired_on_arrival", expiredOnArrival},
	{"thousand_tiny_replies", thousandTinyReplies},
	{"ten_thousand_cancelled", tenThousandCancelled},
}

func main() {
	var here ground
	flag.StringVar(&here.target, "target", "", "whom to call")
	flag.StringVar(&here.server, "server", "", "whom to ask what it saw")
	flag.StringVar(&here.serverKind, "server-kind", "", "what it is made of")
	flag.StringVar(&here.caller, "caller", "", "the node behind which this is; none without a mesh")
	wanted := flag.String("cases", "", "which cases, NAME,NAME; without it, all")
	version := flag.Bool("version", false, "print the library's version, and end")
	flag.Parse()
	if *version {
		fmt.Printf("grpc-go %s on %s\n", grpc.Version, runtime.Version())
		return
	}
	if here.target == "" || here.server == "" || here.serverKind == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if _, tethered := os.LookupEnv("TETHERED_TO_TEST"); tethered {
		// A test that is killed leaves nothing behind.
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
	}
	for _, chosen := range choose(*wanted) {
		// So that a case that hangs is named.
		say(map[string]any{"begin": chosen.name})
		start := time.Now()
		failure := here.run(chosen)
		say(map[string]any{
			"case":    chosen.name,
			"took_ms": time.Since(start).Milliseconds(),
			"error":   failure,
		})
	}
}

func choose(wanted string) []testCase {
	if wanted == "" {
		return cases
	}
	var chosen []testCase
	for name := range strings.SplitSeq(wanted, ",") {
		index := slices.IndexFunc(cases, func(known testCase) bool { return known.name == name })
		if index < 0 {
			fmt.Fprintf(os.Stderr, "there is no case %s\n", name)
			os.Exit(2)
		}
		chosen = append(chosen, cases[index])
	}
	return chosen
}

func say(line map[string]any) {
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		panic(err)
	}
}
