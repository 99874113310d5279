//! Every flag in its three spellings, and every refusal by its exact text.

use super::*;

fn start(
    arguments: &[&str],
    variables: &[(&str, &str)],
    file: &str,
) -> Result<Start<Loaded>, SettingsError> {
    let environment = Environment::new(variables.iter().copied());
    Config::load(arguments, &environment, |_: &Path| Ok(file.to_owned()))
}

fn loaded(arguments: &[&str], variables: &[(&str, &str)], file: &str) -> Loaded {
    match start(arguments, variables, file).unwrap() {
        Start::Run(loaded) => loaded,
        Start::Print(text) => panic!("printed {text}"),
    }
}

#[test]
fn nothing_given_is_a_good_configuration() {
    let Loaded {
        config, warnings, ..
    } = loaded(&[], &[], "");
    assert_eq!(
        config,
        Config {
            listen: "127.0.0.1:15010".parse().unwrap(),
            admin: "127.0.0.1:15014".parse().unwrap(),
            data: "./state".into(),
            fixed: None,
            lease: Duration::from_secs(10),
            trust: Trust::Strict,
            trust_domain: TrustDomain::default(),
            leaf_life: Duration::from_secs(3_600),
            renewal_grace: Duration::from_secs(86_400),
            outside: None,
            kubernetes: None,
            runtime: RuntimeFolder::of(&Environment::default()),
            grace: Duration::from_secs(10),
            log: "info".to_owned(),
        }
    );
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn every_flag_has_three_spellings() {
    let every = [
        ("listen", "127.0.0.1:1"),
        ("admin", "127.0.0.1:2"),
        ("data", "/var/lib/control"),
        ("fixed", "/etc/sidelane/fixed.yaml"),
        ("lease", "2s"),
        ("trust", "permissive"),
        ("trust-domain", "mesh.example"),
        ("leaf-life", "4s"),
        ("renewal-grace", "5s"),
        ("kubernetes", "10.0.0.1:6443"),
        ("kubernetes-ca", "/etc/cluster.crt"),
        ("kubernetes-token", "/etc/cluster.token"),
        ("grace", "1m"),
        ("log", "debug"),
    ];
    let expected = Config {
        listen: "127.0.0.1:1".parse().unwrap(),
        admin: "127.0.0.1:2".parse().unwrap(),
        data: "/var/lib/control".into(),
        fixed: Some("/etc/sidelane/fixed.yaml".into()),
        lease: Duration::from_secs(2),
        trust: Trust::Permissive,
        trust_domain: TrustDomain::new("mesh.example").unwrap(),
        leaf_life: Duration::from_secs(4),
        renewal_grace: Duration::from_secs(5),
        outside: None,
        kubernetes: Some(Kubernetes {
            server: "10.0.0.1:6443".parse().unwrap(),
            ca: "/etc/cluster.crt".into(),
            token: "/etc/cluster.token".into(),
        }),
        runtime: RuntimeFolder::of(&Environment::default()),
        grace: Duration::from_secs(60),
        log: "debug".to_owned(),
    };
    let arguments: Vec<String> = every
        .iter()
        .map(|(flag, text)| format!("--{flag}={text}"))
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let variables: Vec<(String, &str)> = every
        .iter()
        .map(|(flag, text)| {
            (
                format!("SIDELANE_{}", flag.to_uppercase().replace('-', "_")),
                *text,
            )
        })
        .collect();
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, text)| (name.as_str(), *text))
        .collect();
    let file: Vec<String> = every
        .iter()
        .map(|(flag, text)| format!("{flag}: {text}\n"))
        .collect();

    let by_flag = loaded(&arguments, &[], "");
    assert_eq!(by_flag.config, expected);
    let by_variable = loaded(&[], &variables, "");
    assert_eq!(by_variable.config, expected);
    let by_file = loaded(&["--config", "control.yaml"], &[], &file.concat());
    assert_eq!(by_file.config, expected);
    for (line, (flag, text)) in every.iter().enumerate() {
        let described = |origin: &str| serde_json::json!({ "value": text, "origin": origin });
        let variable = format!("SIDELANE_{}", flag.to_uppercase().replace('-', "_"));
        assert_eq!(by_flag.settings.describe()[flag], described("command line"));
        assert_eq!(by_variable.settings.describe()[flag], described(&variable));
        let place = format!("control.yaml:{}", line + 1);
        assert_eq!(by_file.settings.describe()[flag], described(&place));
    }
}

