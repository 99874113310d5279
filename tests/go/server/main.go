// The test services on grpc-go, unchanged from its module proxy.
//
// Does exactly what the Rust Upstream does; echo.proto says what that is. Prints the port on which
// it listens, and serves until it is ended.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"

	pb "sidelane.test/calls/stubs/echo"
)

const messageLimit = 80 * 1024 * 1024

func main() {
	node := flag.String("node", "", "what the server calls itself")
	flag.Parse()
	if *node == "" || flag.NArg() > 0 {
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
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatalf("nothing to listen on: %v", err)
	}
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(messageLimit),
		grpc.MaxSendMsgSize(messageLimit),
	)
	ledger := newLedger()
	pb.RegisterEchoServer(server, &echo{node: *node, ledger: ledger})
	pb.RegisterWitnessServer(server, &witness{ledger: ledger})
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(server.Serve(listener))
}
