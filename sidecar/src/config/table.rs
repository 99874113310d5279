//! The table of the sidecar's flags: names, shapes, defaults and help, in the order of the help.

use sidelane_process::settings::{self, Flag, LOG, Program, TRUST};

pub(super) const NODE: Flag = Flag::single(
    "node",
    "NAME",
    "This node's name; made once and kept with --data if absent",
);
pub(super) const CONTROL: Flag = Flag::list(
    "control",
    "HOST:PORT,…",
    "Where control is; several are tried in turn",
)
.or("127.0.0.1:15010");
pub(super) const NETWORK: Flag =
    Flag::single("network", "NAME", "The mesh that this node belongs to").or("default");
pub(super) const SERVE: Flag = Flag::pairs(
    "serve",
    "SERVICE[,SERVICE]=ADDRESS",
    "Local services and where they listen: host:port or unix:/path",
);
pub(super) const OUTBOUND: Flag = Flag::list(
    "outbound",
    "ADDRESS,…",
    "Where local apps call: host:port, unix:/path or both",
)
.or("127.0.0.1:15001");
pub(super) const INTERNAL: Flag =
    Flag::single("internal", "ADDRESS", "Where peers call, class Internal").or("127.0.0.1:15006");
pub(super) const EXTERNAL: Flag = Flag::single(
    "external",
    "ADDRESS|off",
    "Where users call, over TLS, and peers, class External",
)
.or("off");
pub(super) const TLS_CERT: Flag = Flag::single(
    "tls-cert",
    "FILE",
    "The certificate that users are shown, and its chain (PEM); read again when it changes",
);
pub(super) const TLS_KEY: Flag = Flag::single(
    "tls-key",
    "FILE",
    "Its private key (PEM: PKCS#8, SEC1 or PKCS#1)",
);
pub(super) const TLS_MIN: Flag = Flag::single(
    "tls-min",
    "1.2|1.3",
    "The oldest TLS that is taken from users",
)
.or("1.2");
pub(super) const EXTERNAL_STREAMS: Flag = Flag::single(
    "external-streams",
    "NUMBER",
    "Calls that a user may have open at once on one connection",
)
.or("1024");
pub(super) const EXTERNAL_MESSAGE: Flag = Flag::single(
    "external-message",
    "BYTES",
    "The largest message that is taken from a user, such as 4MiB",
)
.or("4MiB");
pub(super) const EXTERNAL_CONNECTIONS: Flag = Flag::single(
    "external-connections",
    "NUMBER",
    "Connections of users at once",
)
.or("4096");
pub(super) const EXTERNAL_PER_ADDRESS: Flag = Flag::single(
    "external-per-address",
    "NUMBER",
    "Connections of users at once from one address, or from one /64 of IPv6",
)
.or("512");
pub(super) const EXTERNAL_ACCEPT_RATE: Flag = Flag::single(
    "external-accept-rate",
    "NUMBER",
    "Connections that are accepted in a second; from one address a quarter of it",
)
.or("1000");
pub(super) const EXTERNAL_IDLE: Flag = Flag::single(
    "external-idle",
    "DURATION",
    "A user's connection without calls is told to go after so long",
)
.or("5m");
pub(super) const EXTERNAL_STALL: Flag = Flag::single(
    "external-stall",
    "DURATION",
    "An answer of which a user takes nothing for so long is broken off",
)
.or("30s");
pub(super) const EXTERNAL_QUIET: Flag = Flag::single(
    "external-quiet",
    "DURATION",
    "A user's call of which nothing moves for so long, neither way, ends",
)
.or("5m");
pub(super) const EXTERNAL_DEADLINE: Flag = Flag::single(
    "external-deadline",
    "DURATION",
    "The longest that a user's call may take, streams too, whatever it asks for",
)
.or("1h");
pub(super) const EXTERNAL_KEEPALIVE: Flag = Flag::single(
    "external-keepalive",
    "DURATION",
    "A user's connection is asked for a sign of life so often, by PING",
)
.or("1m");
pub(super) const EXTERNAL_CALLS: Flag = Flag::single(
    "external-calls",
    "NUMBER",
    "Calls of users at once from one address, or from one /64 of IPv6",
)
.or("1024");
pub(super) const EXTERNAL_MEMORY: Flag = Flag::single(
    "external-memory",
    "BYTES",
    "What is held for all users' calls at most, from 2MiB; for one address a quarter of what others leave",
)
.or("512MiB");
pub(super) const LISTEN: Flag = Flag::pairs(
    "listen",
    "CLASS=ADDRESS",
    "Where peers call, for each connection class of the project's own",
);
pub(super) const ADMIN: Flag =
    Flag::single("admin", "ADDRESS", "Admin pages over HTTP").or("127.0.0.1:15000");
