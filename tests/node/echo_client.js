'use strict';

// The call matrix with grpc-js, unchanged from npm, as the client.
//
// Runs the cases of `tests/src/cases` by the same names, and prints a line of JSON at the begin and
// at the end of each. All are here. What grpc-js cannot see of them is left out:
//
// | left out                              | because                                              |
// | ------------------------------------- | ---------------------------------------------------- |
// | gzip_*: that an answer is compressed  | grpc-js takes `grpc-encoding` away                   |
// | metadata_*: text values, apart        | Node joins them with ", " before grpc-js sees them   |
// | expired_on_arrival: times under 1 ms  | grpc-js sends none                                   |
// | ten_thousand_cancelled: calls given   | grpc-js sends them all the same, and never resets    |
// | up in the tick that began them        | their streams                                        |

const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const { endWithTest, flags, grpc } = require('./wire.js');
const {
    Ground,
    USER_AGENT,
    SOON_MS,
    failure,
    freshKey,
    median,
    noise,
    sameBytes,
    told,
} = require('./ground.js');

const { status: Code } = grpc;
const MIB = 1024 * 1024;
// Longer than a case may take.
const FOR_EVER_MS = 600_000;
const TIMES = 20;
const LIMIT_MS = 50;
const DEADLINE_MS = 200;
// This client, both sidecars and the server each count in whole milliseconds, rounded down.
const TOO_EARLY_MS = 4;
const CANCELLED_CALLS = 10_000;
const AT_A_TIME = 64;

const MESSAGE = 'größer als 100 %: "日本語" 🚦\tTab\nzweite Zeile %41';
const DETAILS = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
const TEXTS = ['one', 'two, and a comma', 'one', 'four'];
const BINARIES = [
    Buffer.from([0x00, 0xff, 0x80]),
    Buffer.alloc(0),
    Buffer.from('\r\n'),
    Buffer.from([1, 2, 3, 4]),
];

const unaryCases = {
    async unary_is_given_back(ground) {
        const key = freshKey('unary');
        const request = { payload: noise(1000), behaviour: { ledger_key: key } };
        const response = await ground.echo((echo) => echo.unary(request).response());
        sameBytes(response.payload, noise(1000));
        assert.equal(response.node, 'echo');
        const remaining = Number(response.remaining_ms);
        if (ground.isMesh) {
            // Without a deadline of its own a unary call gets the rule's, 5 s.
            assert.ok(
                remaining > 0 && remaining < 5_000,
                `of the rule's 5 s ${remaining} ms were left`,
            );
        } else {
            assert.equal(remaining, -1, 'the remaining time, where no deadline was set');
        }
        await executedOnce(ground, key);
        assert.deepEqual(
            told(response, 'sidelane-source-node'),
            ground.isMesh ? [ground.caller] : [],
        );
        assert.deepEqual(told(response, 'sidelane-lane'), ground.isMesh ? ['general'] : []);
    },

    async empty_messages(ground) {
        await ground.echo(async (echo) => {
            assert.equal((await echo.unary({}).response()).payload.length, 0);
            const none = await (await echo.collect().sendAll([])).response();
            assert.equal(Number(none.messages), 0);
            const five = await (await echo.collect().sendAll(Array(5).fill({}))).response();
            assert.deepEqual([Number(five.messages), Number(five.bytes)], [5, 0]);
            assert.deepEqual(await echo.expand({}).rest(), []);
        });
    },

    async unary_of_4_mib(ground) {
        const request = { payload: noise(4 * MIB) };
        const response = await ground.echo((echo) => echo.unary(request).response());
        sameBytes(response.payload, request.payload);
    },
};

async function executedOnce(ground, key) {
    const { arrived, finished } = await ground.count(key);
    assert.deepEqual({ arrived, finished }, { arrived: 1, finished: 1 });
}

