//! The rules of the layers, and every error by its exact text.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use super::*;

const NODE: Flag = Flag::single("node", "NAME", "The node's name");
const CONTROL: Flag = Flag::list("control", "HOST:PORT,…", "Where control is").or("a:1,b:2");
const SERVE: Flag = Flag::pairs("serve", "SERVICE=ADDRESS", "What is served");
const TOKEN_FILE: Flag = Flag::single("token-file", "FILE", "The token");
const STRICT: Flag = Flag::switch("require-rules", "Refuse what has no rule");
const GRACE: Flag = Flag::single("grace", "DURATION", "How long a drain waits").or("30s");

const PROGRAM: Program = Program {
    name: "sidelane-example",
    version: "1.2.3",
    about: "An example.",
    flags: &[NODE, CONTROL, SERVE, TOKEN_FILE, STRICT, GRACE, CONFIG, LOG],
};

/// A start with these arguments and variables, and this text in the file `mesh.yaml`.
fn start(
    arguments: &[&str],
    variables: &[(&str, &str)],
    file: &str,
) -> Result<Start<Loaded>, SettingsError> {
    let read_file = |path: &Path| match path.to_str() {
        Some("mesh.yaml") => Ok(file.to_owned()),
        Some("folder") => Err(io::ErrorKind::IsADirectory.into()),
        Some("huge") => Err(io::ErrorKind::FileTooLarge.into()),
        Some("binary") => Err(io::ErrorKind::InvalidData.into()),
        Some("secret") => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    load(
        &PROGRAM,
        arguments,
        &Environment::new(variables.iter().copied()),
        read_file,
    )
}

fn loaded(arguments: &[&str], variables: &[(&str, &str)], file: &str) -> Loaded {
    match start(arguments, variables, file).unwrap() {
        Start::Run(loaded) => loaded,
        Start::Print(text) => panic!("printed {text}"),
    }
}

fn error(arguments: &[&str], variables: &[(&str, &str)], file: &str) -> String {
    start(arguments, variables, file).unwrap_err().to_string()
}

fn file_error(file: &str) -> String {
    error(&["--config", "mesh.yaml"], &[], file)
}

fn texts(settings: &Settings, flag: &Flag) -> Vec<(String, String)> {
    let pair = |item: &Item| (item.text().to_owned(), item.origin().to_string());
    settings.items(flag).iter().map(pair).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(text, origin)| ((*text).to_owned(), (*origin).to_owned()))
        .collect()
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    let file = "# comment\ngrace: 1s\n";
    let grace = |arguments: &[&str], variables: &[(&str, &str)]| {
        texts(&loaded(arguments, variables, file).settings, &GRACE)
    };
    let variable = [("SIDELANE_GRACE", "2s")];
    assert_eq!(grace(&[], &[]), pairs(&[("30s", "default")]));
    assert_eq!(
        grace(&["--config", "mesh.yaml"], &[]),
        pairs(&[("1s", "mesh.yaml:2")])
    );
    assert_eq!(
        grace(&["--config", "mesh.yaml"], &variable),
        pairs(&[("2s", "SIDELANE_GRACE")])
    );
    assert_eq!(
        grace(&["--config", "mesh.yaml", "--grace", "3s"], &variable),
        pairs(&[("3s", "command line")])
    );
    assert_eq!(
        grace(&[], &[("SIDELANE_CONFIG", "mesh.yaml")]),
        pairs(&[("1s", "mesh.yaml:2")]),
        "the file may be named by its variable"
    );
    assert_eq!(
        grace(&[], &[("SIDELANE_GRACE", "")]),
        pairs(&[("30s", "default")]),
        "an empty variable is not set"
    );
}

#[test]
fn a_layer_replaces_lists_whole() {
    let file = "control: [x:1, y:2]\nserve:\n  a.A: u\n";
    let read = |arguments: &[&str], variables: &[(&str, &str)], flag: &Flag| {
        texts(&loaded(arguments, variables, file).settings, flag)
    };
    let config = ["--config=mesh.yaml"];
    assert_eq!(
        read(&[], &[], &CONTROL),
        pairs(&[("a:1", "default"), ("b:2", "default")])
    );
    assert_eq!(
        read(&config, &[], &CONTROL),
        pairs(&[("x:1", "mesh.yaml:1"), ("y:2", "mesh.yaml:1")])
    );
    assert_eq!(
        read(&config, &[("SIDELANE_CONTROL", "z:1, w:2")], &CONTROL),
        pairs(&[("z:1", "SIDELANE_CONTROL"), ("w:2", "SIDELANE_CONTROL")])
    );
    assert_eq!(
        read(&["--config=mesh.yaml", "--serve", "b.B=v"], &[], &SERVE),
        pairs(&[("b.B=v", "command line")])
    );
}

