import java.util.HashMap;
import java.util.Map;

/** {@code --name value} for each. */
final class Flags {
  private final Map<String, String> given = new HashMap<>();

  Flags(String[] arguments) {
    for (int index = 0; index < arguments.length; index += 2) {
      if (!arguments[index].startsWith("--") || index + 1 == arguments.length) {
        throw new IllegalArgumentException(arguments[index] + " is no flag with a value");
      }
      given.put(arguments[index].substring(2), arguments[index + 1]);
    }
  }

  String get(String name) {
    if (!given.containsKey(name)) {
      throw new IllegalArgumentException("--" + name + " is missing");
    }
    return given.get(name);
  }

  /** Null if it was not given. */
  String getIfGiven(String name) {
    return given.get(name);
  }
}
