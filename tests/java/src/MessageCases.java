import com.google.protobuf.ByteString;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import sidelane.test.v1.EchoOuterClass.Behaviour;
import sidelane.test.v1.EchoOuterClass.ChatRequest;
import sidelane.test.v1.EchoOuterClass.ChatResponse;
import sidelane.test.v1.EchoOuterClass.CollectRequest;
import sidelane.test.v1.EchoOuterClass.CollectResponse;
import sidelane.test.v1.EchoOuterClass.ExpandRequest;
import sidelane.test.v1.EchoOuterClass.ExpandResponse;
import sidelane.test.v1.EchoOuterClass.UnaryRequest;
import sidelane.test.v1.EchoOuterClass.UnaryResponse;

/** Cases of messages and of the metadata around them: unary calls, metadata, compression. */
final class MessageCases {
  private static final Metadata.Key<String> TEXT = Around.text("x-test-text");
  private static final Metadata.Key<byte[]> BINARY = Around.bytes("x-test-data-bin");
  private static final List<String> TEXTS = List.of("one", "two, and a comma", "one", "four");
  private static final List<byte[]> BINARIES =
      List.of(
          new byte[] {0x00, (byte) 0xff, (byte) 0x80},
          new byte[0],
          "\r\n".getBytes(StandardCharsets.US_ASCII),
          new byte[] {1, 2, 3, 4});
  private static final ByteString EASY = ByteString.copyFromUtf8("z".repeat(300_000));

  private MessageCases() {}

  static void unaryIsGivenBack(Ground ground) throws Exception {
    String key = Ground.freshKey("unary");
    ground.echo(
        echo -> {
          UnaryRequest request =
              UnaryRequest.newBuilder()
                  .setPayload(Ground.noise(1000))
                  .setBehaviour(Ground.keyed(key))
                  .build();
          UnaryResponse response = echo.unary(request).only();
          Check.same(response.getPayload(), Ground.noise(1000), "the payload");
          Check.same(response.getNode(), "echo", "the answering node");
          long remaining = response.getRemainingMs();
          if (ground.isMesh()) {
            // Without a deadline of its own a unary call gets the rule's, 5 s.
            String text = "of the rule's 5 s " + remaining + " ms were left";
            Check.holds(remaining > 0 && remaining < 5_000, text);
          } else {
            Check.same(remaining, -1L, "the remaining time, where no deadline was set,");
          }
          List<String> source = ground.isMesh() ? List.of(ground.caller) : List.of();
          Check.same(told(response, "sidelane-source-node"), source, "sidelane-source-node");
          List<String> lane = ground.isMesh() ? List.of("general") : List.of();
          Check.same(told(response, "sidelane-lane"), lane, "sidelane-lane");
        });
    ground.executedOnce(key);
  }

  static void emptyMessages(Ground ground) throws Exception {
    ground.echo(
        echo -> {
          UnaryResponse response = echo.unary(UnaryRequest.getDefaultInstance()).only();
          Check.same(response.getPayload(), ByteString.EMPTY, "the payload");
          CollectResponse none = echo.collect().sendAll(List.of()).only();
          Check.same(none.getMessages(), 0L, "how many messages of none");
          List<CollectRequest> empty = Collections.nCopies(5, CollectRequest.getDefaultInstance());
          CollectResponse five = echo.collect().sendAll(empty).only();
          Check.same(five.getMessages(), 5L, "how many of five empty messages");
          Check.same(five.getBytes(), 0L, "the bytes of five empty messages");
          List<ExpandResponse> answers = echo.expand(ExpandRequest.getDefaultInstance()).rest();
          Check.same(answers, List.of(), "the answers where none were wanted");
        });
  }

  static void unaryOf4Mib(Ground ground) throws Exception {
    ByteString payload = Ground.noise(4 * Ground.MIB);
    ground.echo(
        echo -> {
          UnaryRequest request = UnaryRequest.newBuilder().setPayload(payload).build();
          ByteString given = echo.unary(request).only().getPayload();
          Check.holds(given.equals(payload), given.size() + " other bytes came back");
        });
  }

  static void metadataOfUnary(Ground ground) throws Exception {
    ground.echo(
        echo -> {
          var call = echo.with(ownMetadata()).unary(echoing());
          UnaryResponse response = call.only();
          checkMetadata(ground, call.headers(), "in the answer's headers");
          checkMetadata(ground, call.trailers(), "in the answer's trailers");
          List<String> texts = told(response, "x-test-text");
          Check.same(texts, textsOf(ground), "what the server saw of x-test-text");
          List<String> binaries = List.of("AP+A", "", "DQo=", "AQIDBA==");
          List<String> seen = told(response, "x-test-data-bin");
          Check.same(seen, binaries, "what the server saw of x-test-data-bin");
        });
  }

  static void metadataOfStreams(Ground ground) throws Exception {
    ground.echo(
        echo -> {
          var call = echo.with(ownMetadata()).chat();
          call.sendAll(List.of(ChatRequest.newBuilder().setBehaviour(echoing()).build()));
          Check.same(call.rest().size(), 1, "the number of answers");
          checkMetadata(ground, call.headers(), "in the answer's headers");
          checkMetadata(ground, call.trailers(), "in the answer's trailers");
        });
  }

