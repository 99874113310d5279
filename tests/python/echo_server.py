"""The test services on grpcio, unchanged from PyPI (its asyncio half).

Does exactly what the Rust `Upstream` does; `echo.proto` says what that is. Prints the port on
which it listens, and serves until it is ended.
"""

import argparse
import asyncio
import base64
import os
import sys
import threading
import time

import grpc

ECHOED_PREFIX = "x-test-"
COMPRESS_HEADER = "x-test-compress"
MESSAGE_LIMIT = 80 * 1024 * 1024


class Ledger:
    """What the server saw of the calls that named a key."""

    def __init__(self):
        self.visits = {}
        self.changed = asyncio.Condition()

    def arrive(self, key, remaining):
        visit = {"arrived": time.time_ns(), "remaining": remaining, "ended": None, "how": None}
        self.visits.setdefault(key, []).append(visit)
        self.tell()
        return visit

    def end(self, visit, how):
        visit["ended"] = time.time_ns()
        visit["how"] = how
        self.tell()

    def tell(self):
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self):
        async with self.changed:
            self.changed.notify_all()

    def reached(self, key, moment):
        """When calls came so far, in the order of their arrival."""
        for visit in self.visits.get(key, []):
            if moment == pb2.MOMENT_ARRIVED:
                yield visit["arrived"], visit
            elif visit["how"] == moment:
                yield visit["ended"], visit

    async def wait(self, key, moment, count, seconds):
        def found():
            return len(list(self.reached(key, moment))) >= count

        try:
            async with self.changed:
                await asyncio.wait_for(self.changed.wait_for(found), seconds)
        except TimeoutError:
            return None
        return list(self.reached(key, moment))[count - 1]

    def count(self, key, moment):
        keys = [key] if key else list(self.visits)
        return sum(len(list(self.reached(key, moment))) for key in keys)


class Visitor:
    """A call and what is to be done with it. Left unfinished, its caller has given up."""

    def __init__(self, servicer, behaviour, context):
        self.ledger = servicer.ledger
        self.behaviour = behaviour
        self.context = context
        remaining = context.time_remaining()
        self.visit = self.ledger.arrive(behaviour.ledger_key, remaining)
        metadata = context.invocation_metadata() or ()
        self.echoed = tuple(
            (name, value)
            for name, value in metadata
            if behaviour.echo_metadata and name.startswith(ECHOED_PREFIX)
        )
        if any(name == COMPRESS_HEADER for name, _ in metadata):
            context.set_compression(grpc.Compression.Gzip)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.visit["how"] is None:
            self.ledger.end(self.visit, pb2.MOMENT_CANCELLED)

    def finish(self):
        self.ledger.end(self.visit, pb2.MOMENT_FINISHED)

    def is_due(self, messages):
        return messages == self.behaviour.after_messages

    async def act(self):
        """Does what the behaviour says: waits, and perhaps fails."""
        behaviour = self.behaviour
        delay = behaviour.delay_ms / 1000
        if behaviour.gather:
            key, every = behaviour.ledger_key, behaviour.gather
            if await self.ledger.wait(key, pb2.MOMENT_ARRIVED, every, delay) is None:
                count = self.ledger.count(key, pb2.MOMENT_ARRIVED)
                self.finish()
                text = f"only {count} of {every} calls came within {delay} s"
                await self.context.abort(grpc.StatusCode.ABORTED, text)
        elif delay:
            await asyncio.sleep(delay)
        if behaviour.cancel:
            self.finish()
            await self.context.abort(grpc.StatusCode.CANCELLED, "given up by the server")
        if behaviour.status:
            self.finish()
            trailers = self.echoed
            if behaviour.details:
                trailers += (("grpc-status-details-bin", behaviour.details),)
            code = next(code for code in grpc.StatusCode if code.value[0] == behaviour.status)
            await self.context.abort(code, behaviour.message, trailers)

    async def respond(self):
        """The echoed metadata, in the answer's headers and in its trailers."""
        await self.context.send_initial_metadata(self.echoed)
        self.context.set_trailing_metadata(self.echoed)


async def next_of(requests):
    """The next message; None once the caller has ended its stream."""
    message = await anext(aiter(requests), None)
    if message is None:
        # grpcio may say that a stream has ended a moment before it says that the whole call was
        # given up, and Node does end it a moment before. In that case the call is ended here.
        await asyncio.sleep(0.1)
    return message


def lines(context):
    """`name: value` for each, `-bin` values in padded base64, the order within a name kept."""
    return [
        f"{name}: {base64.b64encode(value).decode() if isinstance(value, bytes) else value}"
        for name, value in context.invocation_metadata() or ()
    ]


