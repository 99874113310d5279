//! Every flag in its three spellings, and every refusal by its exact text.

use super::*;
use crate::health::CheckBy;

mod origins;

const HOME: (&str, &str) = ("HOME", "/home/me");

fn start(
    arguments: &[&str],
    variables: &[(&str, &str)],
    file: &str,
) -> Result<Start<Loaded>, SettingsError> {
    let environment = Environment::new([HOME].iter().chain(variables).copied());
    Config::load(arguments, &environment, |_: &Path| Ok(file.to_owned()))
}

fn run(start: Start<Loaded>) -> Loaded {
    match start {
        Start::Run(loaded) => loaded,
        Start::Print(text) => panic!("printed {text}"),
    }
}

fn loaded(arguments: &[&str]) -> Loaded {
    run(start(arguments, &[], "").unwrap())
}

fn error(arguments: &[&str]) -> String {
    start(arguments, &[], "").unwrap_err().to_string()
}

#[test]
fn nothing_given_is_a_good_configuration() {
    let Loaded {
        config, warnings, ..
    } = loaded(&[]);
    assert_eq!(
        config,
        Config {
            node: None,
            control: vec!["127.0.0.1:15010".parse().unwrap()],
            network: Network::new("default").unwrap(),
            serve: vec![],
            outbound: vec!["127.0.0.1:15001".parse().unwrap()],
            internal: "127.0.0.1:15006".parse().unwrap(),
            external: None,
            users: Users {
                pair: None,
                oldest: Oldest::Tls12,
                limits: Limits::default(),
            },
            listen: Vec::new(),
            admin: "127.0.0.1:15000".parse().unwrap(),
            advertise: None,
            trust: Trust::Strict,
            identity: None,
            spiffe: None,
            joins: Some(Joins {
                account: None,
                token_file: None,
                token: None,
                runtime: RuntimeFolder::of(&Environment::default()),
                identity: None,
                keep: false,
            }),
            data: "/home/me/.local/state/sidelane/sidecar-127.0.0.1-15001".into(),
            locality: Locality::default(),
            weight: 100,
            labels: BTreeMap::new(),
            checks: Checks::default(),
            unknown: Unknown::Passthrough,
            require_rules: false,
            grace: Duration::from_secs(30),
            link_max_age: crate::lane::MAX_AGE,
            buckets: Buckets::default(),
            access: None,
            traces: None,
            log: "info".to_owned(),
        }
    );
    assert_eq!(warnings, [""; 0]);
}

/// Every flag that can be set to something: the flag, a text, and what the file says for it.
const EVERY: [(&str, &str, &str); 49] = [
    ("node", "orders-1", "orders-1"),
    ("control", "c1:15010,c2:15010", "[c1:15010, c2:15010]"),
    ("network", "lab", "lab"),
    (
        "serve",
        "shop.v1.Orders,shop.v1.Carts=unix:/run/o.sock",
        "{\"shop.v1.Orders,shop.v1.Carts\": unix:/run/o.sock}",
    ),
    (
        "outbound",
        "127.0.0.1:1,unix:/run/s.sock",
        "[127.0.0.1:1, unix:/run/s.sock]",
    ),
    ("internal", "127.0.0.1:2", "127.0.0.1:2"),
    ("external", "127.0.0.1:3", "127.0.0.1:3"),
    ("tls-cert", "/run/tls/tls.crt", "/run/tls/tls.crt"),
    ("tls-key", "/run/tls/tls.key", "/run/tls/tls.key"),
    ("tls-min", "1.3", "'1.3'"),
    ("external-streams", "7", "7"),
    ("external-message", "16KiB", "16KiB"),
    ("external-connections", "90", "90"),
    ("external-per-address", "9", "9"),
    ("external-accept-rate", "30", "30"),
    ("external-idle", "2m", "2m"),
    ("external-stall", "3s", "3s"),
    ("external-quiet", "4m", "4m"),
    ("external-deadline", "2h", "2h"),
    ("external-keepalive", "20s", "20s"),
    ("external-calls", "11", "11"),
    ("external-memory", "64MiB", "64MiB"),
    ("listen", "partner=127.0.0.1:5", "{partner: 127.0.0.1:5}"),
    ("admin", "127.0.0.1:4", "127.0.0.1:4"),
    ("advertise", "orders.lab:15006", "orders.lab:15006"),
    ("trust", "strict", "strict"),
    ("identity-chain", "/run/id/chain.pem", "/run/id/chain.pem"),
    ("identity-key", "/run/id/key.pem", "/run/id/key.pem"),
    ("identity-roots", "/run/id/roots.pem", "/run/id/roots.pem"),
    ("data", "/var/lib/sidelane", "/var/lib/sidelane"),
    (
        "locality",
        "eu-central/eu-central-1a",
        "eu-central/eu-central-1a",
    ),
    ("weight", "300", "300"),
    ("label", "version=v2", "{version: v2}"),
    ("health", "tcp", "tcp"),
    ("health-interval", "3s", "3s"),
    ("health-timeout", "700ms", "700ms"),
    ("unhealthy-after", "4", "4"),
    ("healthy-after", "1", "1"),
    ("unknown", "refuse", "refuse"),
    ("grace", "1500ms", "1500ms"),
    ("link-max-age", "90s", "90s"),
    ("duration-buckets", "0.1,2", "['0.1', '2']"),
    ("size-buckets", "1KiB,1MiB", "[1KiB, 1MiB]"),
    ("access-log", "0.5", "'0.5'"),
    ("access-log-file", "/var/log/calls", "/var/log/calls"),
    ("otlp", "http://otel:4317", "http://otel:4317"),
    ("sampling", "0.25", "0.25"),
    ("otlp-service", "orders", "orders"),
    (
        "log",
        "warn,sidelane_sidecar=debug",
        "warn,sidelane_sidecar=debug",
    ),
];