#[test]
fn pairs_have_many_spellings() {
    let expected = |first: &str, second: &str| pairs(&[("a.A,a.B=u", first), ("b.B=v", second)]);
    let read = |arguments: &[&str], variables: &[(&str, &str)], file: &str| {
        texts(&loaded(arguments, variables, file).settings, &SERVE)
    };
    assert_eq!(
        read(&["--serve", "a.A,a.B=u", "--serve=b.B=v"], &[], ""),
        expected("command line", "command line")
    );
    for value in [
        "a.A,a.B=u;b.B=v",
        "a.A,a.B=u; b.B=v;",
        "\na.A,a.B=u\nb.B=v\n",
    ] {
        let variable = [("SIDELANE_SERVE", value)];
        assert_eq!(
            read(&[], &variable, ""),
            expected("SIDELANE_SERVE", "SIDELANE_SERVE"),
            "for {value:?}"
        );
    }
    for file in [
        "serve:\n- a.A,a.B=u\n- b.B=v\n",
        "serve:\n  a.A,a.B: u\n  b.B: v\n",
        "serve:\n- a.A,a.B: u\n- b.B: v\n",
        "serve:\n  - 'a.A,a.B=u'\n  - {b.B: \"v\"}\n",
    ] {
        assert_eq!(
            read(&["--config=mesh.yaml"], &[], file),
            expected("mesh.yaml:2", "mesh.yaml:3"),
            "for {file:?}"
        );
    }
}

#[test]
fn values_in_the_file_keep_their_text() {
    let file = "---\nnode: 0x10\ngrace: \"1e3\"\nrequire-rules: true\ncontrol: a:1, b:2\n";
    let loaded = loaded(&["--config", "mesh.yaml"], &[], file).settings;
    assert_eq!(texts(&loaded, &NODE), pairs(&[("0x10", "mesh.yaml:2")]));
    assert_eq!(texts(&loaded, &GRACE), pairs(&[("1e3", "mesh.yaml:3")]));
    assert!(loaded.switch(&STRICT).unwrap());
    assert_eq!(
        texts(&loaded, &CONTROL),
        pairs(&[("a:1", "mesh.yaml:5"), ("b:2", "mesh.yaml:5")])
    );
}

#[test]
fn a_file_may_say_nothing() {
    for file in ["", "# only a comment\n", "---\n", "---\n...\n"] {
        let settings = loaded(&["--config", "mesh.yaml"], &[], file).settings;
        assert_eq!(settings.items(&NODE), [], "for {file:?}");
    }
}

#[test]
fn switches() {
    let on = |arguments: &[&str]| loaded(arguments, &[], "").settings.switch(&STRICT);
    assert_eq!(on(&[]), Ok(false));
    assert_eq!(on(&["--require-rules"]), Ok(true));
    assert_eq!(on(&["--require-rules=false"]), Ok(false));
    assert_eq!(
        on(&["--require-rules=yes"]).unwrap_err().to_string(),
        "--require-rules \"yes\" (command line): must be true or false"
    );
}

#[test]
fn wrong_command_lines_are_named() {
    let cases: [(&[&str], &str); 13] = [
        (
            &["--grase", "1s"],
            "unknown flag --grase; the nearest known flag is --grace (--help lists all)",
        ),
        (
            &["--token_file=x"],
            "unknown flag --token_file; the nearest known flag is --token-file (--help lists all)",
        ),
        (
            &["-node", "x"],
            "unknown flag -node; the nearest known flag is --node (--help lists all)",
        ),
        (
            &["--grace", "1s", "--grace=2s"],
            "--grace is given twice, as \"1s\" and \"2s\"; give it once",
        ),
        (
            &["--control", "a:1", "--control", "b:2"],
            "--control is given twice, as \"a:1\" and \"b:2\"; give it once, with commas between the values",
        ),
        (&["--node"], "--node needs a value: --node NAME"),
        (
            &["--node", "--grace", "1s"],
            "--node needs a value: --node NAME (found --grace instead; if that is the value, write --node=--grace)",
        ),
        (
            &["--node="],
            "--node needs a value: --node NAME (found nothing after the `=`)",
        ),
        (
            &["--node", ""],
            "--node needs a value: --node NAME (found an empty one)",
        ),
        (
            &["orders"],
            "unexpected argument \"orders\": every setting is a flag (--help lists all)",
        ),
        (
            &["--require-rules", "false"],
            "unexpected argument \"false\": --require-rules takes no separate value; write --require-rules=false",
        ),
        (
            &["--control", "a:1,", "b:2"],
            "unexpected argument \"b:2\": values of --control are separated by commas, without spaces",
        ),
        (
            &["--"],
            "unknown flag --; the nearest known flag is --node (--help lists all)",
        ),
    ];
    for (arguments, message) in cases {
        assert_eq!(error(arguments, &[], ""), message, "for {arguments:?}");
    }
}