const metadataCases = {
    async metadata_of_unary(ground) {
        const request = { behaviour: { echo_metadata: true } };
        await ground.echo(async (echo) => {
            const call = echo.unary(request, ownMetadata());
            const response = await call.response();
            checkMetadata(call.headers, "in the answer's headers");
            checkMetadata((await call.status).metadata, "in the answer's trailers");
            const joined = ground.serverKind === 'Node';
            assert.deepEqual(told(response, 'x-test-text'), joined ? [TEXTS.join(', ')] : TEXTS);
            assert.deepEqual(told(response, 'x-test-data-bin'), ['AP+A', '', 'DQo=', 'AQIDBA==']);
        });
    },

    async metadata_of_streams(ground) {
        await ground.echo(async (echo) => {
            const call = echo.chat(ownMetadata());
            await call.sendAll([{ behaviour: { echo_metadata: true } }]);
            assert.equal((await call.rest()).length, 1);
            checkMetadata(call.headers, "in the answer's headers");
            checkMetadata((await call.status).metadata, "in the answer's trailers");
        });
    },

    async metadata_of_errors(ground) {
        const behaviour = { echo_metadata: true, status: Code.NOT_FOUND };
        await ground.echo(async (echo) => {
            const refused = await failure(echo.unary({ behaviour }, ownMetadata()).response());
            assert.equal(refused.code, Code.NOT_FOUND);
            checkMetadata(refused.metadata, 'in the only headers');

            const request = {
                messages: 3,
                bytes: 1,
                behaviour: { ...behaviour, after_messages: 1 },
            };
            const call = echo.expand(request, ownMetadata());
            assert.notEqual(await call.next(), null);
            checkMetadata(call.headers, 'in the headers before an error');
            const broken = await failure(call.next());
            assert.equal(broken.code, Code.NOT_FOUND);
            checkMetadata(broken.metadata, 'in the trailers of an error');
        });
    },

    async user_agent_is_kept(ground) {
        const response = await ground.echo((echo) => echo.unary({}).response());
        const agents = told(response, 'user-agent');
        assert.equal(agents.length, 1);
        assert.ok(agents[0].startsWith(`${USER_AGENT} grpc-node-js/`), agents[0]);
        assert.ok(!agents[0].includes('hyper'), `somebody added its own name: ${agents[0]}`);
    },
};

function ownMetadata() {
    const metadata = new grpc.Metadata();
    TEXTS.forEach((text, index) => {
        metadata.add('x-test-text', text);
        metadata.add('x-test-data-bin', BINARIES[index]);
    });
    return metadata;
}

function checkMetadata(metadata, where) {
    assert.equal(metadata.get('x-test-text').join(', '), TEXTS.join(', '), `x-test-text ${where}`);
    assert.deepEqual(metadata.get('x-test-data-bin'), BINARIES, `x-test-data-bin ${where}`);
}

