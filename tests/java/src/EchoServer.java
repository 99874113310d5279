import com.google.protobuf.ByteString;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.util.Arrays;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import sidelane.test.v1.EchoGrpc;
import sidelane.test.v1.EchoOuterClass.Behaviour;
import sidelane.test.v1.EchoOuterClass.ChatRequest;
import sidelane.test.v1.EchoOuterClass.ChatResponse;
import sidelane.test.v1.EchoOuterClass.CollectRequest;
import sidelane.test.v1.EchoOuterClass.CollectResponse;
import sidelane.test.v1.EchoOuterClass.CountCallsRequest;
import sidelane.test.v1.EchoOuterClass.CountCallsResponse;
import sidelane.test.v1.EchoOuterClass.ExpandRequest;
import sidelane.test.v1.EchoOuterClass.ExpandResponse;
import sidelane.test.v1.EchoOuterClass.Moment;
import sidelane.test.v1.EchoOuterClass.ObserveRequest;
import sidelane.test.v1.EchoOuterClass.ObserveResponse;
import sidelane.test.v1.EchoOuterClass.UnaryRequest;
import sidelane.test.v1.EchoOuterClass.UnaryResponse;
import sidelane.test.v1.WitnessGrpc;

/**
 * The test services on grpc-java, unchanged from Maven Central.
 *
 * <p>Does what the Rust {@code Upstream} does; `echo.proto` says what that is. Prints the port on
 * which it listens, and serves until it is ended. What grpc-java cannot do as a server is left out:
 *
 * <pre>
 * | left out                     | because                                                       |
 * | ---------------------------- | ------------------------------------------------------------- |
 * | a reset call, for `cancel`   | a service can end a call with a status only                   |
 * </pre>
 */
final class EchoServer {
  private static final int MESSAGE_LIMIT = 80 * 1024 * 1024;

  private final Ledger ledger = new Ledger();
  private final String node;

  private EchoServer(String node) {
    this.node = node;
  }

