'use strict';

// What the server and the client share: the services of `echo.proto`, loaded at run time as most
// users of grpc-js do it, and the few settings that both need.

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const MESSAGE_LIMIT = 80 * 1024 * 1024;

const FOLDERS = [path.join(__dirname, '../proto'), path.join(__dirname, '../../proto')];

const definition = protoLoader.loadSync('sidelane/test/v1/echo.proto', {
    includeDirs: FOLDERS,
    keepCase: true,
    longs: String,
    enums: String,
    defaults: true,
});
const { Echo, Witness } = grpc.loadPackageDefinition(definition).sidelane.test.v1;

/** Now, to the millisecond, by the clock that all processes of this machine share. */
function unixNanos() {
    return BigInt(Date.now()) * 1_000_000n;
}

/** `--name value` for each of these names, and no other. */
function flags(names) {
    const given = {};
    const words = process.argv.slice(2);
    for (let index = 0; index < words.length; index += 2) {
        const name = words[index].replace(/^--/, '');
        if (!names.includes(name) || index + 1 === words.length) {
            throw new Error(
                `${words[index]}: give a value each to some of --${names.join(', --')}`,
            );
        }
        given[name] = words[index + 1];
    }
    return given;
}

/** Ends this process when its standard input does: a test that is killed leaves nothing behind. */
function endWithTest() {
    if ('TETHERED_TO_TEST' in process.env) {
        process.stdin.on('close', () => process.exit(1)).resume();
    }
}

module.exports = { Echo, Witness, MESSAGE_LIMIT, endWithTest, flags, grpc, unixNanos };
