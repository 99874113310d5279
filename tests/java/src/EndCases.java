import com.google.protobuf.ByteString;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import sidelane.test.v1.EchoOuterClass.Behaviour;
import sidelane.test.v1.EchoOuterClass.ChatRequest;
import sidelane.test.v1.EchoOuterClass.CollectRequest;
import sidelane.test.v1.EchoOuterClass.Moment;
import sidelane.test.v1.EchoOuterClass.UnaryRequest;

/** Cases of calls that end otherwise than well: by a status, by being given up, by a deadline. */
final class EndCases {
  private static final String MESSAGE = "größer als 100 %: \"日本語\" 🚦\tTab\nzweite Zeile %41";
  private static final byte[] DETAILS = allBytes();
  private static final int DEADLINE_MS = 200;
  // This client, both sidecars and the server each count in whole milliseconds, rounded down.
  private static final int TOO_EARLY_MS = 4;

  private EndCases() {}

  /** A call, begun for this key. */
  private interface Begin {
    Call<?, ?> call(String key) throws Exception;
  }

  /** A call with a deadline, which says how it ended. */
  private interface Ending {
    StatusRuntimeException of(Ground.Echo echo, Behaviour.Builder behaviour) throws Exception;
  }

  static void everyStatus(Ground ground) throws Exception {
    ground.echo(
        echo -> {
          for (int status = 1; status <= 16; status++) {
            checkStatus(echo.unary(failing(status)).failure(), status);
          }
        });
  }

  static void everyStatusAfterMessages(Ground ground) throws Exception {
    ground.echo(
        echo -> {
          for (int status = 1; status <= 16; status++) {
            var call = echo.expand(5, 100, failing(status).setAfterMessages(2));
            Check.holds(call.next() != null, "no first message before " + status);
            Check.holds(call.next() != null, "no second message before " + status);
            checkStatus(call.failure(), status);
          }
        });
  }

  /** What a grpc-java client sees of them: a stream that has no headers and no messages. */
  static void errorsAreTrailersOnly(Ground ground) throws Exception {
    ground.echo(
        echo -> {
          var call = echo.expand(1, 0, failing(5));
          checkStatus(call.failure(), 5);
          Check.same(call.headers(), null, "the headers before a status alone");
        });
  }

  private static Behaviour.Builder failing(int status) {
    return Behaviour.newBuilder()
        .setStatus(status)
        .setMessage(MESSAGE)
        .setDetails(ByteString.copyFrom(DETAILS));
  }

  private static byte[] allBytes() {
    byte[] bytes = new byte[256];
    for (int index = 0; index < bytes.length; index++) {
      bytes[index] = (byte) index;
    }
    return bytes;
  }

  private static void checkStatus(StatusRuntimeException error, int status) {
    Check.same(error.getStatus().getCode().value(), status, "the status");
    Check.same(error.getStatus().getDescription(), MESSAGE, "the message of " + status);
    Metadata trailers = error.getTrailers();
    byte[] details = trailers.get(Around.bytes("grpc-status-details-bin"));
    Check.holds(details != null, "no details of " + status);
    Check.sameBytes(List.of(details), List.of(DETAILS), "the details of " + status);
    boolean ours = trailers.containsKey(Around.text("sidelane-error"));
    Check.holds(!ours, "the mesh put its own words on " + status);
  }

  static void serverSeesCancelledUnary(Ground ground) throws Exception {
    ground.echo(
        echo -> {
          serverSees(ground, key -> echo.unary(thinking(key)));
          // The connection is as good as before.
          echo.unary(UnaryRequest.getDefaultInstance()).only();
        });
  }

  static void serverSeesCancelledClientStream(Ground ground) throws Exception {
    ground.echo(
        echo ->
            serverSees(
                ground,
                key -> {
                  var call = echo.collect();
                  call.send(CollectRequest.newBuilder().setBehaviour(Ground.keyed(key)).build());
                  return call;
                }));
  }

  static void serverSeesCancelledServerStream(Ground ground) throws Exception {
    ground.echo(
        echo ->
            serverSees(
                ground,
                key -> {
                  var call = echo.expand(2, 10, thinking(key).setAfterMessages(1));
                  Check.holds(call.next() != null, "no first answer");
                  return call;
                }));
  }

  static void serverSeesCancelledConversation(Ground ground) throws Exception {
    ground.echo(
        echo ->
            serverSees(
                ground,
                key -> {
                  var call = echo.chat();
                  call.send(ChatRequest.newBuilder().setBehaviour(Ground.keyed(key)).build());
                  Check.holds(call.next() != null, "no first answer");
                  return call;
                }));
  }

