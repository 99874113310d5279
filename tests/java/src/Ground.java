import com.google.protobuf.ByteString;
import io.grpc.Channel;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.UnaryOperator;
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

/** Where a case takes place. */
final class Ground {
  static final String USER_AGENT = "sidelane-tests/1";
  static final int MIB = 1024 * 1024;
  // Longer than a case may take.
  static final int FOR_EVER_MS = 600_000;
  // How long a server may take until it has seen what it must see.
  static final int SOON_MS = 10_000;
  private static final int MESSAGE_LIMIT = 80 * MIB;
  private static final AtomicLong KEYS = new AtomicLong();
  private static final Map<Integer, ByteString> NOISES = new ConcurrentHashMap<>();

  final String serverKind;
  final String caller;
  private final String target;
  private final WitnessGrpc.WitnessBlockingStub witness;

  /** A case, or a part of one, on a connection of its own. */
  interface Work {
    void with(Echo echo) throws Exception;
  }

  Ground(Flags flags) {
    target = flags.get("target");
    serverKind = flags.get("server-kind");
    caller = flags.getIfGiven("caller");
    ManagedChannel direct =
        ManagedChannelBuilder.forTarget(flags.get("server")).usePlaintext().build();
    witness = WitnessGrpc.newBlockingStub(direct);
  }

  boolean isMesh() {
    return caller != null;
  }

  void echo(Work work) throws Exception {
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(target)
            .usePlaintext()
            .userAgent(USER_AGENT)
            .maxInboundMessageSize(MESSAGE_LIMIT)
            .build();
    try {
      work.with(new Echo(channel, new Metadata(), stub -> stub));
    } finally {
      channel.shutdownNow();
    }
  }

  /** Waits until the server has seen so much of the call, and returns that. */
  ObserveResponse sees(String key, Moment moment) {
    return witness.observe(
        ObserveRequest.newBuilder().setKey(key).setMoment(moment).setTimeoutMs(SOON_MS).build());
  }

  CountCallsResponse count(String key) {
    return witness.countCalls(CountCallsRequest.newBuilder().setKey(key).build());
  }

  void executedOnce(String key) {
    CountCallsResponse seen = count(key);
    Check.holds(seen.getArrived() == 1 && seen.getFinished() == 1, "executed: " + seen);
  }

  /** A key that no other call has. */
  static String freshKey(String name) {
    return name + "-java-" + ProcessHandle.current().pid() + "-" + KEYS.incrementAndGet();
  }

  static Behaviour.Builder keyed(String key) {
    return Behaviour.newBuilder().setLedgerKey(key);
  }

  static Behaviour.Builder failing(Status.Code status) {
    return Behaviour.newBuilder().setStatus(status.value());
  }

  /** Bytes that do not compress, the same for the same length. */
  static ByteString noise(int length) {
    return NOISES.computeIfAbsent(
        length,
        unknown -> {
          byte[] bytes = new byte[length];
          new Random(length).nextBytes(bytes);
          return ByteString.copyFrom(bytes);
        });
  }

  /** The four methods, each the begin of a call with this metadata and these options. */
  record Echo(Channel channel, Metadata metadata, UnaryOperator<EchoGrpc.EchoStub> options) {
    Echo with(Metadata metadata) {
      return new Echo(channel, metadata, options);
    }

    Echo compressed() {
      return new Echo(channel, metadata, stub -> stub.withCompression("gzip"));
    }

    Echo withDeadline(long time, TimeUnit unit) {
      return new Echo(channel, metadata, stub -> stub.withDeadlineAfter(time, unit));
    }

    Call<UnaryRequest, UnaryResponse> unary(UnaryRequest request) {
      Call<UnaryRequest, UnaryResponse> call = Call.ofOne();
      stub(call).unary(request, call);
      return call;
    }

    Call<UnaryRequest, UnaryResponse> unary(Behaviour.Builder behaviour) {
      return unary(UnaryRequest.newBuilder().setBehaviour(behaviour).build());
    }

    Call<CollectRequest, CollectResponse> collect() {
      Call<CollectRequest, CollectResponse> call = Call.ofOne();
      stub(call).collect(call);
      return call;
    }

    Call<ExpandRequest, ExpandResponse> expand(ExpandRequest request) {
      Call<ExpandRequest, ExpandResponse> call = Call.ofMany();
      stub(call).expand(request, call);
      return call;
    }

    Call<ExpandRequest, ExpandResponse> expand(int messages, int bytes, Behaviour.Builder what) {
      return expand(
          ExpandRequest.newBuilder()
              .setMessages(messages)
              .setBytes(bytes)
              .setBehaviour(what)
              .build());
    }

    Call<ChatRequest, ChatResponse> chat() {
      Call<ChatRequest, ChatResponse> call = Call.ofMany();
      stub(call).chat(call);
      return call;
    }

    private EchoGrpc.EchoStub stub(Call<?, ?> call) {
      return options.apply(EchoGrpc.newStub(call.on(channel, metadata)));
    }
  }
}
