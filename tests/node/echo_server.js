'use strict';

// The test services on grpc-js, unchanged from npm.
//
// Does what the Rust `Upstream` does; `echo.proto` says what that is. Prints the port on which it
// listens, and serves until it is ended. What grpc-js cannot do as a server is left out:
//
// | left out                              | because                                              |
// | ------------------------------------- | ---------------------------------------------------- |
// | compressed answers (x-test-compress)  | "response compression is currently not supported"    |
// | text values of one name, apart        | Node joins them with ", " before grpc-js sees them   |
// | a call that is reset, for `cancel`    | a handler can end a call with a status only          |

const { EventEmitter } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const { Echo, Witness, MESSAGE_LIMIT, endWithTest, flags, grpc, unixNanos } = require('./wire.js');

const ECHOED_PREFIX = 'x-test-';
const SETTLES_MS = 100;
const ARRIVED = 'MOMENT_ARRIVED';
const FINISHED = 'MOMENT_FINISHED';
const CANCELLED = 'MOMENT_CANCELLED';

/** What the server saw of the calls that named a key. */
class Ledger {
    constructor() {
        this.visits = new Map();
        this.waiting = new Set();
    }

    arrive(key, remaining) {
        const visit = { key, arrived: unixNanos(), remaining, ended: null, how: null };
        if (!this.visits.has(key)) {
            this.visits.set(key, { [ARRIVED]: [], [FINISHED]: [], [CANCELLED]: [] });
        }
        this.note(visit, ARRIVED);
        return visit;
    }

    end(visit, how) {
        visit.ended = unixNanos();
        visit.how = how;
        this.note(visit, how);
    }

    note(visit, moment) {
        this.visits.get(visit.key)[moment].push(visit);
        this.waiting.forEach((waiter) => waiter());
    }

    /** The calls that came so far. */
    reached(key, moment) {
        return this.visits.get(key)?.[moment] ?? [];
    }

    /** Waits until so many calls have come so far; null if they have not in this time. */
    wait(key, moment, count, milliseconds) {
        return new Promise((resolve) => {
            const give = (visit) => {
                clearTimeout(limit);
                this.waiting.delete(look);
                resolve(visit);
            };
            const look = () => {
                const reached = this.reached(key, moment);
                if (reached.length >= count) {
                    give(reached[count - 1]);
                }
            };
            const limit = setTimeout(() => give(null), milliseconds);
            this.waiting.add(look);
            look();
        });
    }

    count(key, moment) {
        const keys = key === '' ? [...this.visits.keys()] : [key];
        return keys.reduce((sum, one) => sum + this.reached(one, moment).length, 0);
    }
}

/** What a call ends with that the server itself ends. */
class Ended extends Error {
    constructor(code, message, metadata = new grpc.Metadata()) {
        super(message);
        this.code = code;
        this.details = message;
        this.metadata = metadata;
    }
}

/** A call and what is to be done with it. Left unfinished, its caller has given up. */
class Visitor {
    constructor(call, behaviour) {
        this.call = call;
        this.behaviour = behaviour ?? {};
        const deadline = call.getDeadline();
        this.remaining = deadline === Infinity ? -1 : Math.max(0, deadline - Date.now());
        this.visit = ledger.arrive(this.behaviour.ledger_key ?? '', this.remaining);
        this.echoed = new grpc.Metadata();
        if (this.behaviour.echo_metadata) {
            for (const [name, values] of Object.entries(call.metadata.toJSON())) {
                if (name.startsWith(ECHOED_PREFIX)) {
                    values.forEach((value) => this.echoed.add(name, value));
                }
            }
        }
        this.over = new AbortController();
        call.once('cancelled', () => this.giveUp());
        if (call.cancelled) {
            this.giveUp();
        }
    }

    giveUp() {
        if (this.visit.how === null) {
            ledger.end(this.visit, CANCELLED);
        }
        this.over.abort();
    }

    finish() {
        if (this.visit.how === null) {
            ledger.end(this.visit, FINISHED);
        }
    }

    isDue(messages) {
        return messages === (this.behaviour.after_messages ?? 0);
    }

    /** Does what the behaviour says: waits, and perhaps fails. */
    async act() {
        const { behaviour } = this;
        const delay = behaviour.delay_ms ?? 0;
        if (behaviour.gather) {
            const { ledger_key: key, gather } = behaviour;
            if ((await ledger.wait(key, ARRIVED, gather, delay)) === null) {
                const count = ledger.count(key, ARRIVED);
                const text = `only ${count} of ${gather} calls came within ${delay} ms`;
                throw new Ended(grpc.status.ABORTED, text);
            }
        } else if (delay) {
            await sleep(delay, undefined, { signal: this.over.signal });
        }
        if (behaviour.cancel) {
            throw new Ended(grpc.status.CANCELLED, 'given up by the server');
        }
        if (behaviour.status) {
            const trailers = this.echoed.clone();
            if (behaviour.details.length > 0) {
                trailers.set('grpc-status-details-bin', behaviour.details);
            }
            throw new Ended(behaviour.status, behaviour.message, trailers);
        }
    }