const COMPRESSED = { 'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip };
const EASY = Buffer.alloc(300_000, 'z');

const compressionCases = {
    async gzip_unary(ground) {
        const work = (echo) => echo.unary({ payload: EASY }, compressing()).response();
        const response = await ground.echo(work, COMPRESSED);
        sameBytes(response.payload, EASY);
        if (ground.serverKind === 'Rust') {
            assert.deepEqual(told(response, 'grpc-encoding'), ['gzip'], 'how the request arrived');
        }
    },

    async gzip_streams(ground) {
        await ground.echo(async (echo) => {
            const ten = Array(10).fill({ payload: EASY });
            const collected = await (await echo.collect(compressing()).sendAll(ten)).response();
            assert.equal(Number(collected.bytes), 3_000_000);
            const expanded = await echo
                .expand({ messages: 10, bytes: 300_000 }, compressing())
                .rest();
            assert.deepEqual(
                expanded.map((answer) => answer.payload.length),
                Array(10).fill(300_000),
            );
            const call = echo.chat(compressing());
            const [answers] = await Promise.all([call.rest(), call.sendAll(ten)]);
            assert.equal(answers.length, 10);
            answers.forEach((answer) => sameBytes(answer.payload, EASY));
        }, COMPRESSED);
    },
};

function compressing() {
    const metadata = new grpc.Metadata();
    metadata.set('x-test-compress', 'yes');
    return metadata;
}

const streamCases = {
    client_stream: (ground) => collect(ground, 100, 1000),
    server_stream: (ground) => expand(ground, 100, 1000),

    async conversation(ground) {
        await ground.echo(async (echo) => {
            const call = echo.chat();
            await call.send({});
            for (let index = 0; index < 50; index += 1) {
                const answer = await call.next();
                assert.equal(answer.index, index);
                sameBytes(answer.payload, noise(index));
                await call.send({ payload: noise(index + 1) });
            }
            call.end();
            assert.equal((await call.rest()).length, 1);
        });
    },

    client_stream_of_64_mib: (ground) => collect(ground, 64, MIB),
    server_stream_of_64_mib: (ground) => expand(ground, 64, MIB),

    async conversation_of_64_mib(ground) {
        const payload = noise(MIB);
        await ground.echo(async (echo) => {
            const call = echo.chat();
            const sent = call.sendAll(Array(64).fill({ payload }));
            for (let index = 0; index < 64; index += 1) {
                const answer = await call.next();
                assert.equal(answer.index, index);
                sameBytes(answer.payload, payload);
            }
            assert.equal(await call.next(), null);
            await sent;
        });
    },

    async half_close(ground) {
        await ground.echo(async (echo) => {
            const call = await echo.chat().sendAll([{ behaviour: { epilogue: 2 } }, {}, {}]);
            const answers = await call.rest();
            assert.deepEqual(
                answers.map((answer) => answer.index),
                [0, 1, 2, 3, 4],
            );
        });
    },

    async early_answer(ground) {
        const key = freshKey('early');
        const behaviour = { early: true, after_messages: 1, ledger_key: key };
        await ground.echo(async (echo) => {
            const call = echo.collect();
            await call.send({ payload: noise(10), behaviour });
            const response = await call.response();
            assert.deepEqual([Number(response.messages), Number(response.bytes)], [1, 10]);
            await ground.sees(key, 'MOMENT_FINISHED');
            call.end();
            // The connection is as good as before.
            await echo.unary({}).response();
        });
    },

    async early_refusal_of_a_busy_sender(ground) {
        const status = Code.RESOURCE_EXHAUSTED;
        const behaviour = { early: true, after_messages: 3, status, message: 'enough' };
        await ground.echo(async (echo) => {
            for (let time = 0; time < 5; time += 1) {
                const call = echo.collect();
                let open = await call.send({ payload: noise(100), behaviour });
                while (open) {
                    open = await call.send({ payload: noise(MIB / 4) });
                }
                const refusal = await failure(call.response());
                assert.deepEqual([refusal.code, refusal.details], [status, 'enough']);
            }
            await echo.unary({}).response();
        });
    },
};

async function collect(ground, messages, length) {
    const key = freshKey('collect');
    const more = Array(messages - 1).fill({ payload: noise(length) });
    const all = [{ payload: noise(length), behaviour: { ledger_key: key } }, ...more];
    const response = await ground.echo(async (echo) =>
        (await echo.collect().sendAll(all)).response(),
    );
    assert.equal(Number(response.messages), messages);
    assert.equal(Number(response.bytes), messages * length);
    await executedOnce(ground, key);
}

async function expand(ground, messages, length) {
    const key = freshKey('expand');
    await ground.echo(async (echo) => {
        const call = echo.expand({ messages, bytes: length, behaviour: { ledger_key: key } });
        for (let index = 0; index < messages; index += 1) {
            const answer = await call.next();
            assert.equal(answer.index, index);
            sameBytes(answer.payload, Buffer.alloc(length, index % 256));
        }
        assert.equal(await call.next(), null);
    });
    await executedOnce(ground, key);
}

const statusCases = {
    async every_status(ground) {
        await ground.echo(async (echo) => {
            for (let status = 1; status <= 16; status += 1) {
                const error = await failure(echo.unary({ behaviour: failing(status) }).response());
                checkStatus(error, status);
            }
        });
    },

    async every_status_after_messages(ground) {
        await ground.echo(async (echo) => {
            for (let status = 1; status <= 16; status += 1) {
                const behaviour = { ...failing(status), after_messages: 2 };
                const call = echo.expand({ messages: 5, bytes: 100, behaviour });
                assert.notEqual(await call.next(), null);
                assert.notEqual(await call.next(), null);
                checkStatus(await failure(call.next()), status);
            }
        });
    },

    // What a grpc-js client sees of them: a stream that has no headers and no messages.
    async errors_are_trailers_only(ground) {
        await ground.echo(async (echo) => {
            const call = echo.expand({ messages: 1, behaviour: failing(5) });
            checkStatus(await failure(call.next()), 5);
            assert.equal(call.headers, null, 'the headers before a status alone');
        });
    },
};

function failing(status) {
    return { status, message: MESSAGE, details: DETAILS };
}

function checkStatus(error, status) {
    assert.equal(error.code, status);
    assert.equal(error.details, MESSAGE, `the message of ${status}`);
    const details = error.metadata.get('grpc-status-details-bin');
    assert.deepEqual(details, [DETAILS], `the details of ${status}`);
    assert.deepEqual(error.metadata.get('sidelane-error'), [], `the mesh's own words on ${status}`);
}

const cancellationCases = {
    async server_sees_cancelled_unary(ground) {
        await ground.echo(async (echo) => {
            await serverSees(ground, (key) =>
                echo.unary({ behaviour: { ledger_key: key, delay_ms: FOR_EVER_MS } }),
            );
            // The connection is as good as before.
            await echo.unary({}).response();
        });
    },

    async server_sees_cancelled_client_stream(ground) {
        await ground.echo((echo) =>
            serverSees(ground, async (key) => {
                const call = echo.collect();
                await call.send({ behaviour: { ledger_key: key } });
                return call;
            }),
        );
    },

    async server_sees_cancelled_server_stream(ground) {
        await ground.echo((echo) =>
            serverSees(ground, async (key) => {
                const behaviour = { ledger_key: key, delay_ms: FOR_EVER_MS, after_messages: 1 };
                const call = echo.expand({ messages: 2, bytes: 10, behaviour });
                assert.notEqual(await call.next(), null);
                return call;
            }),
        );
    },

    async server_sees_cancelled_conversation(ground) {
        await ground.echo((echo) =>
            serverSees(ground, async (key) => {
                const call = echo.chat();
                await call.send({ behaviour: { ledger_key: key } });
                assert.notEqual(await call.next(), null);
                return call;
            }),
        );
    },

    async client_sees_cancelling_server(ground) {
        const times = [];
        await ground.echo(async (echo) => {
            for (let time = 0; time < TIMES; time += 1) {
                const key = freshKey('cancelling-server');
                const behaviour = {
                    ledger_key: key,
                    after_messages: 1,
                    delay_ms: 20,
                    cancel: true,
                };
                const call = echo.expand({ messages: 2, bytes: 10, behaviour });
                assert.notEqual(await call.next(), null);
                const error = await failure(call.next());
                const seen = Date.now();
                assert.equal(error.code, Code.CANCELLED);
                const finished = await ground.sees(key, 'MOMENT_FINISHED');
                times.push(seen - unixMillis(finished));
            }
        });
        checkTimes(times);
    },
};

async function serverSees(ground, begin) {
    const times = [];
    for (let time = 0; time < TIMES; time += 1) {
        const key = freshKey('cancelled');
        const call = await begin(key);
        await ground.sees(key, 'MOMENT_ARRIVED');
        const givenUp = Date.now();
        call.cancel();
        const seen = await ground.sees(key, 'MOMENT_CANCELLED');
        times.push(unixMillis(seen) - givenUp);
    }
    checkTimes(times);
}

function unixMillis(seen) {
    return Number(BigInt(seen.unix_nanos) / 1_000_000n);
}

function checkTimes(times) {
    const middle = median(times);
    assert.ok(middle < LIMIT_MS, `seen after ${middle} ms (median of ${TIMES}): ${times}`);
}

const deadlineCases = {
    async deadline_of_unary(ground) {
        await endsInTime(ground, (echo, behaviour, options) =>
            echo.unary({ behaviour }, undefined, options).response(),
        );
    },

    async deadline_of_stream(ground) {
        await endsInTime(ground, async (echo, behaviour, options) => {
            const request = {
                messages: 2,
                bytes: 10,
                behaviour: { ...behaviour, after_messages: 1 },
            };
            const call = echo.expand(request, undefined, options);
            assert.notEqual(await call.next(), null);
            await call.next();
        });
    },

    async remaining_time_is_passed_on(ground) {
        const key = freshKey('remaining');
        await ground.echo(async (echo) => {
            // Connects.
            await echo.unary({}).response();
            const options = { deadline: Date.now() + 900 };
            await echo.unary({ behaviour: { ledger_key: key } }, undefined, options).response();
        });
        const remaining = Number((await ground.sees(key, 'MOMENT_ARRIVED')).remaining_ms);
        assert.ok(remaining > 500 && remaining <= 900, `of 900 ms ${remaining} ms were left`);
        if (ground.isMesh) {
            assert.ok(remaining < 900, `the way took no time: ${remaining} of 900 ms were left`);
        }
    },

    // A call with a millisecond left may just arrive; then the server must end it.
    async expired_on_arrival(ground) {
        const key = freshKey('expired');
        const behaviour = { ledger_key: key, delay_ms: FOR_EVER_MS };
        await ground.echo(async (echo) => {
            // Connects, which would take more time than there is.
            await echo.unary({}).response();
            const options = { deadline: Date.now() + 1 };
            checkDeadline(
                ground,
                await failure(echo.unary({ behaviour }, undefined, options).response()),
            );
        });
        if ((await ground.count(key)).arrived > 0) {
            await ground.sees(key, 'MOMENT_CANCELLED');
        }
    },
};

// grpc-js has a clock of its own, so the client ends in time anyway; the server must, too.
async function endsInTime(ground, call) {
    const late = [];
    await ground.echo(async (echo) => {
        for (let time = 0; time < 5; time += 1) {
            const key = freshKey('deadline');
            const behaviour = { ledger_key: key, delay_ms: FOR_EVER_MS };
            const start = performance.now();
            const options = { deadline: Date.now() + DEADLINE_MS };
            const error = await failure(call(echo, behaviour, options));
            const took = performance.now() - start;
            checkDeadline(ground, error);
            assert.ok(
                took + TOO_EARLY_MS > DEADLINE_MS,
                `ended after ${took} ms, before its deadline`,
            );
            late.push(took - DEADLINE_MS);
            await ground.sees(key, 'MOMENT_CANCELLED');
        }
    });
    const middle = median(late);
    assert.ok(middle < LIMIT_MS, `late by ${middle} ms (median of ${late.length}): ${late}`);
}

function checkDeadline(ground, error) {
    // tonic and grpc-java end a call in time, but in words of their own, and may be the first.
    const alone = !ground.isMesh && ['Rust', 'Java'].includes(ground.serverKind);
    const allowed = alone ? [Code.DEADLINE_EXCEEDED, Code.CANCELLED] : [Code.DEADLINE_EXCEEDED];
    assert.ok(allowed.includes(error.code), error.stack);
}

const crowdCases = {
    async thousand_tiny_replies(ground) {
        const key = freshKey('tiny');
        const behaviour = { ledger_key: key, gather: 1000, delay_ms: 20_000 };
        const request = { payload: Buffer.from('t'), behaviour };
        await ground.echo(async (echo) => {
            const calls = Array.from({ length: 1000 }, () => echo.unary(request).response());
            for (const response of await Promise.all(calls)) {
                sameBytes(response.payload, request.payload);
            }
        });
        const { arrived, cancelled } = await ground.count(key);
        assert.deepEqual({ arrived, cancelled }, { arrived: 1000, cancelled: 0 });
    },

    async ten_thousand_cancelled(ground) {
        const key = freshKey('churn');
        await ground.echo(async (echo) => {
            const crowd = { echo, key, next: 0, over: false };
            const beside = [talk(crowd), call(crowd)];
            const churn = Promise.all(Array.from({ length: AT_A_TIME }, () => cancelCalls(crowd)));
            // Whichever fails first says why.
            await Promise.race([churn, Promise.all(beside)]);
            await churn;
            crowd.over = true;
            for (const went of await Promise.all(beside)) {
                assert.ok(went > 10, `too little went on beside them: ${went}`);
            }
        });
        const limit = performance.now() + SOON_MS;
        let seen = await ground.count(key);
        while (seen.cancelled + seen.finished < seen.arrived) {
            const text = `cancelled calls go on at the server: ${JSON.stringify(seen)}`;
            assert.ok(performance.now() < limit, text);
            await sleep(20);
            seen = await ground.count(key);
        }
        assert.ok(seen.arrived >= CANCELLED_CALLS / 2, `not enough was cancelled: ${seen.arrived}`);
        assert.equal(seen.finished, 0, 'the calls that the server finished');
    },
};

// A conversation that goes on until it is over.
async function talk(crowd) {
    const call = crowd.echo.chat();
    let said = 0;
    await call.send({});
    while (!crowd.over) {
        assert.equal((await call.next())?.index, said);
        said += 1;
        await call.send({});
    }
    call.end();
    await call.rest();
    return said;
}

// Calls, one after the other, until it is over.
async function call(crowd) {
    let called = 0;
    while (!crowd.over) {
        sameBytes((await crowd.echo.unary({ payload: noise(100) }).response()).payload, noise(100));
        called += 1;
    }
    return called;
}

async function cancelCalls(crowd) {
    while (crowd.next < CANCELLED_CALLS) {
        const number = crowd.next;
        crowd.next += 1;
        const behaviour = { ledger_key: crowd.key, delay_ms: FOR_EVER_MS };
        if (number % 2 === 0) {
            const first = { ...behaviour, after_messages: 1 };
            const call = crowd.echo.expand({ messages: 2, bytes: 10, behaviour: first });
            assert.notEqual(await call.next(), null);
            call.cancel();
        } else {
            const call = crowd.echo.unary({ behaviour });
            // Soon, on the way, or at the server: wherever that finds it.
            await (number % 3 === 0 ? new Promise(setImmediate) : sleep(number % 3));
            call.cancel();
            assert.equal((await failure(call.response())).code, Code.CANCELLED);
        }
    }
}

const CASES = {
    ...unaryCases,
    ...metadataCases,
    ...compressionCases,
    ...streamCases,
    ...statusCases,
    ...cancellationCases,
    ...deadlineCases,
    ...crowdCases,
};

async function main(given) {
    const ground = new Ground(given);
    for (const name of given.cases?.split(',') ?? Object.keys(CASES)) {
        // So that a case that hangs is named.
        console.log(JSON.stringify({ begin: name }));
        const start = performance.now();
        let error = null;
        try {
            await CASES[name](ground);
        } catch (thrown) {
            error = thrown.stack;
        }
        const took = Math.round(performance.now() - start);
        console.log(JSON.stringify({ case: name, took_ms: took, error }));
    }
    process.exit(0);
}

if (process.argv[2] === '--version') {
    const { version } = require('@grpc/grpc-js/package.json');
    console.log(`grpc-js ${version} on Node ${process.versions.node}`);
} else {
    endWithTest();
    main(flags(['target', 'server', 'server-kind', 'caller', 'cases']));
}