  public static void main(String[] arguments) throws Exception {
    EchoClient.endWithTest();
    EchoServer services = new EchoServer(new Flags(arguments).get("node"));
    Server server =
        NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0))
            .maxInboundMessageSize(MESSAGE_LIMIT)
            .intercept(new Around.Interceptor())
            .addService(services.new Echo())
            .addService(services.new Witness())
            .build()
            .start();
    System.out.println(server.getPort());
    server.awaitTermination();
  }

  /** A call and what is to be done with it. Left unfinished, its caller has given up. */
  private final class Visitor {
    private final Behaviour behaviour;
    private final Metadata echoed;
    private final Ledger.Visit visit;
    private final CompletableFuture<Void> cancelled;
    private boolean acted;

    Visitor(Behaviour behaviour, Around around, long remaining, CompletableFuture<Void> cancelled) {
      this.behaviour = behaviour;
      this.echoed = behaviour.getEchoMetadata() ? around.echo() : new Metadata();
      this.visit = ledger.arrive(behaviour.getLedgerKey(), remaining);
      this.cancelled = cancelled;
      cancelled.thenRun(() -> ledger.end(visit, Moment.MOMENT_CANCELLED));
    }

    void finish() {
      ledger.end(visit, Moment.MOMENT_FINISHED);
    }

    boolean isDue(long messages) {
      return messages == behaviour.getAfterMessages();
    }

    void actIfDue(long messages) throws Exception {
      if (!acted && isDue(messages)) {
        act();
      }
    }

    /** Does what the behaviour says: waits, and perhaps fails. */
    void act() throws Exception {
      acted = true;
      int delay = behaviour.getDelayMs();
      if (behaviour.getGather() > 0) {
        String key = behaviour.getLedgerKey();
        int all = behaviour.getGather();
        if (!within(delay, ledger.reached(key, Moment.MOMENT_ARRIVED, all))) {
          int count = ledger.count(key, Moment.MOMENT_ARRIVED);
          String text = "only %d of %d calls came within %d ms".formatted(count, all, delay);
          throw end(Status.ABORTED.withDescription(text), new Metadata());
        }
      } else if (delay > 0) {
        within(delay, new CompletableFuture<Void>());
      }
      if (behaviour.getCancel()) {
        throw end(Status.CANCELLED.withDescription("given up by the server"), new Metadata());
      }
      if (behaviour.getStatus() != 0) {
        Metadata trailers = new Metadata();
        trailers.merge(echoed);
        if (!behaviour.getDetails().isEmpty()) {
          byte[] details = behaviour.getDetails().toByteArray();
          trailers.put(Around.bytes("grpc-status-details-bin"), details);
        }
        Status status = Status.fromCodeValue(behaviour.getStatus());
        throw end(status.withDescription(behaviour.getMessage()), trailers);
      }
    }

    /** Whether it came within this time. Throws if the caller gave up before. */
    private boolean within(int milliseconds, CompletableFuture<?> what) throws Exception {
      try {
        CompletableFuture.anyOf(what, cancelled).get(milliseconds, TimeUnit.MILLISECONDS);
      } catch (TimeoutException late) {
        // Nobody waits for it any more.
        what.cancel(false);
        return false;
      }
      if (cancelled.isDone()) {
        throw new CancellationException("the caller gave up");
      }
      return true;
    }

    private StatusException end(Status status, Metadata trailers) {
      finish();
      return status.asException(trailers);
    }
  }

  private final class Echo extends EchoGrpc.EchoImplBase {
    @Override
    public void unary(UnaryRequest request, StreamObserver<UnaryResponse> answers) {
      Around around = Around.thisCall();
      long remaining = Around.remainingMillis();
      Exchange<UnaryRequest, UnaryResponse> call = new Exchange<>(answers);
      Visitor visitor = new Visitor(request.getBehaviour(), around, remaining, call.cancelled);
      call.with(
          () -> {
            visitor.act();
            visitor.finish();
            call.write(
                UnaryResponse.newBuilder()
                    .setPayload(request.getPayload())
                    .setNode(node)
                    .setRemainingMs(remaining)
                    .addAllMetadata(around.lines())
                    .build());
          });
    }

    @Override
    public StreamObserver<CollectRequest> collect(StreamObserver<CollectResponse> answers) {
      Around around = Around.thisCall();
      long remaining = Around.remainingMillis();
      Exchange<CollectRequest, CollectResponse> call = Exchange.ofStream(answers);
      return call.with(
          () -> {
            CollectRequest message = call.next();
            Behaviour behaviour =
                message == null ? Behaviour.getDefaultInstance() : message.getBehaviour();
            Visitor visitor = new Visitor(behaviour, around, remaining, call.cancelled);
            long messages = 0;
            long bytes = 0;
            while (message != null) {
              messages += 1;
              bytes += message.getPayload().size();
              if (behaviour.getEarly() && visitor.isDue(messages)) {
                break;
              }
              message = call.next();
            }
            visitor.act();
            visitor.finish();
            call.write(
                CollectResponse.newBuilder()
                    .setMessages(messages)
                    .setBytes(bytes)
                    .setNode(node)
                    .build());
          });
    }

    @Override
    public void expand(ExpandRequest request, StreamObserver<ExpandResponse> answers) {
      Around around = Around.thisCall();
      long remaining = Around.remainingMillis();
      Exchange<ExpandRequest, ExpandResponse> call = new Exchange<>(answers);
      Visitor visitor = new Visitor(request.getBehaviour(), around, remaining, call.cancelled);
      call.with(
          () -> {
            for (int index = 0; index < request.getMessages(); index++) {
              visitor.actIfDue(index);
              byte[] payload = new byte[request.getBytes()];
              Arrays.fill(payload, (byte) index);
              call.write(
                  ExpandResponse.newBuilder()
                      .setIndex(index)
                      .setPayload(ByteString.copyFrom(payload))
                      .setNode(node)
                      .build());
            }
            if (!visitor.acted) {
              visitor.act();
            }
            visitor.finish();
          });
    }

    @Override
    public StreamObserver<ChatRequest> chat(StreamObserver<ChatResponse> answers) {
      Around around = Around.thisCall();
      long remaining = Around.remainingMillis();
      Exchange<ChatRequest, ChatResponse> call = Exchange.ofStream(answers);
      return call.with(
          () -> {
            ChatRequest message = call.next();
            Behaviour behaviour =
                message == null ? Behaviour.getDefaultInstance() : message.getBehaviour();
            Visitor visitor = new Visitor(behaviour, around, remaining, call.cancelled);
            visitor.actIfDue(0);
            int epilogue = behaviour.getEpilogue();
            for (int index = 0; message != null || epilogue > 0; index++) {
              visitor.actIfDue(index);
              if (message == null) {
                epilogue -= 1;
              }
              ByteString payload = message == null ? ByteString.EMPTY : message.getPayload();
              call.write(
                  ChatResponse.newBuilder()
                      .setPayload(payload)
                      .setIndex(index)
                      .setNode(node)
                      .build());
              if (message != null) {
                message = call.next();
              }
            }
            visitor.finish();
          });
    }
  }

  private final class Witness extends WitnessGrpc.WitnessImplBase {
    @Override
    public void observe(ObserveRequest request, StreamObserver<ObserveResponse> answers) {
      Moment moment = request.getMoment();
      CompletableFuture<Ledger.Visit> reached = ledger.reached(request.getKey(), moment, 1);
      reached
          .orTimeout(request.getTimeoutMs(), TimeUnit.MILLISECONDS)
          .whenComplete(
              (visit, late) -> {
                if (visit == null) {
                  String text =
                      "call `%s` is not %s after %d ms"
                          .formatted(request.getKey(), moment, request.getTimeoutMs());
                  answers.onError(Status.NOT_FOUND.withDescription(text).asException());
                  return;
                }
                answers.onNext(
                    ObserveResponse.newBuilder()
                        .setUnixNanos(visit.at(moment))
                        .setRemainingMs(visit.remainingMillis)
                        .build());
                answers.onCompleted();
              });
    }

    @Override
    public void countCalls(CountCallsRequest request, StreamObserver<CountCallsResponse> answers) {
      String key = request.getKey();
      answers.onNext(
          CountCallsResponse.newBuilder()
              .setArrived(ledger.count(key, Moment.MOMENT_ARRIVED))
              .setFinished(ledger.count(key, Moment.MOMENT_FINISHED))
              .setCancelled(ledger.count(key, Moment.MOMENT_CANCELLED))
              .build());
      answers.onCompleted();
    }
  }
}