    /** Writes, and waits until there is room for more. */
    async write(message) {
        if (this.over.signal.aborted) {
            throw this.over.signal.reason;
        }
        if (!this.call.write(message)) {
            await EventEmitter.once(this.call, 'drain', { signal: this.over.signal });
        }
    }
}

/** The messages of a call, one after the other. */
class Requests {
    constructor(call) {
        this.call = call;
        this.messages = call.iterator({ destroyOnReturn: false });
    }

    /** The next message; null once the caller has ended its stream. */
    async next() {
        const { value, done } = await this.messages.next();
        if (!done) {
            return value;
        }
        // A client that gives up a call may end its stream first, and reset it a moment later.
        await sleep(SETTLES_MS);
        if (this.call.cancelled) {
            throw new Error('the caller gave up');
        }
        return null;
    }
}

/** `name: value` for each, `-bin` values in padded base64, the order within a name kept. */
function lines(metadata) {
    return Object.entries(metadata.toJSON()).flatMap(([name, values]) =>
        values.map(
            (value) => `${name}: ${Buffer.isBuffer(value) ? value.toString('base64') : value}`,
        ),
    );
}

const ledger = new Ledger();
const { node } = flags(['node']);

async function unary(call) {
    const visitor = new Visitor(call, call.request.behaviour);
    return answered(visitor, async () => {
        await visitor.act();
        const { remaining } = visitor;
        const { payload } = call.request;
        return { payload, node, remaining_ms: remaining, metadata: lines(call.metadata) };
    });
}

async function collect(call) {
    const requests = new Requests(call);
    const response = { messages: 0, bytes: 0, node };
    let message = await requests.next();
    const visitor = new Visitor(call, message?.behaviour);
    return answered(visitor, async () => {
        while (message !== null) {
            response.messages += 1;
            response.bytes += message.payload.length;
            if (visitor.behaviour.early && visitor.isDue(response.messages)) {
                break;
            }
            message = await requests.next();
        }
        await visitor.act();
        return response;
    });
}

/** Does the work of a call with one answer. */
async function answered(visitor, work) {
    try {
        const response = await work();
        visitor.call.sendMetadata(visitor.echoed);
        return { response, trailers: visitor.echoed };
    } finally {
        visitor.finish();
    }
}

async function expand(call) {
    const visitor = new Visitor(call, call.request.behaviour);
    await streamed(visitor, async (actIfDue) => {
        const { messages, bytes } = call.request;
        for (let index = 0; index < messages; index += 1) {
            await actIfDue(index);
            await visitor.write({ index, payload: Buffer.alloc(bytes, index % 256), node });
        }
        await actIfDue(visitor.behaviour.after_messages ?? 0);
    });
}

async function chat(call) {
    const requests = new Requests(call);
    let message = await requests.next();
    const visitor = new Visitor(call, message?.behaviour);
    await streamed(visitor, async (actIfDue) => {
        let epilogue = visitor.behaviour.epilogue ?? 0;
        for (let index = 0; message !== null || epilogue > 0; index += 1) {
            await actIfDue(index);
            if (message === null) {
                epilogue -= 1;
            }
            await visitor.write({ payload: message?.payload, index, node });
            if (message !== null) {
                message = await requests.next();
            }
        }
    });
}

/** Does the work of a call with many answers, of which each tells its index before. */
async function streamed(visitor, work) {
    let acted = false;
    const actIfDue = async (index) => {
        if (!acted && visitor.isDue(index)) {
            acted = true;
            await visitor.act();
        }
    };
    try {
        // Nothing was answered yet: an error now is an answer of trailers only.
        await actIfDue(0);
        visitor.call.sendMetadata(visitor.echoed);
        await work(actIfDue);
        visitor.finish();
        visitor.call.end(visitor.echoed);
    } finally {
        visitor.finish();
    }
}

async function observe({ request: { key, moment, timeout_ms: limit } }) {
    const visit = await ledger.wait(key, moment, 1, limit);
    if (visit === null) {
        throw new Ended(grpc.status.NOT_FOUND, `call "${key}" is not ${moment} after ${limit} ms`);
    }
    const when = moment === ARRIVED ? visit.arrived : visit.ended;
    return { response: { unix_nanos: when.toString(), remaining_ms: visit.remaining } };
}

async function countCalls({ request: { key } }) {
    const [arrived, finished, cancelled] = [ARRIVED, FINISHED, CANCELLED].map((moment) =>
        ledger.count(key, moment),
    );
    return { response: { arrived, finished, cancelled } };
}

/** A handler with one answer, as grpc-js wants it. */
function one(handler) {
    return (call, callback) =>
        handler(call).then(
            ({ response, trailers }) => callback(null, response, trailers),
            (error) => callback(error),
        );
}

/** A handler with many. */
function many(handler) {
    return (call) => handler(call).catch((error) => call.emit('error', error));
}

endWithTest();
const server = new grpc.Server({
    'grpc.max_receive_message_length': MESSAGE_LIMIT,
    'grpc.max_send_message_length': MESSAGE_LIMIT,
});
server.addService(Echo.service, {
    Unary: one(unary),
    Collect: one(collect),
    Expand: many(expand),
    Chat: many(chat),
});
server.addService(Witness.service, { Observe: one(observe), CountCalls: one(countCalls) });
server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) {
        throw error;
    }
    console.log(port);
});
