'use strict';

// Where a case takes place, and the calls that cases make there: grpc-js tells what comes of a call
// by callbacks and events, the cases want to wait for it.

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { EventEmitter } = require('node:events');
const { Echo, Witness, MESSAGE_LIMIT, grpc } = require('./wire.js');

const USER_AGENT = 'sidelane-tests/1';
// How long a server may take until it has seen what it must see.
const SOON_MS = 10_000;

/** Where a case takes place. */
class Ground {
    constructor({ target, server, 'server-kind': serverKind, caller }) {
        this.target = target;
        this.serverKind = serverKind;
        this.caller = caller;
        this.isMesh = caller !== undefined;
        this.witness = new Witness(server, grpc.credentials.createInsecure());
    }

    /** Does the work with a client on a connection of its own. */
    async echo(work, options = {}) {
        const client = new Echo(this.target, grpc.credentials.createInsecure(), {
            'grpc.max_receive_message_length': MESSAGE_LIMIT,
            'grpc.max_send_message_length': MESSAGE_LIMIT,
            'grpc.primary_user_agent': USER_AGENT,
            // Otherwise all channels to one address share a connection.
            'grpc.use_local_subchannel_pool': 1,
            ...options,
        });
        try {
            return await work(new EchoCalls(client));
        } finally {
            client.close();
        }
    }

    /** Waits until the server has seen so much of the call, and returns that. */
    async sees(key, moment) {
        const request = { key, moment, timeout_ms: SOON_MS };
        return new Call((done) => this.witness.Observe(request, done)).response();
    }

    /** How many calls with this key came how far. */
    async count(key) {
        const seen = await new Call((done) => this.witness.CountCalls({ key }, done)).response();
        return Object.fromEntries(
            Object.entries(seen).map(([name, value]) => [name, Number(value)]),
        );
    }
}

/** The four methods, each the begin of a call. */
class EchoCalls {
    constructor(client) {
        this.client = client;
    }

    unary(request, metadata = new grpc.Metadata(), options = {}) {
        return new Call((done) => this.client.Unary(request, metadata, options, done));
    }

    collect(metadata = new grpc.Metadata()) {
        return new Call((done) => this.client.Collect(metadata, done));
    }

    expand(request, metadata = new grpc.Metadata(), options = {}) {
        return new Call(() => this.client.Expand(request, metadata, options));
    }

    chat(metadata = new grpc.Metadata()) {
        return new Call(() => this.client.Chat(metadata));
    }
}

/** A call that has begun. */
class Call {
    constructor(begin) {
        this.answer = new Promise((resolve, reject) => {
            this.call = begin((error, response) => (error ? reject(error) : resolve(response)));
        });
        // Whoever wants to know of a failure asks for the answer; whoever does not may ignore it.
        this.answer.catch(() => {});
        this.call.on('error', () => {});
        this.headers = null;
        this.call.on('metadata', (metadata) => (this.headers = metadata));
        this.over = new AbortController();
        this.status = new Promise((resolve) => {
            this.call.on('status', (status) => {
                resolve(status);
                this.over.abort();
            });
        });
    }

    /** The only answer. */
    async response() {
        const response = await this.answer;
        await this.status;
        return response;
    }

    /** The next of many answers; null at the end. */
    async next() {
        this.answers ??= this.call[Symbol.asyncIterator]();
        const { value, done } = await this.answers.next();
        return done ? null : value;
    }

    /** All answers that are left. */
    async rest() {
        const answers = [];
        for (let answer = await this.next(); answer !== null; answer = await this.next()) {
            answers.push(answer);
        }
        return answers;
    }

    /** Sends, and waits until there is room for more. False once the call is over. */
    async send(message) {
        if (this.over.signal.aborted) {
            return false;
        }
        if (!this.call.write(message)) {
            await EventEmitter.once(this.call, 'drain', this.over).catch(() => {});
        }
        return !this.over.signal.aborted;
    }

    async sendAll(messages) {
        for (const message of messages) {
            await this.send(message);
        }
        this.end();
        return this;
    }

    end() {
        this.call.end();
    }

    cancel() {
        this.call.cancel();
    }
}

let keys = 0;

/** A key that no other call has. */
function freshKey(name) {
    keys += 1;
    return `${name}-node-${process.pid}-${keys}`;
}

const noises = new Map();

/** Bytes that do not compress, the same for the same length. */
function noise(length) {
    if (!noises.has(length)) {
        const nothing = Buffer.alloc(16);
        const cipher = crypto.createCipheriv('aes-128-ctr', nothing, nothing);
        noises.set(length, cipher.update(Buffer.alloc(length)));
    }
    return noises.get(length);
}

/** What the server saw of metadata of this name. */
function told(response, name) {
    const prefix = `${name}: `;
    const seen = response.metadata.filter((line) => line.startsWith(prefix));
    return seen.map((line) => line.slice(prefix.length));
}

/** Checks bytes without printing megabytes where they differ. */
function sameBytes(given, wanted) {
    assert.ok(Buffer.compare(given, wanted) === 0, `${given.length} other bytes came back`);
}

/** The error of a call that must fail. */
async function failure(promise) {
    const ended = await promise.then(
        () => null,
        (error) => error,
    );
    assert.ok(ended !== null, 'the call did not fail');
    // Anything else is a mistake of this program.
    assert.ok(Number.isInteger(ended.code), ended.stack);
    return ended;
}

/** The middle one. */
function median(times) {
    const sorted = [...times].sort((one, other) => one - other);
    return sorted[Math.floor(sorted.length / 2)];
}

module.exports = {
    Ground,
    USER_AGENT,
    SOON_MS,
    failure,
    freshKey,
    median,
    noise,
    sameBytes,
    told,
};
