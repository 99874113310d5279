import com.google.protobuf.ByteString;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import sidelane.test.v1.EchoOuterClass.Behaviour;
import sidelane.test.v1.EchoOuterClass.ChatRequest;
import sidelane.test.v1.EchoOuterClass.ChatResponse;
import sidelane.test.v1.EchoOuterClass.CollectRequest;
import sidelane.test.v1.EchoOuterClass.CollectResponse;
import sidelane.test.v1.EchoOuterClass.ExpandResponse;
import sidelane.test.v1.EchoOuterClass.Moment;
import sidelane.test.v1.EchoOuterClass.UnaryRequest;

/** Cases of streams: long, large, ended by either side first. */
final class StreamCases {
  private StreamCases() {}

  static void clientStream(Ground ground) throws Exception {
    collect(ground, 100, 1000);
  }

  static void serverStream(Ground ground) throws Exception {
    expand(ground, 100, 1000);
  }

  static void clientStreamOf64Mib(Ground ground) throws Exception {
    collect(ground, 64, Ground.MIB);
  }

  static void serverStreamOf64Mib(Ground ground) throws Exception {
    expand(ground, 64, Ground.MIB);
  }

  private static void collect(Ground ground, int messages, int length) throws Exception {
    String key = Ground.freshKey("collect");
    CollectRequest more = CollectRequest.newBuilder().setPayload(Ground.noise(length)).build();
    List<CollectRequest> all = new ArrayList<>();
    all.add(more.toBuilder().setBehaviour(Ground.keyed(key)).build());
    all.addAll(Collections.nCopies(messages - 1, more));
    ground.echo(
        echo -> {
          CollectResponse response = echo.collect().sendAll(all).only();
          Check.same(response.getMessages(), (long) messages, "how many messages came in");
          Check.same(response.getBytes(), (long) messages * length, "how many bytes came in");
        });
    ground.executedOnce(key);
  }

  private static void expand(Ground ground, int messages, int length) throws Exception {
    String key = Ground.freshKey("expand");
    ground.echo(
        echo -> {
          var call = echo.expand(messages, length, Ground.keyed(key));
          byte[] expected = new byte[length];
          for (int index = 0; index < messages; index++) {
            ExpandResponse answer = call.next();
            Check.same(answer.getIndex(), index, "the index");
            Arrays.fill(expected, (byte) index);
            boolean same = answer.getPayload().equals(ByteString.copyFrom(expected));
            Check.holds(same, "another payload came");
          }
          Check.same(call.next(), null, "the end");
        });
    ground.executedOnce(key);
  }

  static void conversation(Ground ground) throws Exception {
    ground.echo(
        echo -> {
          var call = echo.chat();
          call.send(ChatRequest.getDefaultInstance());
          for (int index = 0; index < 50; index++) {
            ChatResponse answer = call.next();
            Check.same(answer.getIndex(), index, "the index");
            Check.same(answer.getPayload(), Ground.noise(index), "the payload");
            call.send(ChatRequest.newBuilder().setPayload(Ground.noise(index + 1)).build());
          }
          call.end();
          Check.same(call.rest().size(), 1, "the number of answers at the end");
        });
  }

  static void conversationOf64Mib(Ground ground) throws Exception {
    ByteString payload = Ground.noise(Ground.MIB);
    ChatRequest request = ChatRequest.newBuilder().setPayload(payload).build();
    ground.echo(
        echo -> {
          var call = echo.chat();
          Parallel sender = new Parallel(() -> call.sendAll(Collections.nCopies(64, request)));
          for (int index = 0; index < 64; index++) {
            ChatResponse answer = call.next();
            Check.same(answer.getIndex(), index, "the index");
            Check.holds(answer.getPayload().equals(payload), "another payload came back");
          }
          Check.same(call.next(), null, "the end");
          sender.join();
        });
  }

  static void halfClose(Ground ground) throws Exception {
    ChatRequest more = ChatRequest.getDefaultInstance();
    ChatRequest first =
        ChatRequest.newBuilder().setBehaviour(Behaviour.newBuilder().setEpilogue(2)).build();
    ground.echo(
        echo -> {
          List<ChatResponse> answers = echo.chat().sendAll(List.of(first, more, more)).rest();
          List<Integer> indices = answers.stream().map(ChatResponse::getIndex).toList();
          Check.same(indices, List.of(0, 1, 2, 3, 4), "the answers");
        });
  }

  static void earlyAnswer(Ground ground) throws Exception {
    String key = Ground.freshKey("early");
    CollectRequest first =
        CollectRequest.newBuilder()
            .setPayload(Ground.noise(10))
            .setBehaviour(Ground.keyed(key).setEarly(true).setAfterMessages(1))
            .build();
    ground.echo(
        echo -> {
          var call = echo.collect();
          call.send(first);
          CollectResponse response = call.only();
          Check.same(response.getMessages(), 1L, "how many messages came in");
          Check.same(response.getBytes(), 10L, "how many bytes came in");
          ground.sees(key, Moment.MOMENT_FINISHED);
          call.end();
          // The connection is as good as before.
          echo.unary(UnaryRequest.getDefaultInstance()).only();
        });
  }

  static void earlyRefusalOfABusySender(Ground ground) throws Exception {
    Behaviour.Builder behaviour =
        Ground.failing(Status.Code.RESOURCE_EXHAUSTED)
            .setMessage("enough")
            .setEarly(true)
            .setAfterMessages(3);
    CollectRequest first =
        CollectRequest.newBuilder().setPayload(Ground.noise(100)).setBehaviour(behaviour).build();
    CollectRequest more =
        CollectRequest.newBuilder().setPayload(Ground.noise(Ground.MIB / 4)).build();
    ground.echo(
        echo -> {
          for (int time = 0; time < 5; time++) {
            var call = echo.collect();
            boolean open = call.send(first);
            while (open) {
              open = call.send(more);
            }
            StatusRuntimeException refusal = call.failure();
            Status status = refusal.getStatus();
            Check.same(status.getCode(), Status.Code.RESOURCE_EXHAUSTED, "the refusal");
            Check.same(status.getDescription(), "enough", "the refusal's text");
          }
          echo.unary(UnaryRequest.getDefaultInstance()).only();
        });
  }
}
