import io.grpc.ManagedChannel;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The call matrix with grpc-java, unchanged from Maven Central, as the client.
 *
 * <p>Runs the cases of `tests/src/cases` by the same names, and prints a line of JSON at the begin
 * and at the end of each. All are here, and nothing of them is left out.
 */
final class EchoClient {
  private static final Map<String, Case> CASES = new LinkedHashMap<>();

  static {
    CASES.put("unary_is_given_back", MessageCases::unaryIsGivenBack);
    CASES.put("empty_messages", MessageCases::emptyMessages);
    CASES.put("unary_of_4_mib", MessageCases::unaryOf4Mib);
    CASES.put("metadata_of_unary", MessageCases::metadataOfUnary);
    CASES.put("metadata_of_streams", MessageCases::metadataOfStreams);
    CASES.put("metadata_of_errors", MessageCases::metadataOfErrors);
    CASES.put("user_agent_is_kept", MessageCases::userAgentIsKept);
    CASES.put("gzip_unary", MessageCases::gzipUnary);
    CASES.put("gzip_streams", MessageCases::gzipStreams);
    CASES.put("client_stream", StreamCases::clientStream);
    CASES.put("server_stream", StreamCases::serverStream);
    CASES.put("conversation", StreamCases::conversation);
    CASES.put("client_stream_of_64_mib", StreamCases::clientStreamOf64Mib);
    CASES.put("server_stream_of_64_mib", StreamCases::serverStreamOf64Mib);
    CASES.put("conversation_of_64_mib", StreamCases::conversationOf64Mib);
    CASES.put("half_close", StreamCases::halfClose);
    CASES.put("early_answer", StreamCases::earlyAnswer);
    CASES.put("early_refusal_of_a_busy_sender", StreamCases::earlyRefusalOfABusySender);
    CASES.put("every_status", EndCases::everyStatus);
    CASES.put("every_status_after_messages", EndCases::everyStatusAfterMessages);
    CASES.put("errors_are_trailers_only", EndCases::errorsAreTrailersOnly);
    CASES.put("server_sees_cancelled_unary", EndCases::serverSeesCancelledUnary);
    CASES.put("server_sees_cancelled_client_stream", EndCases::serverSeesCancelledClientStream);
    CASES.put("server_sees_cancelled_server_stream", EndCases::serverSeesCancelledServerStream);
    CASES.put("server_sees_cancelled_conversation", EndCases::serverSeesCancelledConversation);
    CASES.put("client_sees_cancelling_server", EndCases::clientSeesCancellingServer);
    CASES.put("deadline_of_unary", EndCases::deadlineOfUnary);
    CASES.put("deadline_of_stream", EndCases::deadlineOfStream);
    CASES.put("remaining_time_is_passed_on", EndCases::remainingTimeIsPassedOn);
    CASES.put("expired_on_arrival", EndCases::expiredOnArrival);
    CASES.put("thousand_tiny_replies", CrowdCases::thousandTinyReplies);
    CASES.put("ten_thousand_cancelled", CrowdCases::tenThousandCancelled);
  }

  private EchoClient() {}

  private interface Case {
    void run(Ground ground) throws Exception;
  }

  public static void main(String[] arguments) {
    if (List.of(arguments).equals(List.of("--version"))) {
      String version = ManagedChannel.class.getPackage().getImplementationVersion();
      System.out.println("grpc-java " + version + " on Java " + System.getProperty("java.version"));
      return;
    }
    endWithTest();
    Flags flags = new Flags(arguments);
    Ground ground = new Ground(flags);
    String cases = flags.getIfGiven("cases");
    Collection<String> names = cases == null ? CASES.keySet() : List.of(cases.split(","));
    PrintStream lines = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    for (String name : names) {
      // So that a case that hangs is named.
      lines.println("{\"begin\": " + quoted(name) + "}");
      long start = System.nanoTime();
      String error = null;
      try {
        CASES.get(name).run(ground);
      } catch (Exception | AssertionError thrown) {
        StringWriter trace = new StringWriter();
        thrown.printStackTrace(new PrintWriter(trace));
        error = trace.toString();
      }
      long took = (System.nanoTime() - start) / 1_000_000;
      lines.println(
          "{\"case\": %s, \"took_ms\": %d, \"error\": %s}"
              .formatted(quoted(name), took, quoted(error)));
    }
    System.exit(0);
  }

  /**
   * Ends this process when its standard input does: a test that is killed leaves nothing behind.
   */
  static void endWithTest() {
    if (!System.getenv().containsKey("TETHERED_TO_TEST")) {
      return;
    }
    Thread thread =
        new Thread(
            () -> {
              try (InputStream input = System.in) {
                input.transferTo(OutputStream.nullOutputStream());
              } catch (IOException broken) {
                // As good as its end.
              }
              Runtime.getRuntime().halt(1);
            });
    thread.setDaemon(true);
    thread.start();
  }

  /** As JSON. */
  private static String quoted(String text) {
    if (text == null) {
      return "null";
    }
    StringBuilder json = new StringBuilder("\"");
    for (char letter : text.toCharArray()) {
      if (letter == '"' || letter == '\\') {
        json.append('\\').append(letter);
      } else if (letter < ' ') {
        json.append("\\u%04x".formatted((int) letter));
      } else {
        json.append(letter);
      }
    }
    return json.append('"').toString();
  }
}