#[test]
fn every_flag_has_three_spellings() {
    let expected = Config {
        node: Some(NodeId::new("orders-1").unwrap()),
        control: vec!["c1:15010".parse().unwrap(), "c2:15010".parse().unwrap()],
        network: Network::new("lab").unwrap(),
        serve: vec![Serve {
            services: vec![
                ServiceName::new("shop.v1.Orders").unwrap(),
                ServiceName::new("shop.v1.Carts").unwrap(),
            ],
            address: DialAddress::Unix("/run/o.sock".into()),
        }],
        outbound: vec![
            ListenAddress::Tcp("127.0.0.1:1".parse().unwrap()),
            ListenAddress::Unix("/run/s.sock".into()),
        ],
        internal: "127.0.0.1:2".parse().unwrap(),
        external: Some("127.0.0.1:3".parse().unwrap()),
        users: Users {
            pair: Some(Pair {
                certificate: "/run/tls/tls.crt".into(),
                key: "/run/tls/tls.key".into(),
            }),
            oldest: Oldest::Tls13,
            limits: Limits {
                streams: 7,
                message: 16 * 1024,
                connections: 90,
                per_address: 9,
                accept_rate: 30,
                idle: Duration::from_secs(120),
                stall: Duration::from_secs(3),
                quiet: Duration::from_secs(240),
                deadline: Duration::from_secs(7_200),
                keepalive: Duration::from_secs(20),
                calls_of_address: 11,
                memory: 64 << 20,
            },
        },
        listen: vec![("partner".to_owned(), "127.0.0.1:5".parse().unwrap())],
        admin: "127.0.0.1:4".parse().unwrap(),
        advertise: Some(Advertise {
            host: "orders.lab".to_owned(),
            port: Some(15006),
        }),
        trust: Trust::Strict,
        identity: Some(Files {
            chain: "/run/id/chain.pem".into(),
            key: "/run/id/key.pem".into(),
            roots: "/run/id/roots.pem".into(),
        }),
        spiffe: None,
        joins: None,
        data: "/var/lib/sidelane".into(),
        locality: Locality {
            region: "eu-central".into(),
            zone: "eu-central-1a".into(),
        },
        weight: 300,
        labels: BTreeMap::from([("version".to_owned(), "v2".to_owned())]),
        checks: Checks {
            by: CheckBy::Tcp,
            interval: Duration::from_secs(3),
            timeout: Duration::from_millis(700),
            unhealthy_after: 4,
            healthy_after: 1,
        },
        unknown: Unknown::Refuse,
        require_rules: true,
        grace: Duration::from_millis(1500),
        link_max_age: Duration::from_secs(90),
        buckets: Buckets {
            durations: [100_000_000, 2_000_000_000].into(),
            sizes: [1 << 10, 1 << 20].into(),
        },
        access: Some((Which::Share(0.5), To::File("/var/log/calls".into()))),
        traces: Some(Traces {
            url: "http://otel:4317".to_owned(),
            share: Ratio::new(0.25).unwrap(),
            errors: false,
            service: Some("orders".to_owned()),
        }),
        log: "warn,sidelane_sidecar=debug".to_owned(),
    };

    let mut arguments = vec!["--require-rules".to_owned()];
    let mut variables = vec![("SIDELANE_REQUIRE_RULES".to_owned(), "true".to_owned())];
    let mut file = "require-rules: true\n".to_owned();
    for (flag, text, yaml) in EVERY {
        arguments.extend([format!("--{flag}"), text.to_owned()]);
        variables.push((variable(flag), text.to_owned()));
        file.push_str(&format!("{flag}: {yaml}\n"));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();

    let by_flag = run(start(&arguments, &[], "").unwrap());
    assert_eq!(by_flag.config, expected);
    let by_variable = run(start(&[], &variables, "").unwrap());
    assert_eq!(by_variable.config, expected);
    let by_file = run(start(&["--config", "mesh.yaml"], &[], &file).unwrap());
    assert_eq!(by_file.config, expected);

    for (line, (flag, ..)) in EVERY.iter().enumerate() {
        let origin = |loaded: &Loaded| loaded.settings.describe()[flag]["origin"].clone();
        assert_eq!(origin(&by_flag), "command line");
        assert_eq!(origin(&by_variable), variable(flag).as_str());
        assert_eq!(origin(&by_file), format!("mesh.yaml:{}", line + 2).as_str());
    }
}

fn variable(flag: &str) -> String {
    format!("SIDELANE_{}", flag.to_uppercase().replace('-', "_"))
}

#[test]
fn the_table_is_the_contract() {
    let names: Vec<&str> = PROGRAM.flags.iter().map(|flag| flag.name).collect();
    assert_eq!(
        names,
        [
            "node",
            "control",
            "network",
            "serve",
            "outbound",
            "internal",
            "external",
            "tls-cert",
            "tls-key",
            "tls-min",
            "external-streams",
            "external-message",
            "external-connections",
            "external-per-address",
            "external-accept-rate",
            "external-idle",
            "external-stall",
            "external-quiet",
            "external-deadline",
            "external-keepalive",
            "external-calls",
            "external-memory",
            "listen",
            "admin",
            "advertise",
            "trust",
            "identity",
            "keep-identity",
            "identity-chain",
            "identity-key",
            "identity-roots",
            "spiffe-socket",
            "spiffe-hint",
            "token-file",
            "service-account-token",
            "control-roots",
            "data",
            "locality",
            "weight",
            "label",
            "health",
            "health-interval",
            "health-timeout",
            "unhealthy-after",
            "healthy-after",
            "unknown",
            "require-rules",
            "grace",
            "link-max-age",
            "duration-buckets",
            "size-buckets",
            "access-log",
            "access-log-file",
            "otlp",
            "sampling",
            "sample-errors",
            "otlp-service",
            "config",
            "log",
        ]
    );
}

#[test]
fn what_cannot_take_effect_is_refused_with_the_reason() {
    let cases: [(&[&str], &str); 9] = [
        (
            &["--tls-min", "1.3"],
            "--tls-min \"1.3\" (command line): no user can come: say where, by --external ADDRESS",
        ),
        (
            &["--external", "off", "--external-idle", "1m"],
            "--external-idle \"1m\" (command line): no user can come: say where, by --external ADDRESS",
        ),
        (
            &["--control", "auto"],
            "--control \"auto\" (command line): not built yet: name the addresses of control, HOST:PORT,…",
        ),
        (
            &["--trust", "disabled", "--keep-identity"],
            "--keep-identity \"true\" (command line): no certificate is asked for in trust mode disabled; remove this setting, or say --trust strict",
        ),
        (
            &["--trust", "strict", "--identity-key", "key.pem"],
            "--identity-key \"key.pem\" (command line): --identity-chain, --identity-key and --identity-roots come together; name all three",
        ),
        (
            &["--trust", "disabled", "--identity-roots", "roots.pem"],
            "--identity-roots \"roots.pem\" (command line): no certificate is shown in trust mode disabled; say --trust strict or permissive, or remove this setting",
        ),
        (
            &["--trust", "disabled", "--identity", "spiffe://a/ns/b/sa/c"],
            "--identity \"spiffe://a/ns/b/sa/c\" (command line): no certificate is asked for in trust mode disabled; remove this setting, or say --trust strict",
        ),
        (
            &["--trust", "disabled", "--token-file", "orders-1.token"],
            "--token-file \"orders-1.token\" (command line): no certificate is asked for in trust mode disabled; remove this setting, or say --trust strict",
        ),
        (
            &[
                "--identity-chain",
                "a",
                "--identity-key",
                "b",
                "--identity-roots",
                "c",
                "--token-file",
                "orders-1.token",
            ],
            "--token-file \"orders-1.token\" (command line): the certificate comes from files, and control is not asked for one; remove one of the two",
        ),
    ];
    for (arguments, message) in cases {
        assert_eq!(error(arguments), message);
    }
}

#[test]
fn wrong_values_are_refused_with_what_fits() {
    let long = "x".repeat(254);
    let cases: [(&[&str], &str); 43] = [
        (
            &["--node", "or ders"],
            "--node \"or ders\" (command line): `or ders` is not a node id (letters, digits, `.`, `_`, `-`)",
        ),
        (
            &["--node", ".."],
            "--node \"..\" (command line): a node's name needs more than dots",
        ),
        (
            &["--node", &long],
            &format!("--node {long:?} (command line): has 254 bytes, at most 253 are allowed"),
        ),
        (
            &["--label", "v2"],
            "--label \"v2\" (command line): write KEY=VALUE, such as version=v2",
        ),
        (
            &["--label", "version= "],
            "--label \"version= \" (command line): the value is empty; write KEY=VALUE",
        ),
        (
            &["--label", "version=1", "--label", "version=2"],
            "--label \"version=2\" (command line): label `version` is set by --label \"version=1\" (command line) already",
        ),
        (
            &["--label", &format!("{}=x", "k".repeat(257))],
            &format!(
                "--label \"{}=x\" (command line): a key has at most 256 bytes",
                "k".repeat(257)
            ),
        ),
        (
            &["--health", "http"],
            "--health \"http\" (command line): must be one of grpc, tcp; the nearest is tcp",
        ),
        (
            &["--health-interval", "0s"],
            "--health-interval \"0s\" (command line): must be from 50ms to 1h",
        ),
        (
            &["--health-interval", "61m"],
            "--health-interval \"61m\" (command line): must be from 50ms to 1h",
        ),
        (
            &["--health-timeout", "0ms"],
            "--health-timeout \"0ms\" (command line): must be from 1ms to 1h",
        ),
        (
            &["--unhealthy-after", "0"],
            "--unhealthy-after \"0\" (command line): must be a number from 1 to 100",
        ),
        (
            &["--healthy-after", "101"],
            "--healthy-after \"101\" (command line): must be a number from 1 to 100",
        ),
        (
            &["--link-max-age", "999ms"],
            "--link-max-age \"999ms\" (command line): must be from 1s to 24h",
        ),
        (
            &["--link-max-age", "25h"],
            "--link-max-age \"25h\" (command line): must be from 1s to 24h",
        ),
        (
            &["--network", "a/b"],
            "--network \"a/b\" (command line): `a/b` is not a network name (letters, digits, `.`, `_`, `-`)",
        ),
        (
            &["--control", "c1"],
            "--control \"c1\" (command line): has no port; write c1:PORT",
        ),
        (
            &["--control", "c1:15010,http://c2:15010"],
            "--control \"http://c2:15010\" (command line): has a scheme; write only the host and the port: c2:15010",
        ),
        (
            &["--control", "c1:0"],
            "--control \"c1:0\" (command line): port 0 cannot be dialled; name the port that the other side listens on",
        ),
        (
            &["--serve", "shop.v1.Orders"],
            "--serve \"shop.v1.Orders\" (command line): write SERVICE=ADDRESS, such as shop.v1.Orders=127.0.0.1:50051",
        ),
        (
            &["--serve", "/shop.v1.Orders=127.0.0.1:50051"],
            "--serve \"/shop.v1.Orders=127.0.0.1:50051\" (command line): a service `/shop.v1.Orders` is not a gRPC service name such as `shop.v1.Orders`",
        ),
        (
            &["--serve", "a.A,=127.0.0.1:50051"],
            "--serve \"a.A,=127.0.0.1:50051\" (command line): a service is missing",
        ),
        (
            &["--serve", "a.A=50051"],
            "--serve \"a.A=50051\" (command line): the address \"50051\" has no host; write 127.0.0.1:50051, or 0.0.0.0:50051 for every interface",
        ),
        (
            &["--serve", "a.A,a.B=h:1", "--serve", "a.B=h:2"],
            "--serve \"a.B=h:2\" (command line): a.B is served by --serve \"a.A,a.B=h:1\" (command line) already",
        ),
        (
            &["--serve", "a.A,a.A=h:1"],
            "--serve \"a.A,a.A=h:1\" (command line): a.A is served by --serve \"a.A,a.A=h:1\" (command line) already",
        ),
        (
            &["--serve", "a.A=localhost:15001"],
            "--serve \"a.A=localhost:15001\" (command line): leads back to this sidecar: --outbound \"127.0.0.1:15001\" (default) listens there",
        ),
        (
            &[
                "--outbound",
                "unix:/run/s.sock",
                "--serve",
                "a.A=unix:/run/s.sock",
            ],
            "--serve \"a.A=unix:/run/s.sock\" (command line): leads back to this sidecar: --outbound unix:/run/s.sock listens there",
        ),
        (
            &["--outbound", "unix:/run/s.sock,unix:/run/s.sock"],
            "--outbound \"unix:/run/s.sock\" (command line): is there twice; keep one of them",
        ),
        (
            &["--internal", "unix:/run/s.sock"],
            "--internal \"unix:/run/s.sock\" (command line): must be a TCP address; a unix socket cannot be used here",
        ),
        (
            &["--external", "on"],
            "--external \"on\" (command line): has no port; write on:PORT",
        ),
        (
            &["--listen", "127.0.0.1:5"],
            "--listen \"127.0.0.1:5\" (command line): write CLASS=ADDRESS, such as partner=0.0.0.0:15007",
        ),
        (
            &["--listen", "Internal=127.0.0.1:5"],
            "--listen \"Internal=127.0.0.1:5\" (command line): class Internal has a flag of its own: write --internal 127.0.0.1:5",
        ),
        (
            &["--listen", "a=127.0.0.1:5", "--listen", "a=127.0.0.1:6"],
            "--listen \"a=127.0.0.1:6\" (command line): class `a` listens by --listen \"a=127.0.0.1:5\" (command line) already",
        ),
        (
            &["--listen", "a=127.0.0.1:15001"],
            "--listen \"a=127.0.0.1:15001\" (command line): --outbound \"127.0.0.1:15001\" (default) listens there, too; give each its own",
        ),
        (
            &["--admin", "127.0.0.1:15001"],
            "--admin \"127.0.0.1:15001\" (command line): --outbound \"127.0.0.1:15001\" (default) listens there, too; give each its own",
        ),
        (
            &["--advertise", "0.0.0.0:15006"],
            "--advertise \"0.0.0.0:15006\" (command line): no peer can dial an unspecified address; name one that they can",
        ),
        (
            &["--trust", "stric"],
            "--trust \"stric\" (command line): must be one of strict, permissive, disabled; the nearest is strict",
        ),
        (
            &["--unknown", "refused"],
            "--unknown \"refused\" (command line): must be one of refuse, passthrough; the nearest is refuse",
        ),
        (
            &["--locality", "eu-central"],
            "--locality \"eu-central\" (command line): not a locality; write REGION/ZONE, such as eu-central/eu-central-1a",
        ),
        (
            &["--weight", "0"],
            "--weight \"0\" (command line): not a weight; write a whole number from 1 to 10000, such as 300",
        ),
        (
            &["--weight", "10001"],
            "--weight \"10001\" (command line): not a weight; write a whole number from 1 to 10000, such as 300",
        ),
        (
            &["--grace", "30"],
            "--grace \"30\" (command line): has no unit; write 30s for seconds or 30ms for milliseconds",
        ),
        (
            &["--log", "verbose"],
            "--log \"verbose\" (command line): \"verbose\" is not a log level; the levels are off, error, warn, info, debug, trace; the nearest is error",
        ),
    ];
    for (arguments, message) in cases {
        assert_eq!(error(arguments), message);
    }
}

#[test]
fn a_service_named_twice_in_the_file_names_both_lines() {
    let file = "serve:\n  a.A: h:1\n  a.B: h:2\n  a.A: h:3\n";
    assert_eq!(
        start(&["--config", "mesh.yaml"], &[], file)
            .unwrap_err()
            .to_string(),
        "--serve \"a.A=h:3\" (mesh.yaml:4): a.A is served by --serve \"a.A=h:1\" (mesh.yaml:2) already"
    );
}

#[test]
fn external_is_off_unless_given() {
    assert_eq!(loaded(&["--external", "off"]).config.external, None);
    let given = loaded(&["--external", "127.0.0.1:0"]).config.external;
    assert_eq!(given, Some("127.0.0.1:0".parse().unwrap()));
}

#[test]
fn advertised_hosts_may_leave_the_port_out() {
    let advertised = |text: &str| {
        let Advertise { host, port } = loaded(&["--advertise", text]).config.advertise.unwrap();
        (host, port)
    };
    assert_eq!(advertised("orders.lab"), ("orders.lab".to_owned(), None));
    assert_eq!(
        advertised("10.0.0.7:15006"),
        ("10.0.0.7".to_owned(), Some(15006))
    );
    for bare in ["::1", "[::1]"] {
        assert_eq!(advertised(bare), ("::1".to_owned(), None));
    }
    assert_eq!(
        advertised("[fd00::7]:15006"),
        ("fd00::7".to_owned(), Some(15006))
    );
}

#[test]
fn data_goes_below_the_state_folder() {
    let data = |arguments: &[&str], variables: &[(&str, &str)]| {
        let environment = Environment::new(variables.iter().copied());
        run(Config::load(arguments, &environment, |_: &Path| Ok(String::new())).unwrap())
    };
    let path = |arguments: &[&str], variables: &[(&str, &str)]| {
        data(arguments, variables).config.data.display().to_string()
    };
    let node = ["--node", "orders-1"];
    let state = ("XDG_STATE_HOME", "/state/");
    assert_eq!(path(&node, &[state, HOME]), "/state/sidelane/orders-1");
    assert_eq!(
        path(&node, &[HOME]),
        "/home/me/.local/state/sidelane/orders-1"
    );
    assert_eq!(
        path(&node, &[("XDG_STATE_HOME", "relative"), HOME]),
        "/home/me/.local/state/sidelane/orders-1",
        "the XDG specification wants relative paths ignored"
    );
    assert_eq!(
        path(&["--outbound", "unix:/run/a.sock"], &[HOME]),
        "/home/me/.local/state/sidelane/sidecar-unix--run-a.sock"
    );
    assert_eq!(path(&["--data", "here"], &[HOME]), "here");

    let homeless = data(&node, &[("TMPDIR", "/scratch")]);
    assert_eq!(
        homeless.config.data,
        Path::new("/scratch/sidelane/orders-1")
    );
    assert_eq!(
        homeless.warnings,
        [
            "neither XDG_STATE_HOME nor HOME names a folder: the node's id and snapshot go to \
          /scratch/sidelane/orders-1, which may not outlive a restart; name a folder with --data"
        ]
    );
    assert_eq!(
        data(&node, &[]).config.data,
        Path::new("/tmp/sidelane/orders-1")
    );
    assert_eq!(
        homeless.settings.describe()["data"],
        serde_json::json!({ "value": "/scratch/sidelane/orders-1", "origin": "default" })
    );
}

#[test]
fn a_nameless_node_on_any_port_must_name_its_folder() {
    let any = ["--outbound", "127.0.0.1:0"];
    assert_eq!(
        error(&any),
        "--outbound \"127.0.0.1:0\" (command line): with any free port there is nothing to know \
         this node by after a restart; name it with --node, or its folder with --data"
    );
    loaded(&[any[0], any[1], "--node", "orders-1"]);
    loaded(&[any[0], any[1], "--data", "here"]);
}

#[test]
fn listeners_beyond_loopback_are_told() {
    let arguments = [
        "--trust",
        "disabled",
        "--outbound",
        "0.0.0.0:15001,unix:/run/s.sock",
        "--internal",
        "10.0.0.7:15006",
        "--external",
        "10.0.0.7:15443",
        "--admin",
        "[::]:15000",
    ];
    let told = |flag: &str, text: &str, what: &str| {
        format!(
            "--{flag} {text:?} (command line) is not loopback: with trust disabled, whoever \
             reaches it can {what}"
        )
    };
    assert_eq!(
        loaded(&arguments).warnings,
        [
            told("outbound", "0.0.0.0:15001", "call in this node's name"),
            told(
                "internal",
                "10.0.0.7:15006",
                "call its services, as any node"
            ),
            told(
                "external",
                "10.0.0.7:15443",
                "call its external services, as any node"
            ),
            told(
                "admin",
                "[::]:15000",
                "see its figures, settings and calls, and change nothing"
            ),
        ]
    );
}