#[test]
fn wrong_values_are_refused_with_what_fits() {
    let cases: [(&[&str], &str); 11] = [
        (
            &["--listen", "15010"],
            "--listen \"15010\" (command line): has no host; write 127.0.0.1:15010, or 0.0.0.0:15010 for every interface",
        ),
        (
            &["--admin", "127.0.0.1:15010"],
            "--admin \"127.0.0.1:15010\" (command line): --listen \"127.0.0.1:15010\" (default) listens there, too; give each its own",
        ),
        (
            &["--lease", "999ms"],
            "--lease \"999ms\" (command line): too short; the least is 1s, or healthy nodes would be removed",
        ),
        (
            &["--lease", "2h"],
            "--lease \"2h\" (command line): too long; the most is 1h, or dead nodes would stay for ever",
        ),
        (
            &["--lease", "ten"],
            "--lease \"ten\" (command line): not a duration; write a whole number and a unit: 500ms, 30s, 5m or 1h",
        ),
        (
            &["--leaf-life", "1s"],
            "--leaf-life \"1s\" (command line): a certificate holds for 2s to 168h; 1h is usual",
        ),
        (
            &["--leaf-life", "169h"],
            "--leaf-life \"169h\" (command line): a certificate holds for 2s to 168h; 1h is usual",
        ),
        (
            &["--renewal-grace", "169h"],
            "--renewal-grace \"169h\" (command line): at most 168h, since revocations are remembered no longer; 24h is usual",
        ),
        (
            &["--trust", "disable"],
            "--trust \"disable\" (command line): must be one of strict, permissive, disabled; the nearest is disabled",
        ),
        (
            &["--leas", "10s"],
            "unknown flag --leas; the nearest known flag is --lease (--help lists all)",
        ),
        (&["--fixed"], "--fixed needs a value: --fixed FILE"),
    ];
    for (arguments, message) in cases {
        assert_eq!(start(arguments, &[], "").unwrap_err().to_string(), message);
    }
    assert_eq!(
        start(
            &["--config", "control.yaml"],
            &[],
            "lease: 10s\nfixd: a.yaml\n"
        )
        .unwrap_err()
        .to_string(),
        "control.yaml:2: unknown key `fixd`; the nearest known key is `fixed`"
    );
}

#[test]
fn a_cluster_is_named_or_found_from_inside() {
    let inside = [
        ("KUBERNETES_SERVICE_HOST", "fd00::1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
    ];
    let found = loaded(&["--kubernetes", "in-cluster"], &inside, "");
    let found = found.config.kubernetes.unwrap();
    assert_eq!(found.server.to_string(), "[fd00::1]:443");
    assert!(found.ca.ends_with("serviceaccount/ca.crt"));
    let arguments = ["--kubernetes", "10.0.0.1:6443", "--kubernetes-token", "t"];
    let named = loaded(&arguments, &[], "").config.kubernetes.unwrap();
    assert_eq!(named.server.to_string(), "10.0.0.1:6443");
    assert_eq!(named.token, std::path::Path::new("t"));
    assert_eq!(
        loaded(&[], &inside, "").config.kubernetes,
        None,
        "not by itself"
    );
    let refused = start(&["--kubernetes", "in-cluster"], &[], "").unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("KUBERNETES_SERVICE_HOST is not set"),
        "{text}"
    );
    let refused = start(&["--kubernetes-ca", "ca.crt"], &[], "").unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("without --kubernetes"), "{text}");
}

#[test]
fn listeners_beyond_loopback_are_told() {
    assert_eq!(
        loaded(
            &[
                "--trust",
                "disabled",
                "--listen",
                "0.0.0.0:15010",
                "--admin",
                "0.0.0.0:15014"
            ],
            &[],
            ""
        )
        .warnings,
        [
            "--listen \"0.0.0.0:15010\" (command line) is not loopback: with trust disabled, \
             whoever reaches it can join the mesh as any node",
            "--admin \"0.0.0.0:15014\" (command line) is not loopback: with trust disabled, \
             whoever reaches it can see the whole mesh",
        ]
    );
}

#[test]
fn where_trust_is_strict_only_the_pages_are_open() {
    let arguments = [
        "--trust",
        "strict",
        "--listen",
        "0.0.0.0:15010",
        "--admin",
        "0.0.0.0:15014",
    ];
    assert_eq!(
        loaded(&arguments, &[], "").warnings,
        [
            "--admin \"0.0.0.0:15014\" (command line) is not loopback, and its pages ask for no \
             certificate: whoever reaches it can see the whole mesh"
        ]
    );
}

#[test]
fn the_file_is_read_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.yaml");
    std::fs::write(&path, "lease: 5s\n").unwrap();
    let arguments = ["--config", path.to_str().unwrap()];
    let start = Config::load(arguments, &Environment::default(), settings::read_file).unwrap();
    let Start::Run(loaded) = start else {
        panic!("printed")
    };
    assert_eq!(loaded.config.lease, Duration::from_secs(5));
}

#[test]
fn help_names_every_flag() {
    let Start::Print(help) = start(&["--help"], &[], "").unwrap() else {
        panic!("ran")
    };
    for flag in PROGRAM.flags {
        assert!(help.contains(&format!("\n  --{}", flag.name)), "{help}");
    }
}