def milliseconds(remaining):
    return -1 if remaining is None else int(remaining * 1000)


def servicers(pb2_grpc, node):
    class Shared:
        ledger = Ledger()

    class Echo(Shared, pb2_grpc.EchoServicer):
        async def Unary(self, request, context):
            with Visitor(self, request.behaviour, context) as visitor:
                await visitor.act()
                await visitor.respond()
                visitor.finish()
                return pb2.UnaryResponse(
                    payload=request.payload,
                    node=node,
                    remaining_ms=milliseconds(visitor.visit["remaining"]),
                    metadata=lines(context),
                )

        async def Collect(self, requests, context):
            response = pb2.CollectResponse(node=node)
            first = await next_of(requests)
            behaviour = first.behaviour if first else pb2.Behaviour()
            with Visitor(self, behaviour, context) as visitor:
                message = first
                while message is not None:
                    response.messages += 1
                    response.bytes += len(message.payload)
                    if behaviour.early and visitor.is_due(response.messages):
                        break
                    message = await next_of(requests)
                await visitor.act()
                await visitor.respond()
                visitor.finish()
                return response

        async def Expand(self, request, context):
            with Visitor(self, request.behaviour, context) as visitor:
                acted = visitor.is_due(0)
                if acted:
                    await visitor.act()
                await visitor.respond()
                for index in range(request.messages):
                    if not acted and visitor.is_due(index):
                        acted = True
                        await visitor.act()
                    payload = bytes([index % 256]) * request.bytes
                    yield pb2.ExpandResponse(index=index, payload=payload, node=node)
                if not acted:
                    await visitor.act()
                visitor.finish()

        async def Chat(self, requests, context):
            message = await next_of(requests)
            behaviour = message.behaviour if message else pb2.Behaviour()
            with Visitor(self, behaviour, context) as visitor:
                acted = visitor.is_due(0)
                if acted:
                    await visitor.act()
                await visitor.respond()
                index = 0
                epilogue = behaviour.epilogue
                while message is not None or epilogue:
                    if not acted and visitor.is_due(index):
                        acted = True
                        await visitor.act()
                    if message is None:
                        epilogue -= 1
                    payload = message.payload if message else b""
                    yield pb2.ChatResponse(payload=payload, index=index, node=node)
                    index += 1
                    if message is not None:
                        message = await next_of(requests)
                visitor.finish()

    class Witness(Shared, pb2_grpc.WitnessServicer):
        async def Observe(self, request, context):
            key, moment = request.key, request.moment
            seconds = request.timeout_ms / 1000
            reached = await self.ledger.wait(key, moment, 1, seconds)
            if reached is None:
                name = pb2.Moment.Name(moment)
                text = f"call `{key}` is not {name} after {seconds} s"
                await context.abort(grpc.StatusCode.NOT_FOUND, text)
            when, visit = reached
            remaining = milliseconds(visit["remaining"])
            return pb2.ObserveResponse(unix_nanos=when, remaining_ms=remaining)

        async def CountCalls(self, request, context):
            return pb2.CountCallsResponse(
                arrived=self.ledger.count(request.key, pb2.MOMENT_ARRIVED),
                finished=self.ledger.count(request.key, pb2.MOMENT_FINISHED),
                cancelled=self.ledger.count(request.key, pb2.MOMENT_CANCELLED),
            )

    return Echo(), Witness()


def end_with_test():
    """Ends this process when its standard input does: a test that is killed leaves nothing behind."""

    def wait():
        # Not `sys.stdin`, whose lock would be held when this process ends by itself.
        while os.read(0, 1):
            pass
        os._exit(1)

    if "TETHERED_TO_TEST" in os.environ:
        threading.Thread(target=wait, daemon=True).start()


async def serve(pb2_grpc, node):
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MESSAGE_LIMIT),
            ("grpc.max_send_message_length", MESSAGE_LIMIT),
        ]
    )
    echo, witness = servicers(pb2_grpc, node)
    pb2_grpc.add_EchoServicer_to_server(echo, server)
    pb2_grpc.add_WitnessServicer_to_server(witness, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stubs", required=True, help="folder of the generated stubs")
    parser.add_argument("--node", required=True, help="what the server calls itself")
    arguments = parser.parse_args()
    end_with_test()
    sys.path.insert(0, arguments.stubs)
    from sidelane.test.v1 import echo_pb2 as pb2
    from sidelane.test.v1 import echo_pb2_grpc

    asyncio.run(serve(echo_pb2_grpc, arguments.node))