pub(super) const ADVERTISE: Flag = Flag::single(
    "advertise",
    "HOST[:PORT]",
    "What peers dial; if absent the bound address, or the local one of the way to control",
);
pub(super) const IDENTITY: Flag = Flag::single(
    "identity",
    "SPIFFE-ID",
    "Who control is asked to certify; if absent, who the token is for, or the node's own account",
);
pub(super) const KEEP_IDENTITY: Flag = Flag::switch(
    "keep-identity",
    "Keep key and certificate in --data, so that a restart needs no other token",
);
pub(super) const IDENTITY_CHAIN: Flag = Flag::single(
    "identity-chain",
    "FILE",
    "This node's certificate and those between it and a root (PEM); read again when it changes",
);
pub(super) const IDENTITY_KEY: Flag = Flag::single(
    "identity-key",
    "FILE",
    "Its private key (PEM), for its owner alone: mode 600",
);
pub(super) const IDENTITY_ROOTS: Flag = Flag::single(
    "identity-roots",
    "FILE",
    "The roots by which peers' certificates are judged (PEM)",
);
pub(super) const SPIFFE_SOCKET: Flag = Flag::single(
    "spiffe-socket",
    "ADDRESS",
    "A SPIFFE agent that gives this node's certificate: unix:///path or tcp://127.0.0.1:port",
);
pub(super) const SPIFFE_HINT: Flag = Flag::single(
    "spiffe-hint",
    "HINT",
    "Which of the agent's identities is meant, where it has several; if absent, the first",
);
pub(super) const TOKEN_FILE: Flag = Flag::single(
    "token-file",
    "FILE",
    "A token of `sidelane token`, mode 600; if absent SIDELANE_TOKEN, or control's join file",
);
pub(super) const ACCOUNT_TOKEN: Flag = Flag::single(
    "service-account-token",
    "FILE",
    "A Kubernetes service account's token, for audience sidelane, shown to control; read each time",
);
pub(super) const CONTROL_ROOTS: Flag = Flag::single(
    "control-roots",
    "FILE",
    "The roots by which control is known then (PEM), as `sidelane root show` prints them",
);
pub(super) const DATA: Flag = Flag::single(
    "data",
    "FOLDER",
    "Snapshot, node id and generation; if absent, sidelane/NODE below the user's state folder",
);
pub(super) const LOCALITY: Flag = Flag::single("locality", "REGION/ZONE", "Where this node stands");
pub(super) const WEIGHT: Flag = Flag::single(
    "weight",
    "NUMBER",
    "Share of the calls in relation to other nodes, 1 to 10000",
)
.or("100");
pub(super) const UNKNOWN: Flag = Flag::single(
    "unknown",
    "refuse|passthrough",
    "Calls to services that nobody knows: they fail, or go on where they were meant to go",
)
.or("passthrough");
pub(super) const REQUIRE_RULES: Flag = Flag::switch(
    "require-rules",
    "Refuse calls to services without a rule of their own",
);
pub(super) const GRACE: Flag = Flag::single(
    "grace",
    "DURATION",
    "How long calls in flight may take when it ends",
)
.or("30s");
pub(super) const LABEL: Flag = Flag::pairs(
    "label",
    "KEY=VALUE",
    "What is said of the local services; traffic splits tell versions apart by it",
);
pub(super) const HEALTH: Flag = Flag::single(
    "health",
    "grpc|tcp",
    "How local services are looked at: by grpc.health.v1 where they have it, or by connecting alone",
)
.or("grpc");
pub(super) const HEALTH_INTERVAL: Flag = Flag::single(
    "health-interval",
    "DURATION",
    "From one look at a healthy local service to the next",
)
.or("10s");
pub(super) const HEALTH_TIMEOUT: Flag =
    Flag::single("health-timeout", "DURATION", "How long one look may take").or("5s");