#[test]
fn text_in_no_known_encoding_is_named() {
    let broken = || OsString::from_vec(b"or\xffders".to_vec());
    let none = |_: &Path| Ok(String::new());
    let argument = load(&PROGRAM, [broken()], &Environment::default(), none).unwrap_err();
    assert_eq!(
        argument.to_string(),
        "an argument is not valid UTF-8: \"or\u{fffd}ders\""
    );
    let environment = Environment::new([("SIDELANE_NODE", broken()), ("OTHER", broken())]);
    let variable = load(&PROGRAM, [""; 0], &environment, none).unwrap_err();
    assert_eq!(
        variable.to_string(),
        "SIDELANE_NODE is not valid UTF-8: \"or\u{fffd}ders\""
    );
}

#[test]
fn unreadable_files_are_named_with_who_named_them() {
    let cases = [
        (
            "gone.yaml",
            "cannot read gone.yaml (named by --config, command line): there is no such file; \
             paths are relative to the working directory",
        ),
        (
            "folder",
            "cannot read folder (named by --config, command line): it is a directory; name the \
             YAML file in it",
        ),
        (
            "huge",
            "cannot read huge (named by --config, command line): it is larger than 1048576 \
             bytes; is it a settings file?",
        ),
        (
            "binary",
            "cannot read binary (named by --config, command line): it is not valid UTF-8",
        ),
        (
            "secret",
            "cannot read secret (named by --config, command line): permission denied",
        ),
    ];
    for (path, message) in cases {
        assert_eq!(error(&["--config", path], &[], ""), message);
    }
    assert_eq!(
        error(&[], &[("SIDELANE_CONFIG", "gone.yaml")], ""),
        "cannot read gone.yaml (named by --config, SIDELANE_CONFIG): there is no such file; \
         paths are relative to the working directory"
    );
}

#[test]
fn wrong_files_are_named_by_line() {
    let cases = [
        (
            "node: a\ngrase: 1s\n",
            "mesh.yaml:2: unknown key `grase`; the nearest known key is `grace`",
        ),
        (
            "token_file: a\n",
            "mesh.yaml:1: unknown key `token_file`; the nearest known key is `token-file`",
        ),
        (
            "node: a\n\nnode: b\n",
            "mesh.yaml:3: the key `node` is here a second time, after line 1; keep one of them",
        ),
        (
            "node:\ngrace: 1s\n",
            "mesh.yaml:1: `node` has no value; write one, or remove the line",
        ),
        (
            "node: ~\n",
            "mesh.yaml:1: `node` has no value; write one, or remove the line",
        ),
        (
            "node: null\n",
            "mesh.yaml:1: `node` has no value; write one, or remove the line",
        ),
        (
            "node: ''\n",
            "mesh.yaml:1: `node` has no value; write one, or remove the line",
        ),
        (
            "control: []\n",
            "mesh.yaml:1: `control` has no value; write one, or remove the line",
        ),
        (
            "serve: {}\n",
            "mesh.yaml:1: `serve` has no value; write one, or remove the line",
        ),
        (
            "node: [a, b]\n",
            "mesh.yaml:1: `node` must be one value, found a list",
        ),
        (
            "require-rules: [true]\n",
            "mesh.yaml:1: `require-rules` must be true or false, found a list",
        ),
        (
            "control:\n  a: 1\n",
            "mesh.yaml:2: `control` must be one value, values separated by commas, or a list of \
             values, found a map",
        ),
        (
            "control:\n- a:1\n- [b:2]\n",
            "mesh.yaml:3: `control` must be one value, values separated by commas, or a list of \
             values, found a list",
        ),
        (
            "serve:\n- a.A:\n    x: y\n",
            "mesh.yaml:3: `serve` must be a NAME=VALUE, a list of these, or a map of names to \
             values, found a map",
        ),
        (
            "- node\n",
            "mesh.yaml:1: expected `key: value` lines, found a list",
        ),
        (
            "node\n",
            "mesh.yaml:1: expected `key: value` lines, found a single value",
        ),
        (
            "config: other.yaml\n",
            "mesh.yaml:1: `config` cannot be set in the file that it names; give it as a flag or \
             variable",
        ),
        (
            "node: &a x\ntoken-file: *a\n",
            "mesh.yaml:2: a YAML alias cannot be used in settings; write the values out",
        ),
        (
            "node: !x y\n",
            "mesh.yaml:1: a YAML tag cannot be used in settings; write the values out",
        ),
        (
            "node: a\n---\nnode: b\n",
            "mesh.yaml:2: a second YAML document cannot be used in settings; write the values out",
        ),
        (
            "? [a]\n: b\n",
            "mesh.yaml:1: a list or map as a key cannot be used in settings; write the values out",
        ),
        (
            "serve: [[[[[[[[a]]]]]]]]\n",
            "mesh.yaml:1: a list or map this deep cannot be used in settings; write the values out",
        ),
    ];
    for (file, message) in cases {
        assert_eq!(file_error(file), message, "for {file:?}");
    }
}