  static void metadataOfErrors(Ground ground) throws Exception {
    Behaviour.Builder failing = echoing().setStatus(Status.Code.NOT_FOUND.value());
    ground.echo(
        echo -> {
          StatusRuntimeException refused = echo.with(ownMetadata()).unary(failing).failure();
          Check.same(refused.getStatus().getCode(), Status.Code.NOT_FOUND, "the status");
          checkMetadata(ground, refused.getTrailers(), "in the only headers");

          var call = echo.with(ownMetadata()).expand(3, 1, failing.setAfterMessages(1));
          Check.holds(call.next() != null, "no message before the error");
          checkMetadata(ground, call.headers(), "in the headers before an error");
          StatusRuntimeException broken = call.failure();
          Check.same(broken.getStatus().getCode(), Status.Code.NOT_FOUND, "the status");
          checkMetadata(ground, broken.getTrailers(), "in the trailers of an error");
        });
  }

  static void userAgentIsKept(Ground ground) throws Exception {
    ground.echo(
        echo -> {
          UnaryResponse response = echo.unary(UnaryRequest.getDefaultInstance()).only();
          List<String> agents = told(response, "user-agent");
          Check.same(agents.size(), 1, "the number of user-agents");
          String agent = agents.get(0);
          Check.holds(agent.startsWith(Ground.USER_AGENT + " grpc-java-netty/"), agent);
          Check.holds(!agent.contains("hyper"), "somebody added its own name: " + agent);
        });
  }

  static void gzipUnary(Ground ground) throws Exception {
    ground.echo(
        echo -> {
          UnaryRequest request = UnaryRequest.newBuilder().setPayload(EASY).build();
          var call = echo.compressed().with(compressing()).unary(request);
          UnaryResponse response = call.only();
          Check.same(response.getPayload(), EASY, "the payload");
          checkEncoding(ground, call);
          if (ground.serverKind.equals("Rust")) {
            List<String> seen = told(response, "grpc-encoding");
            Check.same(seen, List.of("gzip"), "how the request arrived");
          }
        });
  }

  static void gzipStreams(Ground ground) throws Exception {
    ground.echo(
        given -> {
          Ground.Echo echo = given.compressed().with(compressing());
          CollectRequest one = CollectRequest.newBuilder().setPayload(EASY).build();
          var collect = echo.collect().sendAll(Collections.nCopies(10, one));
          Check.same(collect.only().getBytes(), 3_000_000L, "the bytes");
          checkEncoding(ground, collect);

          var expand = echo.expand(10, 300_000, Behaviour.newBuilder());
          List<ExpandResponse> expanded = expand.rest();
          checkEncoding(ground, expand);
          Check.same(expanded.size(), 10, "the number of answers");
          for (ExpandResponse answer : expanded) {
            Check.same(answer.getPayload().size(), 300_000, "the bytes of an answer");
          }

          ChatRequest request = ChatRequest.newBuilder().setPayload(EASY).build();
          var chat = echo.chat().sendAll(Collections.nCopies(10, request));
          List<ChatResponse> answers = chat.rest();
          checkEncoding(ground, chat);
          Check.same(answers.size(), 10, "the number of answers");
          for (ChatResponse answer : answers) {
            Check.same(answer.getPayload(), EASY, "the payload");
          }
        });
  }

  private static Behaviour.Builder echoing() {
    return Behaviour.newBuilder().setEchoMetadata(true);
  }

  private static Metadata ownMetadata() {
    Metadata metadata = new Metadata();
    TEXTS.forEach(text -> metadata.put(TEXT, text));
    BINARIES.forEach(binary -> metadata.put(BINARY, binary));
    return metadata;
  }

  private static void checkMetadata(Ground ground, Metadata metadata, String where) {
    Check.holds(metadata.containsKey(TEXT), "no x-test-text " + where);
    List<String> texts = listed(metadata.getAll(TEXT));
    Check.same(texts, textsOf(ground), "x-test-text " + where);
    List<byte[]> binaries = listed(metadata.getAll(BINARY));
    Check.sameBytes(binaries, BINARIES, "x-test-data-bin " + where);
  }

  /** Node joins text values of one name, as the gRPC protocol allows. */
  private static List<String> textsOf(Ground ground) {
    return ground.serverKind.equals("Node") ? List.of(String.join(", ", TEXTS)) : TEXTS;
  }

  private static <T> List<T> listed(Iterable<T> values) {
    List<T> list = new ArrayList<>();
    values.forEach(list::add);
    return list;
  }

  private static List<String> told(UnaryResponse response, String name) {
    String prefix = name + ": ";
    return response.getMetadataList().stream()
        .filter(line -> line.startsWith(prefix))
        .map(line -> line.substring(prefix.length()))
        .toList();
  }

  private static Metadata compressing() {
    Metadata metadata = new Metadata();
    metadata.put(Around.text("x-test-compress"), "yes");
    return metadata;
  }

  /** grpc-js cannot compress answers. */
  private static void checkEncoding(Ground ground, Call<?, ?> call) {
    if (!ground.serverKind.equals("Node")) {
      String encoding = call.headers().get(Around.text("grpc-encoding"));
      Check.same(encoding, "gzip", "the encoding of the answer");
    }
  }
}
