import com.google.protobuf.ByteString;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import sidelane.test.v1.EchoOuterClass.Behaviour;
import sidelane.test.v1.EchoOuterClass.ChatRequest;
import sidelane.test.v1.EchoOuterClass.CountCallsResponse;
import sidelane.test.v1.EchoOuterClass.UnaryRequest;
import sidelane.test.v1.EchoOuterClass.UnaryResponse;

/** Cases of many calls on one connection, each of which alone would be nothing. */
final class CrowdCases {
  private static final int REPLIES = 1_000;
  private static final int CANCELLED = 10_000;
  private static final int AT_A_TIME = 16;

  private CrowdCases() {}

  static void thousandTinyReplies(Ground ground) throws Exception {
    String key = Ground.freshKey("tiny");
    ByteString tiny = ByteString.copyFromUtf8("t");
    Behaviour.Builder behaviour = Ground.keyed(key).setGather(REPLIES).setDelayMs(20_000);
    UnaryRequest request =
        UnaryRequest.newBuilder().setPayload(tiny).setBehaviour(behaviour).build();
    ground.echo(
        echo -> {
          List<Call<UnaryRequest, UnaryResponse>> calls = new ArrayList<>();
          for (int number = 0; number < REPLIES; number++) {
            calls.add(echo.unary(request));
          }
          for (Call<UnaryRequest, UnaryResponse> call : calls) {
            Check.same(call.only().getPayload(), tiny, "the payload");
          }
        });
    CountCallsResponse seen = ground.count(key);
    Check.holds(seen.getArrived() == REPLIES && seen.getCancelled() == 0, "executed: " + seen);
  }

  static void tenThousandCancelled(Ground ground) throws Exception {
    String key = Ground.freshKey("churn");
    AtomicBoolean over = new AtomicBoolean();
    AtomicInteger said = new AtomicInteger();
    AtomicInteger called = new AtomicInteger();
    AtomicInteger next = new AtomicInteger();
    ground.echo(
        echo -> {
          Parallel talker = new Parallel(() -> talk(echo, over, said));
          Parallel caller = new Parallel(() -> call(echo, over, called));
          List<Parallel> churn = new ArrayList<>();
          for (int thread = 0; thread < AT_A_TIME; thread++) {
            churn.add(new Parallel(() -> cancelCalls(echo, key, next)));
          }
          for (Parallel one : churn) {
            one.join();
          }
          over.set(true);
          talker.join();
          caller.join();
        });
    int least = Math.min(said.get(), called.get());
    Check.holds(least > 10, "too little went on beside them: " + said + ", " + called);

    long limit = System.nanoTime() + Ground.SOON_MS * 1_000_000L;
    CountCallsResponse seen = ground.count(key);
    while (seen.getCancelled() + seen.getFinished() < seen.getArrived()) {
      Check.holds(System.nanoTime() < limit, "cancelled calls go on at the server: " + seen);
      Thread.sleep(20);
      seen = ground.count(key);
    }
    Check.holds(seen.getArrived() >= CANCELLED / 2, "not enough was cancelled: " + seen);
    Check.same(seen.getFinished(), 0L, "how many calls the server finished");
  }

  /** A conversation that goes on until it is over. */
  private static void talk(Ground.Echo echo, AtomicBoolean over, AtomicInteger said)
      throws Exception {
    var call = echo.chat();
    call.send(ChatRequest.getDefaultInstance());
    while (!over.get()) {
      Check.same(call.next().getIndex(), said.getAndIncrement(), "the index");
      call.send(ChatRequest.getDefaultInstance());
    }
    call.end();
    call.rest();
  }

  /** Calls, one after the other, until it is over. */
  private static void call(Ground.Echo echo, AtomicBoolean over, AtomicInteger called)
      throws Exception {
    ByteString payload = Ground.noise(100);
    UnaryRequest request = UnaryRequest.newBuilder().setPayload(payload).build();
    while (!over.get()) {
      Check.same(echo.unary(request).only().getPayload(), payload, "the payload");
      called.incrementAndGet();
    }
  }

  private static void cancelCalls(Ground.Echo echo, String key, AtomicInteger next)
      throws Exception {
    for (int number = next.getAndIncrement(); number < CANCELLED; number = next.getAndIncrement()) {
      Behaviour.Builder behaviour = Ground.keyed(key).setDelayMs(Ground.FOR_EVER_MS);
      if (number % 2 == 0) {
        var call = echo.expand(2, 10, behaviour.setAfterMessages(1));
        Check.holds(call.next() != null, "no first answer");
        call.cancel();
      } else {
        var call = echo.unary(behaviour);
        // At once, on the way, or at the server: wherever that finds it.
        if (number % 3 > 0) {
          Thread.sleep(number % 3);
        }
        call.cancel();
        Status status = call.failure().getStatus();
        Check.same(status.getCode(), Status.Code.CANCELLED, "the status");
      }
    }
  }
}
