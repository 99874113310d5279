"""The call matrix with grpcio, unchanged from PyPI, as the client (its threaded half).

Runs the cases of `tests/src/cases` by the same names, and prints a line of JSON for each.
"""

import argparse
import contextlib
import itertools
import json
import os
import queue
import random
import statistics
import sys
import threading
import time
import traceback

import grpc

MIB = 1024 * 1024
MESSAGE_LIMIT = 80 * MIB
USER_AGENT = "sidelane-tests/1"
# Longer than a case may take.
FOR_EVER_MS = 600_000
# How long a server may take until it has seen what it must see.
SOON = 10
TIMES = 20
CANCELLATION_LIMIT = 0.050

MESSAGE = 'größer als 100 %: "日本語" 🚦\tTab\nzweite Zeile %41'
DETAILS = bytes(range(256))
TEXTS = ["one", "two, and a comma", "one", "four"]
BINARIES = [b"\x00\xff\x80", b"", b"\r\n", b"\x01\x02\x03\x04"]


class Ground:
    """Where a case takes place."""

    def __init__(self, arguments):
        self.target = arguments.target
        self.root = arguments.root
        self.server = arguments.server
        self.caller = arguments.caller
        self.server_kind = arguments.server_kind

    @property
    def is_mesh(self):
        return self.caller is not None

    @contextlib.contextmanager
    def echo(self):
        """A client on a connection of its own."""
        with channel(self.target, self.root) as opened:
            yield pb2_grpc.EchoStub(opened)

    def sees(self, key, moment):
        """Waits until the server has seen so much of the call, and returns that."""
        request = pb2.ObserveRequest(key=key, moment=moment, timeout_ms=SOON * 1000)
        return self.witness().Observe(request)

    def count(self, key):
        return self.witness().CountCalls(pb2.CountCallsRequest(key=key))

    def witness(self):
        if not hasattr(self, "_witness"):
            self._witness = pb2_grpc.WitnessStub(channel(self.server))
        return self._witness


