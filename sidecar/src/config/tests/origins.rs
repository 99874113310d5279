//! Where settings come from: a file on the disk, and variables that are no flag.

use super::*;

#[test]
fn the_file_is_read_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidecar.yaml");
    std::fs::write(
        &path,
        "node: orders-1\nserve:\n  shop.v1.Orders: 127.0.0.1:50051\n",
    )
    .unwrap();
    let arguments = ["--config", path.to_str().unwrap()];
    let environment = Environment::new([HOME]);
    let start = Config::load(arguments, &environment, settings::read_file).unwrap();
    let Loaded {
        config, settings, ..
    } = run(start);
    assert_eq!(config.serve[0].address.to_string(), "127.0.0.1:50051");
    let origin = settings.describe()["serve"]["origin"].clone();
    assert_eq!(origin, format!("{}:3", path.display()).as_str());

    let missing = folder.path().join("gone.yaml");
    let arguments = ["--config", missing.to_str().unwrap()];
    let error = Config::load(arguments, &environment, settings::read_file).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot read {} (named by --config, command line): there is no such file; paths are \
             relative to the working directory",
            missing.display()
        )
    );
}

#[test]
fn help_names_every_flag() {
    let Start::Print(help) = start(&["--help"], &[], "").unwrap() else {
        panic!("ran")
    };
    for flag in PROGRAM.flags {
        assert!(help.contains(&format!("\n  --{}", flag.name)), "{help}");
    }
    let Start::Print(version) = start(&["--version"], &[], "").unwrap() else {
        panic!("ran")
    };
    assert_eq!(
        version,
        format!("sidelane-sidecar {}", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn how_control_is_asked_comes_from_flags_and_from_one_variable() {
    let given = [
        "--token-file",
        "/run/orders.token",
        "--identity",
        "spiffe://mesh.example/ns/shop/sa/orders",
        "--keep-identity",
    ];
    let variables = [
        ("SIDELANE_TOKEN", "sidelane-token-1.hidden"),
        ("XDG_RUNTIME_DIR", "/run/me"),
    ];
    let environment = Environment::new([HOME].iter().chain(&variables).copied());
    let start = Config::load(given, &environment, |_| unreachable!()).unwrap();
    let Start::Run(loaded) = start else {
        panic!("printed")
    };
    let text = zeroize::Zeroizing::new("sidelane-token-1.hidden".to_owned());
    let expected = Joins {
        account: None,
        token_file: Some("/run/orders.token".into()),
        token: Some(TokenText::new(text)),
        runtime: RuntimeFolder::at("/run/me/sidelane".into()),
        identity: Some(SpiffeId::new("spiffe://mesh.example/ns/shop/sa/orders").unwrap()),
        keep: true,
    };
    assert_eq!(loaded.config.joins.as_ref(), Some(&expected));
    for shown in [
        format!("{:?}", loaded.config),
        loaded.settings.describe().to_string(),
    ] {
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