#[test]
fn yaml_that_is_none_is_named_by_line_and_column() {
    for (file, place) in [
        ("node: a\ngrace: [1s\n", "mesh.yaml:2: "),
        ("node: \"a\n", "mesh.yaml:"),
        ("a: b: c\n", "mesh.yaml:1: "),
    ] {
        let message = file_error(file);
        assert!(message.starts_with(place), "{message}");
        assert!(message.contains(": not valid YAML: "), "{message}");
        assert!(message.contains("(column "), "{message}");
    }
    let deep = file_error(&"[".repeat(100_000));
    assert!(deep.starts_with("mesh.yaml:1: "), "{deep}");
}

#[test]
fn values_name_flag_value_and_origin() {
    let read = |arguments: &[&str], variables: &[(&str, &str)], file: &str| {
        loaded(arguments, variables, file)
            .settings
            .value(&GRACE, value::duration)
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        read(&["--grace", "250ms"], &[], ""),
        Ok(Duration::from_millis(250))
    );
    let cases = [
        (
            "30x",
            "not a duration; write a whole number and a unit: 500ms, 30s, 5m or 1h",
        ),
        (
            "1m30s",
            "not a duration; write a whole number and a unit: 500ms, 30s, 5m or 1h",
        ),
        (
            "1.5s",
            "not a duration; write a whole number and a unit: 500ms, 30s, 5m or 1h",
        ),
        (
            "30",
            "has no unit; write 30s for seconds or 30ms for milliseconds",
        ),
        ("721h", "too long; the most is 720h"),
        ("99999999999999999999h", "too long; the most is 720h"),
    ];
    for (text, reason) in cases {
        assert_eq!(
            read(&["--grace", text], &[], ""),
            Err(format!("--grace {text:?} (command line): {reason}"))
        );
        assert_eq!(
            read(&[], &[("SIDELANE_GRACE", text)], ""),
            Err(format!("--grace {text:?} (SIDELANE_GRACE): {reason}"))
        );
        assert_eq!(
            read(&["--config=mesh.yaml"], &[], &format!("\ngrace: {text}")),
            Err(format!("--grace {text:?} (mesh.yaml:2): {reason}"))
        );
    }
    let units = [
        ("0s", 0),
        ("500ms", 500),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h", 3_600_000),
    ];
    for (text, milliseconds) in units {
        assert_eq!(
            value::duration(text),
            Ok(Duration::from_millis(milliseconds))
        );
    }
}

#[test]
fn a_required_value_says_how_to_give_it() {
    let settings = loaded(&[], &[], "").settings;
    let text = |text: &str| Ok::<_, io::Error>(text.to_owned());
    assert_eq!(
        settings.value(&TOKEN_FILE, text).unwrap_err().to_string(),
        "--token-file is required: give --token-file FILE, or set SIDELANE_TOKEN_FILE, or \
         `token-file` in the file named by --config"
    );
    assert_eq!(settings.optional(&TOKEN_FILE, text).unwrap(), None);
}

#[test]
fn an_empty_piece_of_a_list_is_refused_by_its_value() {
    let settings = loaded(&["--control", "a:1,,b:2"], &[], "").settings;
    let read = settings.list(&CONTROL, str::parse::<crate::address::HostPort>);
    assert_eq!(
        read.unwrap_err().to_string(),
        "--control \"\" (command line): is empty; write 127.0.0.1:15010"
    );
}