def channel(address, root=None):
    """A channel in the clear, or over TLS with a server that this root vouches for."""
    options = [
        ("grpc.max_receive_message_length", MESSAGE_LIMIT),
        ("grpc.max_send_message_length", MESSAGE_LIMIT),
        ("grpc.primary_user_agent", USER_AGENT),
        # Otherwise all channels to one address share a connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if root is None:
        return grpc.insecure_channel(address, options=options)
    # Loopback has no name of its own.
    options.append(("grpc.ssl_target_name_override", "front.example"))
    with open(root, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(address, credentials, options=options)


numbers = itertools.count()


def fresh_key(name):
    return f"{name}-python-{os.getpid()}-{next(numbers)}"


def noise(length):
    return random.Random(length).randbytes(length)


def equal(given, wanted, what="it"):
    if given != wanted:
        raise AssertionError(f"{what} is {given!r:.1000}, not {wanted!r:.1000}")


def holds(condition, what):
    if not condition:
        raise AssertionError(what)


@contextlib.contextmanager
def fails():
    """The call in it must fail; its error is in the list that this gives."""
    errors = []
    try:
        yield errors
    except grpc.RpcError as error:
        errors.append(error)
    else:
        raise AssertionError("the call did not fail")


class Messages:
    """The messages of a request that goes on until it is told to end."""

    def __init__(self, *messages):
        self.queue = queue.SimpleQueue()
        for message in messages:
            self.queue.put(message)

    def send(self, message):
        self.queue.put(message)

    def end(self):
        self.queue.put(None)

    def __iter__(self):
        return iter(self.queue.get, None)


# ---- unary ---------------------------------------------------------------------------------------


def unary_is_given_back(ground):
    key = fresh_key("unary")
    request = pb2.UnaryRequest(payload=noise(1000), behaviour=pb2.Behaviour(ledger_key=key))
    with ground.echo() as echo:
        response = echo.Unary(request)
    equal(response.payload, noise(1000), "the payload")
    equal(response.node, "echo", "the answering node")
    if ground.is_mesh:
        # Without a deadline of its own a unary call gets the rule's, 5 s.
        remaining = response.remaining_ms
        holds(0 < remaining < 5_000, f"of the rule's 5 s {remaining} ms were left")
    else:
        equal(response.remaining_ms, -1, "the remaining time, where no deadline was set,")
    seen = ground.count(key)
    equal((seen.arrived, seen.finished), (1, 1), "how often it was executed")
    wanted = [ground.caller] if ground.is_mesh else []
    equal(told(response, "sidelane-source-node"), wanted, "sidelane-source-node")
    wanted = ["general"] if ground.is_mesh else []
    equal(told(response, "sidelane-lane"), wanted, "sidelane-lane")


def told(response, name):
    prefix = f"{name}: "
    return [line.removeprefix(prefix) for line in response.metadata if line.startswith(prefix)]


def empty_messages(ground):
    with ground.echo() as echo:
        equal(echo.Unary(pb2.UnaryRequest()).payload, b"", "the payload")
        equal(echo.Collect(iter([])).messages, 0, "how many messages of none")
        response = echo.Collect(iter([pb2.CollectRequest()] * 5))
        equal((response.messages, response.bytes), (5, 0), "how much of five empty messages")
        equal(list(echo.Expand(pb2.ExpandRequest())), [], "the answers where none were wanted")


def unary_of_4_mib(ground):
    with ground.echo() as echo:
        response = echo.Unary(pb2.UnaryRequest(payload=noise(4 * MIB)))
    equal(response.payload, noise(4 * MIB), "the payload")


# ---- metadata ------------------------------------------------------------------------------------


def own_metadata():
    pairs = zip(TEXTS, BINARIES)
    return tuple(
        pair
        for text, binary in pairs
        for pair in (("x-test-text", text), ("x-test-data-bin", binary))
    )


def texts(ground):
    """Node joins values of one name, as gRPC allows for those that are not binary."""
    return [", ".join(TEXTS)] if ground.server_kind == "Node" else TEXTS


def check_metadata(ground, metadata, where):
    found = [value for name, value in metadata if name == "x-test-text"]
    equal(found, texts(ground), f"x-test-text {where}")
    binaries = [value for name, value in metadata if name == "x-test-data-bin"]
    equal(binaries, BINARIES, f"x-test-data-bin {where}")


def metadata_of_unary(ground):
    request = pb2.UnaryRequest(behaviour=pb2.Behaviour(echo_metadata=True))
    with ground.echo() as echo:
        response, call = echo.Unary.with_call(request, metadata=own_metadata())
        check_metadata(ground, call.initial_metadata(), "in the answer's headers")
        check_metadata(ground, call.trailing_metadata(), "in the answer's trailers")
    equal(told(response, "x-test-text"), texts(ground), "what the server saw")
    wanted = ["AP+A", "", "DQo=", "AQIDBA=="]
    equal(told(response, "x-test-data-bin"), wanted, "what the server saw")


def metadata_of_streams(ground):
    request = pb2.ChatRequest(behaviour=pb2.Behaviour(echo_metadata=True))
    with ground.echo() as echo:
        call = echo.Chat(iter([request]), metadata=own_metadata())
        check_metadata(ground, call.initial_metadata(), "in the answer's headers")
        equal(len(list(call)), 1, "the number of answers")
        check_metadata(ground, call.trailing_metadata(), "in the answer's trailers")


def metadata_of_errors(ground):
    with ground.echo() as echo:
        behaviour = pb2.Behaviour(echo_metadata=True, status=5)
        with fails() as errors:
            echo.Unary(pb2.UnaryRequest(behaviour=behaviour), metadata=own_metadata())
        equal(errors[0].code(), grpc.StatusCode.NOT_FOUND, "the status")
        check_metadata(ground, errors[0].trailing_metadata(), "in the only headers")

        behaviour.after_messages = 1
        request = pb2.ExpandRequest(messages=3, bytes=1, behaviour=behaviour)
        call = echo.Expand(request, metadata=own_metadata())
        check_metadata(ground, call.initial_metadata(), "in the headers before an error")
        next(call)
        with fails() as errors:
            next(call)
        equal(errors[0].code(), grpc.StatusCode.NOT_FOUND, "the status")
        check_metadata(ground, call.trailing_metadata(), "in the trailers of an error")


def user_agent_is_kept(ground):
    with ground.echo() as echo:
        agents = told(echo.Unary(pb2.UnaryRequest()), "user-agent")
    equal(len(agents), 1, "the number of user-agents")
    holds(agents[0].startswith(f"{USER_AGENT} grpc-python/"), f"the user-agent is {agents}")
    holds("hyper" not in agents[0], f"somebody added its own name: {agents}")


# ---- compression ---------------------------------------------------------------------------------

COMPRESSED = {
    "compression": grpc.Compression.Gzip,
    "metadata": (("x-test-compress", "yes"),),
}


def gzip_unary(ground):
    payload = b"z" * 300_000
    with ground.echo() as echo:
        response = echo.Unary(pb2.UnaryRequest(payload=payload), **COMPRESSED)
    equal(response.payload, payload, "the payload")
    if ground.server_kind == "Rust":
        equal(told(response, "grpc-encoding"), ["gzip"], "how the request arrived")


def gzip_streams(ground):
    payload = b"z" * 300_000
    with ground.echo() as echo:
        messages = [pb2.CollectRequest(payload=payload)] * 10
        equal(echo.Collect(iter(messages), **COMPRESSED).bytes, 3_000_000, "the bytes")
        request = pb2.ExpandRequest(messages=10, bytes=300_000)
        answers = list(echo.Expand(request, **COMPRESSED))
        equal([len(answer.payload) for answer in answers], [300_000] * 10, "the answers")
        messages = [pb2.ChatRequest(payload=payload)] * 10
        answers = list(echo.Chat(iter(messages), **COMPRESSED))
        equal([answer.payload == payload for answer in answers], [True] * 10, "the answers")


# ---- streams -------------------------------------------------------------------------------------


def client_stream(ground):
    collect(ground, 100, 1000)


def server_stream(ground):
    expand(ground, 100, 1000)


def client_stream_of_64_mib(ground):
    collect(ground, 64, MIB)


def server_stream_of_64_mib(ground):
    expand(ground, 64, MIB)


def collect(ground, messages, length):
    key = fresh_key("collect")
    payload = noise(length)
    first = pb2.CollectRequest(payload=payload, behaviour=pb2.Behaviour(ledger_key=key))
    more = [pb2.CollectRequest(payload=payload)] * (messages - 1)
    with ground.echo() as echo:
        response = echo.Collect(iter([first, *more]))
    equal((response.messages, response.bytes), (messages, messages * length), "what came in")
    seen = ground.count(key)
    equal((seen.arrived, seen.finished), (1, 1), "how often it was executed")


def expand(ground, messages, length):
    key = fresh_key("expand")
    behaviour = pb2.Behaviour(ledger_key=key)
    request = pb2.ExpandRequest(messages=messages, bytes=length, behaviour=behaviour)
    received = 0
    with ground.echo() as echo:
        for answer in echo.Expand(request):
            equal(answer.index, received, "the index")
            holds(answer.payload == bytes([received % 256]) * length, "another payload came")
            received += 1
    equal(received, messages, "the number of answers")
    seen = ground.count(key)
    equal((seen.arrived, seen.finished), (1, 1), "how often it was executed")


def conversation(ground):
    messages = Messages(pb2.ChatRequest())
    with ground.echo() as echo:
        answers = echo.Chat(iter(messages))
        for index in range(50):
            answer = next(answers)
            equal((answer.index, answer.payload), (index, noise(index)), "the answer")
            messages.send(pb2.ChatRequest(payload=noise(index + 1)))
        messages.end()
        equal(len(list(answers)), 1, "the number of answers at the end")


def conversation_of_64_mib(ground):
    payload = noise(MIB)
    received = 0
    with ground.echo() as echo:
        for answer in echo.Chat(itertools.repeat(pb2.ChatRequest(payload=payload), 64)):
            equal(answer.index, received, "the index")
            holds(answer.payload == payload, "another payload came back")
            received += 1
    equal(received, 64, "the number of answers")


def half_close(ground):
    first = pb2.ChatRequest(behaviour=pb2.Behaviour(epilogue=2))
    with ground.echo() as echo:
        answers = list(echo.Chat(iter([first, pb2.ChatRequest(), pb2.ChatRequest()])))
    equal([answer.index for answer in answers], [0, 1, 2, 3, 4], "the answers")


def early_answer(ground):
    key = fresh_key("early")
    behaviour = pb2.Behaviour(early=True, after_messages=1, ledger_key=key)
    messages = Messages(pb2.CollectRequest(payload=noise(10), behaviour=behaviour))
    with ground.echo() as echo:
        response = echo.Collect(iter(messages))
        equal((response.messages, response.bytes), (1, 10), "what came in")
        ground.sees(key, pb2.MOMENT_FINISHED)
        messages.end()
        # The connection is as good as before.
        echo.Unary(pb2.UnaryRequest())


def early_refusal_of_a_busy_sender(ground):
    behaviour = pb2.Behaviour(early=True, after_messages=3, status=8, message="enough")
    first = pb2.CollectRequest(payload=noise(100), behaviour=behaviour)
    more = pb2.CollectRequest(payload=noise(MIB // 4))
    with ground.echo() as echo:
        for _ in range(5):
            with fails() as errors:
                echo.Collect(itertools.chain([first], itertools.repeat(more)))
            refusal = (errors[0].code(), errors[0].details())
            equal(refusal, (grpc.StatusCode.RESOURCE_EXHAUSTED, "enough"), "the refusal")
        echo.Unary(pb2.UnaryRequest())


# ---- status --------------------------------------------------------------------------------------


def failing(status, **more):
    return pb2.Behaviour(status=status, message=MESSAGE, details=DETAILS, **more)


def check_status(error, status):
    equal(error.code().value[0], status, "the status")
    equal(error.details(), MESSAGE, f"the message of {status}")
    trailers = dict(error.trailing_metadata())
    equal(trailers.get("grpc-status-details-bin"), DETAILS, f"the details of {status}")
    holds("sidelane-error" not in trailers, f"the mesh put its own words on {status}")


def every_status(ground):
    with ground.echo() as echo:
        for status in range(1, 17):
            with fails() as errors:
                echo.Unary(pb2.UnaryRequest(behaviour=failing(status)))
            check_status(errors[0], status)


def every_status_after_messages(ground):
    with ground.echo() as echo:
        for status in range(1, 17):
            behaviour = failing(status, after_messages=2)
            call = echo.Expand(pb2.ExpandRequest(messages=5, bytes=100, behaviour=behaviour))
            next(call), next(call)
            with fails() as errors:
                next(call)
            check_status(errors[0], status)


def errors_are_trailers_only(ground):
    """What a grpcio client sees of them: a stream that has no headers and no messages."""
    with ground.echo() as echo:
        call = echo.Expand(pb2.ExpandRequest(messages=1, behaviour=failing(5)))
        with fails() as errors:
            next(call)
        check_status(errors[0], 5)
        equal(tuple(call.initial_metadata()), (), "the headers before a status alone")


# ---- cancellation --------------------------------------------------------------------------------


def server_sees(ground, begin):
    times = []
    for _ in range(TIMES):
        key = fresh_key("cancelled")
        call = begin(key)
        ground.sees(key, pb2.MOMENT_ARRIVED)
        given_up = time.time_ns()
        call.cancel()
        seen = ground.sees(key, pb2.MOMENT_CANCELLED).unix_nanos
        times.append((seen - given_up) / 1e9)
    check_times(times)


def check_times(times):
    median = statistics.median(times)
    holds(median < CANCELLATION_LIMIT, f"seen after {median} s (median of {TIMES}): {times}")


def server_sees_cancelled_unary(ground):
    with ground.echo() as echo:

        def begin(key):
            behaviour = pb2.Behaviour(ledger_key=key, delay_ms=FOR_EVER_MS)
            return echo.Unary.future(pb2.UnaryRequest(behaviour=behaviour))

        server_sees(ground, begin)
        # The connection is as good as before.
        echo.Unary(pb2.UnaryRequest())


def server_sees_cancelled_client_stream(ground):
    with ground.echo() as echo:
        opened = []

        def begin(key):
            behaviour = pb2.Behaviour(ledger_key=key)
            opened.append(Messages(pb2.CollectRequest(behaviour=behaviour)))
            return echo.Collect.future(iter(opened[-1]))

        server_sees(ground, begin)
        for messages in opened:
            messages.end()


def server_sees_cancelled_server_stream(ground):
    with ground.echo() as echo:

        def begin(key):
            behaviour = pb2.Behaviour(ledger_key=key, delay_ms=FOR_EVER_MS, after_messages=1)
            call = echo.Expand(pb2.ExpandRequest(messages=2, bytes=10, behaviour=behaviour))
            next(call)
            return call

        server_sees(ground, begin)


def server_sees_cancelled_conversation(ground):
    with ground.echo() as echo:
        opened = []

        def begin(key):
            behaviour = pb2.Behaviour(ledger_key=key)
            opened.append(Messages(pb2.ChatRequest(behaviour=behaviour)))
            call = echo.Chat(iter(opened[-1]))
            next(call)
            return call

        server_sees(ground, begin)
        for messages in opened:
            messages.end()


def client_sees_cancelling_server(ground):
    times = []
    with ground.echo() as echo:
        for _ in range(TIMES):
            key = fresh_key("cancelling-server")
            # A reset that comes before grpcio has handed out the first answer takes that with it.
            behaviour = pb2.Behaviour(ledger_key=key, after_messages=1, delay_ms=60, cancel=True)
            call = echo.Expand(pb2.ExpandRequest(messages=2, bytes=10, behaviour=behaviour))
            next(call)
            with fails() as errors:
                next(call)
            seen = time.time_ns()
            equal(errors[0].code(), grpc.StatusCode.CANCELLED, "the status")
            given_up = ground.sees(key, pb2.MOMENT_FINISHED).unix_nanos
            times.append((seen - given_up) / 1e9)
    check_times(times)


# ---- deadlines -----------------------------------------------------------------------------------


def ends_in_time(ground, call):
    """grpcio has a clock of its own, so the client ends in time anyway; the server must, too."""
    late = []
    for _ in range(5):
        key = fresh_key("deadline")
        start = time.monotonic()
        with fails() as errors:
            call(pb2.Behaviour(ledger_key=key, delay_ms=FOR_EVER_MS))
        took = time.monotonic() - start
        check_deadline(ground, errors[0])
        # Both sidecars and the server each count in whole milliseconds, rounded down.
        holds(took > 0.196, f"ended after {took} s, before its deadline of 0.2 s")
        late.append(took - 0.2)
        ground.sees(key, pb2.MOMENT_CANCELLED)
    median = statistics.median(late)
    holds(median < 0.050, f"late by {median} s (median of 5): {late}")


def check_deadline(ground, error):
    if not ground.is_mesh and ground.server_kind == "Rust":
        # tonic's server ends a call in time, but with its own words, and may be the first to do so.
        holds(error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED), error)
    else:
        equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED, "the status")


def deadline_of_unary(ground):
    with ground.echo() as echo:
        ends_in_time(
            ground,
            lambda behaviour: echo.Unary(pb2.UnaryRequest(behaviour=behaviour), timeout=0.2),
        )


def deadline_of_stream(ground):
    with ground.echo() as echo:

        def call(behaviour):
            behaviour.after_messages = 1
            request = pb2.ExpandRequest(messages=2, bytes=10, behaviour=behaviour)
            answers = echo.Expand(request, timeout=0.2)
            next(answers)
            next(answers)

        ends_in_time(ground, call)


def remaining_time_is_passed_on(ground):
    key = fresh_key("remaining")
    with ground.echo() as echo:
        # Connects.
        echo.Unary(pb2.UnaryRequest())
        # grpcio sends times under a second to the millisecond, rounded up, and longer ones less
        # exactly.
        echo.Unary(pb2.UnaryRequest(behaviour=pb2.Behaviour(ledger_key=key)), timeout=0.9)
    remaining = ground.sees(key, pb2.MOMENT_ARRIVED).remaining_ms
    holds(500 < remaining <= 902, f"of 900 ms {remaining} ms were left")
    if ground.is_mesh:
        holds(remaining < 901, f"the way took no time: {remaining} of 900 ms were left")


def expired_on_arrival(ground):
    """As far as grpcio goes: it sends no time under a millisecond, so calls may just arrive."""
    key = fresh_key("expired")
    behaviour = pb2.Behaviour(ledger_key=key, delay_ms=FOR_EVER_MS)
    with ground.echo() as echo:
        with fails() as errors:
            echo.Unary(pb2.UnaryRequest(behaviour=behaviour), timeout=0.000_001)
    check_deadline(ground, errors[0])
    if ground.count(key).arrived:
        ground.sees(key, pb2.MOMENT_CANCELLED)


# ---- crowds --------------------------------------------------------------------------------------


def thousand_tiny_replies(ground):
    key = fresh_key("tiny")
    behaviour = pb2.Behaviour(ledger_key=key, gather=1000, delay_ms=20_000)
    request = pb2.UnaryRequest(payload=b"t", behaviour=behaviour)
    with ground.echo() as echo:
        calls = [echo.Unary.future(request) for _ in range(1000)]
        for call in calls:
            equal(call.result().payload, b"t", "the payload")
    seen = ground.count(key)
    equal((seen.arrived, seen.cancelled), (1000, 0), "what the server saw")


def ten_thousand_cancelled(ground):
    key = fresh_key("churn")
    over = threading.Event()
    failures = []
    counts = {"calls": 0, "messages": 0}
    numbers = iter(range(10_000))
    lock = threading.Lock()
    with ground.echo() as echo:

        def guarded(work):
            def run():
                try:
                    work()
                except Exception:
                    failures.append(f"{work.__name__}: {traceback.format_exc()}")

            return threading.Thread(target=run)

        def talk():
            messages = Messages(pb2.ChatRequest())
            answers = echo.Chat(iter(messages))
            try:
                while not over.is_set():
                    equal(next(answers).index, counts["messages"], "the index")
                    counts["messages"] += 1
                    messages.send(pb2.ChatRequest())
            finally:
                messages.end()
            list(answers)

        def call():
            while not over.is_set():
                equal(echo.Unary(pb2.UnaryRequest(payload=noise(100))).payload, noise(100))
                counts["calls"] += 1

        def cancel():
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                behaviour = pb2.Behaviour(ledger_key=key, delay_ms=FOR_EVER_MS)
                if number % 2:
                    request = pb2.UnaryRequest(behaviour=behaviour)
                    echo.Unary.future(request).cancel()
                else:
                    behaviour.after_messages = 1
                    request = pb2.ExpandRequest(messages=2, bytes=10, behaviour=behaviour)
                    answers = echo.Expand(request)
                    next(answers)
                    answers.cancel()

        beside = [guarded(talk), guarded(call)]
        churn = [guarded(cancel) for _ in range(8)]
        for thread in beside + churn:
            thread.start()
        for thread in churn:
            thread.join()
        over.set()
        for thread in beside:
            thread.join()
    equal(failures, [], "what failed beside 10,000 cancelled calls")
    holds(min(counts.values()) > 10, f"too little went on beside them: {counts}")

    limit = time.monotonic() + SOON
    seen = ground.count(key)
    while seen.cancelled + seen.finished < seen.arrived:
        holds(time.monotonic() < limit, f"cancelled calls go on at the server: {seen}")
        time.sleep(0.02)
        seen = ground.count(key)
    holds(seen.arrived >= 5_000, f"not enough was cancelled: {seen}")
    equal(seen.finished, 0, "the calls that the server finished")


CASES = [
    unary_is_given_back,
    empty_messages,
    unary_of_4_mib,
    metadata_of_unary,
    metadata_of_streams,
    metadata_of_errors,
    user_agent_is_kept,
    gzip_unary,
    gzip_streams,
    client_stream,
    server_stream,
    conversation,
    client_stream_of_64_mib,
    server_stream_of_64_mib,
    conversation_of_64_mib,
    half_close,
    early_answer,
    early_refusal_of_a_busy_sender,
    every_status,
    every_status_after_messages,
    errors_are_trailers_only,
    server_sees_cancelled_unary,
    server_sees_cancelled_client_stream,
    server_sees_cancelled_server_stream,
    server_sees_cancelled_conversation,
    client_sees_cancelling_server,
    deadline_of_unary,
    deadline_of_stream,
    remaining_time_is_passed_on,
    expired_on_arrival,
    thousand_tiny_replies,
    ten_thousand_cancelled,
]


def end_with_test():
    """Ends this process when its standard input does: a test that is killed leaves nothing behind."""

    def wait():
        # Not `sys.stdin`, whose lock would be held when this process ends by itself.
        while os.read(0, 1):
            pass
        os._exit(1)

    if "TETHERED_TO_TEST" in os.environ:
        threading.Thread(target=wait, daemon=True).start()


def main(ground, cases):
    for case in cases:
        # So that a case that hangs is named.
        print(json.dumps({"begin": case.__name__}), flush=True)
        start = time.monotonic()
        error = None
        try:
            case(ground)
        except Exception:
            error = traceback.format_exc()
        took = int((time.monotonic() - start) * 1000)
        print(json.dumps({"case": case.__name__, "took_ms": took, "error": error}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stubs", required=True, help="folder of the generated stubs")
    parser.add_argument("--target", required=True, help="whom to call")
    parser.add_argument("--server", required=True, help="whom to ask what it saw")
    parser.add_argument("--server-kind", required=True, help="what it is made of")
    parser.add_argument("--caller", help="the node behind which this is; none without a mesh")
    parser.add_argument("--root", help="what TLS believes; without it, in the clear")
    parser.add_argument("--cases", help="which cases, NAME,NAME; without it, all")
    arguments = parser.parse_args()
    cases = CASES
    if arguments.cases is not None:
        by_name = {case.__name__: case for case in CASES}
        cases = [by_name[name] for name in arguments.cases.split(",")]
    end_with_test()
    sys.path.insert(0, arguments.stubs)
    from sidelane.test.v1 import echo_pb2 as pb2
    from sidelane.test.v1 import echo_pb2_grpc as pb2_grpc

    main(Ground(arguments), cases)