pub(super) const UNHEALTHY_AFTER: Flag = Flag::single(
    "unhealthy-after",
    "LOOKS",
    "Looks without an answer after which a local service gets no more calls",
)
.or("3");
pub(super) const HEALTHY_AFTER: Flag = Flag::single(
    "healthy-after",
    "LOOKS",
    "Good looks after which it gets calls again",
)
.or("2");
pub(super) const LINK_MAX_AGE: Flag = Flag::single(
    "link-max-age",
    "DURATION",
    "How old a connection to a peer or a local service becomes, give or take a tenth",
)
.or("30m");
pub(super) const DURATION_BUCKETS: Flag = Flag::list(
    "duration-buckets",
    "SECONDS,…",
    "Upper bounds of the histograms of how long calls take, ascending, at most 32",
)
.or("0.0005,0.001,0.0025,0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10");
pub(super) const SIZE_BUCKETS: Flag = Flag::list(
    "size-buckets",
    "BYTES,…",
    "Upper bounds of the histograms of what calls carry, ascending, at most 32",
)
.or("64,256,1KiB,4KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB");
pub(super) const ACCESS_LOG: Flag = Flag::single(
    "access-log",
    "off|errors|all|SHARE",
    "Which calls are logged, a line of JSON each: none, those that fail, all, or such as 0.01 of them",
)
.or("off");
pub(super) const ACCESS_LOG_FILE: Flag = Flag::single(
    "access-log-file",
    "FILE|-",
    "Where these lines go: a file, opened anew where it is moved, or - for the standard output",
)
.or("-");
pub(super) const OTLP: Flag = Flag::single(
    "otlp",
    "URL",
    "Where traces go: a collector that takes OTLP over gRPC, such as http://127.0.0.1:4317",
);
pub(super) const SAMPLING: Flag = Flag::single(
    "sampling",
    "RATIO",
    "Share of the traces that begin here and are recorded, 0 to 1; others' are as they say",
)
.or("0.01");
pub(super) const SAMPLE_ERRORS: Flag = Flag::switch(
    "sample-errors",
    "Record each call that fails, whatever became of its trace",
);

pub(super) const OTLP_SERVICE: Flag = Flag::single(
    "otlp-service",
    "NAME",
    "The service.name of this sidecar's spans, such as its app's; the node where nothing is said",
);

/// The table of all flags, and what `--help` says of the program.
pub const PROGRAM: Program = Program {
    name: "sidelane-sidecar",
    version: env!("CARGO_PKG_VERSION"),
    about: "Sidelane's data plane: stands beside a service and carries its gRPC calls.",
    flags: &[
        NODE,
        CONTROL,
        NETWORK,
        SERVE,
        OUTBOUND,
        INTERNAL,
        EXTERNAL,
        TLS_CERT,
        TLS_KEY,
        TLS_MIN,
        EXTERNAL_STREAMS,
        EXTERNAL_MESSAGE,
        EXTERNAL_CONNECTIONS,
        EXTERNAL_PER_ADDRESS,
        EXTERNAL_ACCEPT_RATE,
        EXTERNAL_IDLE,
        EXTERNAL_STALL,
        EXTERNAL_QUIET,
        EXTERNAL_DEADLINE,
        EXTERNAL_KEEPALIVE,
        EXTERNAL_CALLS,
        EXTERNAL_MEMORY,
        LISTEN,
        ADMIN,
        ADVERTISE,
        TRUST,
        IDENTITY,
        KEEP_IDENTITY,
        IDENTITY_CHAIN,
        IDENTITY_KEY,
        IDENTITY_ROOTS,
        SPIFFE_SOCKET,
        SPIFFE_HINT,
        TOKEN_FILE,
        ACCOUNT_TOKEN,
        CONTROL_ROOTS,
        DATA,
        LOCALITY,
        WEIGHT,
        LABEL,
        HEALTH,
        HEALTH_INTERVAL,
        HEALTH_TIMEOUT,
        UNHEALTHY_AFTER,
        HEALTHY_AFTER,
        UNKNOWN,
        REQUIRE_RULES,
        GRACE,
        LINK_MAX_AGE,
        DURATION_BUCKETS,
        SIZE_BUCKETS,
        ACCESS_LOG,
        ACCESS_LOG_FILE,
        OTLP,
        SAMPLING,
        SAMPLE_ERRORS,
        OTLP_SERVICE,
        settings::CONFIG,
        LOG,
    ],
};