#[test]
fn variables_that_look_like_a_slip_are_told() {
    let variables = [
        ("SIDELANE_GRASE", "1s"),
        ("SIDELANE_TOKENFILE", "x"),
        ("SIDELANE_TARGET", "http://127.0.0.1:15001"),
        ("SIDELANE_TOKEN", "x"),
        ("SIDELANE_SOMETHING_ELSE", "x"),
        ("SIDELANE_NODES", ""),
        ("GRACE", "1s"),
    ];
    assert_eq!(
        loaded(&[], &variables, "").warnings,
        [
            "SIDELANE_GRASE is set, but sidelane-example does not read it; did you mean \
             SIDELANE_GRACE?",
            "SIDELANE_TOKENFILE is set, but sidelane-example does not read it; did you mean \
             SIDELANE_TOKEN_FILE?",
        ]
    );
}

#[test]
fn a_derived_default_yields_to_every_layer() {
    let derived = |arguments: &[&str]| {
        let mut settings = loaded(arguments, &[], "").settings;
        settings.derive(&TOKEN_FILE, "made up");
        texts(&settings, &TOKEN_FILE)
    };
    assert_eq!(derived(&[]), pairs(&[("made up", "default")]));
    assert_eq!(
        derived(&["--token-file", "given"]),
        pairs(&[("given", "command line")])
    );
}

#[test]
fn settings_describe_themselves_with_origins() {
    let arguments = ["--config=mesh.yaml", "--serve", "a.A=u", "--require-rules"];
    let described = loaded(&arguments, &[("SIDELANE_GRACE", "2s")], "control: [x:1]")
        .settings
        .describe();
    assert_eq!(
        described,
        serde_json::json!({
            "node": { "value": null, "origin": "default" },
            "control": { "value": ["x:1"], "origin": "mesh.yaml:1" },
            "serve": { "value": ["a.A=u"], "origin": "command line" },
            "token-file": { "value": null, "origin": "default" },
            "require-rules": { "value": true, "origin": "command line" },
            "grace": { "value": "2s", "origin": "SIDELANE_GRACE" },
            "config": { "value": "mesh.yaml", "origin": "command line" },
            "log": { "value": "info", "origin": "default" },
        })
    );
}

#[test]
fn help_and_version_come_before_every_error() {
    let printed = |arguments: &[&str]| match start(arguments, &[], "").unwrap() {
        Start::Print(text) => text,
        Start::Run(_) => panic!("ran"),
    };
    assert_eq!(printed(&["--version"]), "sidelane-example 1.2.3");
    assert_eq!(printed(&["--nonsense", "-V"]), "sidelane-example 1.2.3");
    assert_eq!(printed(&["--nonsense", "-h"]), printed(&["--help"]));
    assert_eq!(
        printed(&["--help"]),
        "sidelane-example 1.2.3
An example.

Usage: sidelane-example [flags]

  --node NAME                     The node's name
  --control HOST:PORT,…           Where control is [a:1,b:2]
  --serve SERVICE=ADDRESS         What is served; repeats
  --token-file FILE               The token
  --require-rules                 Refuse what has no rule
  --grace DURATION                How long a drain waits [30s]
  --config FILE                   A YAML file with any of these settings
  --log LEVEL                     What is logged: off, error, warn, info or debug (trace only in builds of profile dev), and TARGET=LEVEL after commas [info]
  --help                          This text
  --version                       The version

Every flag has an environment variable (--token-file: SIDELANE_TOKEN_FILE) and a key in the
YAML file named by --config (token-file). Flag beats variable beats file beats default.
Lists are comma-separated. Port 0 means any free port."
    );
}

#[test]
fn the_real_file_reader_is_bounded_and_names_folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.yaml");
    std::fs::write(&path, "node: a\n").unwrap();
    assert_eq!(read_file(&path).unwrap(), "node: a\n");
    let kind = |path: &Path| read_file(path).unwrap_err().kind();
    assert_eq!(kind(folder.path()), io::ErrorKind::IsADirectory);
    assert_eq!(kind(&folder.path().join("gone")), io::ErrorKind::NotFound);
    std::fs::write(&path, [0xff]).unwrap();
    assert_eq!(kind(&path), io::ErrorKind::InvalidData);
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(kind(&path), io::ErrorKind::FileTooLarge);
}

#[test]
fn the_nearest_name_forgives_case_dashes_and_cuts() {
    let names = [
        "node", "control", "network", "serve", "outbound", "internal", "external", "log",
    ];
    let cases = BTreeMap::from([
        ("servce", "serve"),
        ("OUTBOUND", "outbound"),
        ("out", "outbound"),
        ("intrenal", "internal"),
        ("lgo", "log"),
        ("contorl", "control"),
    ]);
    for (given, expected) in cases {
        assert_eq!(nearest(given, names), Some(expected), "for {given}");
    }
    assert_eq!(nearest("x", []), None);
}