  static void clientSeesCancellingServer(Ground ground) throws Exception {
    List<Double> times = new ArrayList<>();
    ground.echo(
        echo -> {
          for (int time = 0; time < Check.TIMES; time++) {
            String key = Ground.freshKey("cancelling-server");
            Behaviour.Builder behaviour =
                Ground.keyed(key).setAfterMessages(1).setDelayMs(20).setCancel(true);
            var call = echo.expand(2, 10, behaviour);
            Check.holds(call.next() != null, "no first answer");
            Status status = call.failure().getStatus();
            long seen = Ledger.unixNanos();
            Check.same(status.getCode(), Status.Code.CANCELLED, "the status");
            long givenUp = ground.sees(key, Moment.MOMENT_FINISHED).getUnixNanos();
            times.add((seen - givenUp) / 1e6);
          }
        });
    Check.soon(times);
  }

  private static Behaviour.Builder thinking(String key) {
    return Ground.keyed(key).setDelayMs(Ground.FOR_EVER_MS);
  }

  private static void serverSees(Ground ground, Begin begin) throws Exception {
    List<Double> times = new ArrayList<>();
    for (int time = 0; time < Check.TIMES; time++) {
      String key = Ground.freshKey("cancelled");
      Call<?, ?> call = begin.call(key);
      ground.sees(key, Moment.MOMENT_ARRIVED);
      long givenUp = Ledger.unixNanos();
      call.cancel();
      long seen = ground.sees(key, Moment.MOMENT_CANCELLED).getUnixNanos();
      times.add((seen - givenUp) / 1e6);
    }
    Check.soon(times);
  }

  static void deadlineOfUnary(Ground ground) throws Exception {
    endsInTime(ground, (echo, behaviour) -> echo.unary(behaviour).failure());
  }

  static void deadlineOfStream(Ground ground) throws Exception {
    endsInTime(
        ground,
        (echo, behaviour) -> {
          var call = echo.expand(2, 10, behaviour.setAfterMessages(1));
          Check.holds(call.next() != null, "no first answer");
          return call.failure();
        });
  }

  /** grpc-java has a clock of its own, so the client ends in time anyway; the server must, too. */
  private static void endsInTime(Ground ground, Ending ending) throws Exception {
    List<Double> late = new ArrayList<>();
    ground.echo(
        echo -> {
          for (int time = 0; time < 5; time++) {
            String key = Ground.freshKey("deadline");
            long start = System.nanoTime();
            Ground.Echo limited = echo.withDeadline(DEADLINE_MS, TimeUnit.MILLISECONDS);
            StatusRuntimeException error = ending.of(limited, thinking(key));
            double took = (System.nanoTime() - start) / 1e6;
            checkDeadline(ground, error);
            Check.holds(took + TOO_EARLY_MS > DEADLINE_MS, "ended after " + took + " ms");
            late.add(took - DEADLINE_MS);
            ground.sees(key, Moment.MOMENT_CANCELLED);
          }
        });
    Check.soon(late);
  }

  private static void checkDeadline(Ground ground, StatusRuntimeException error) {
    // tonic and grpc-java end a call in time, but in words of their own, and may be the first.
    boolean alone = !ground.isMesh() && Set.of("Rust", "Java").contains(ground.serverKind);
    Status.Code code = error.getStatus().getCode();
    boolean known = code == Status.Code.DEADLINE_EXCEEDED;
    Check.holds(known || alone && code == Status.Code.CANCELLED, "ended with " + error);
  }

  static void remainingTimeIsPassedOn(Ground ground) throws Exception {
    String key = Ground.freshKey("remaining");
    ground.echo(
        echo -> {
          // Connects.
          echo.unary(UnaryRequest.getDefaultInstance()).only();
          echo.withDeadline(20, TimeUnit.SECONDS).unary(Ground.keyed(key)).only();
        });
    long remaining = ground.sees(key, Moment.MOMENT_ARRIVED).getRemainingMs();
    String text = "of 20 s " + remaining + " ms were left";
    Check.holds(remaining > 15_000 && remaining < 20_000, text);
  }

  /** The deadline may be over at any place on the way; the server must not go on after it. */
  static void expiredOnArrival(Ground ground) throws Exception {
    String key = Ground.freshKey("expired");
    ground.echo(
        echo -> {
          // Connects, which would take more time than there is.
          echo.unary(UnaryRequest.getDefaultInstance()).only();
          Ground.Echo limited = echo.withDeadline(300, TimeUnit.MICROSECONDS);
          checkDeadline(ground, limited.unary(thinking(key)).failure());
        });
    if (ground.count(key).getArrived() > 0) {
      ground.sees(key, Moment.MOMENT_CANCELLED);
    }
  }
}
