//! The rules themselves. A rule that is broken is broken where the import stands, also where the
//! forbidden module is reached only by way of others.

use std::collections::{BTreeMap, BTreeSet};

use super::lexer::{Kind, tokens, without_tests};
use super::paths::{Found, Origin, paths};
use super::{RuleName, Source, Violation};

/// Code that may break a rule, and why.
#[derive(Debug, Clone, Copy)]
pub struct Exception {
    /// Which rule.
    pub rule: RuleName,
    /// In which file.
    pub path: &'static str,
    /// Why that is right.
    pub why: &'static str,
}

impl Exception {
    pub(super) fn covers(&self, violation: &Violation) -> bool {
        self.rule == violation.rule && self.path == violation.path
    }
}

/// The stages of a call's way, and what stands beside it.
const STAGES: [&str; 7] = [
    "accept", "classify", "policy", "balance", "pool", "forward", "discover",
];
/// What stands above the stages: they are put together there and know nothing of it.
const ABOVE: [&str; 3] = ["stack", "app", "config"];
/// The picture of the mesh holds the hubs, whose picking is a stage.
const HUBS_IN_THE_PICTURE: (&str, &str) = ("mesh", "balance");
/// What decides and does not act, and is told the time.
const PURE: [&str; 3] = ["classify", "policy", "balance"];
/// What acts.
const IMPURE: [&[&str]; 11] = [
    &["tokio", "net"],
    &["std", "net", "TcpStream"],
    &["std", "net", "TcpListener"],
    &["std", "net", "UdpSocket"],
    &["std", "os", "unix", "net"],
    &["socket2"],
    &["hyper"],
    &["hyper_util"],
    &["h2"],
    &["tonic", "transport"],
    &["sidelane_proto", "wire"],
];
const LINES: usize = 800;

/// A file of a crate, read.
struct File<'a> {
    path: &'a str,
    /// Its module in its crate; empty for the root.
    module: Vec<String>,
    found: Vec<Found>,
}

/// One root module names another, and where.
struct Edge<'a> {
    to: String,
    path: &'a str,
    line: usize,
}

/// Who names whom among a crate's root modules.
type Graph<'a> = BTreeMap<String, Vec<Edge<'a>>>;

/// Everything that the rules forbid.
#[must_use]
pub fn check(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources {
        check_everywhere(source, &mut violations);
    }
    let sidecar = files(sources, "sidecar/src/");
    check_stages(&sidecar, &mut violations);
    check_pure(&sidecar, &mut violations);
    let control = files(sources, "control/src/");
    check_control(&control, &mut violations);
    let sdk = files(sources, "sdk/src/");
    let process = files(sources, "sdk/process/src/");
    check_wire(&[sdk, process, sidecar, control], &mut violations);
    violations.sort();
    violations.dedup();
    violations
}

fn check_everywhere(source: &Source, violations: &mut Vec<Violation>) {
    let (path, text) = (source.path.as_str(), source.text.as_str());
    let mut violation = |rule, line, what: String| {
        let path = path.to_owned();
        violations.push(Violation {
            rule,
            path,
            line,
            what,
        });
    };
    let forbidden = |name: &str| match name.replace('-', "_").as_str() {
        "sidelane_control" => path.starts_with("sidecar/"),
        "sidelane_sidecar" => path.starts_with("control/"),
        "sidelane_tests" => !path.starts_with("tests/"),
        _ => false,
    };
    if path.ends_with("Cargo.toml") {
        for (index, line) in text.lines().enumerate() {
            let code = line.split('#').next().unwrap_or_default();
            let is_name = |it: char| it.is_alphanumeric() || matches!(it, '-' | '_');
            for name in code.split(|it| !is_name(it)).filter(|name| forbidden(name)) {
                violation(RuleName::Crates, index + 1, format!("depends on {name}"));
            }
        }
        return;
    }
    let lines = text.lines().count();
    if lines > LINES {
        let what = format!("{lines} lines are more than {LINES}");
        violation(RuleName::Length, lines, what);
    }
    for token in tokens(text) {
        match &token.kind {
            Kind::Name(name) if name == "unsafe" => {
                violation(RuleName::Unsafe, token.line, "says `unsafe`".to_owned());
            }
            Kind::Name(name) if forbidden(name) => {
                violation(RuleName::Crates, token.line, format!("names {name}"));
            }
            _ => {}
        }
    }
}

fn check_stages(files: &[File<'_>], violations: &mut Vec<Violation>) {
    let graph = graph(files);
    let forbidden: Vec<&str> = STAGES.into_iter().chain(ABOVE).collect();
    for stage in STAGES {
        let through = |from: &str, to: &str| (from, to) != HUBS_IN_THE_PICTURE;
        let others: Vec<&str> = forbidden
            .iter()
            .copied()
            .filter(|it| *it != stage)
            .collect();
        reach(
            &graph,
            stage,
            &others,
            through,
            RuleName::Stages,
            violations,
        );
    }
    let anywhere = |_: &str, _: &str| true;
    reach(
        &graph,
        "telemetry",
        &STAGES,
        anywhere,
        RuleName::Telemetry,
        violations,
    );

    for file in files {
        let Some(stage) = file.root().filter(|root| STAGES.contains(root)) else {
            continue;
        };
        for found in file.own() {
            let first = found.names.first().map_or("", String::as_str);
            if !graph.contains_key(first) {
                let what = format!(
                    "stage {stage} names `crate::{first}`, which is no module: say where it is from"
                );
                violations.push(file.violation(RuleName::Stages, found, what));
            }
        }
    }
}

fn check_pure(files: &[File<'_>], violations: &mut Vec<Violation>) {
    for file in files {
        let Some(module) = file.root().filter(|root| PURE.contains(root)) else {
            continue;
        };
        for found in &file.found {
            let names: Vec<&str> = found.names.iter().map(String::as_str).collect();
            let acts = match found.origin {
                Origin::OwnCrate => names.first() == Some(&"pool"),
                Origin::Elsewhere => IMPURE.iter().any(|impure| names.starts_with(impure)),
            };
            let asks =
                names.ends_with(&["Instant", "now"]) || names.ends_with(&["SystemTime", "now"]);
            let what = if acts {
                format!("{module} is pure, and names {}", names.join("::"))
            } else if asks {
                format!("{module} is told the time, and asks {}", names.join("::"))
            } else {
                continue;
            };
            violations.push(file.violation(RuleName::Pure, found, what));
        }
    }
}

fn check_control(files: &[File<'_>], violations: &mut Vec<Violation>) {
    let graph = graph(files);
    let anywhere = |_: &str, _: &str| true;
    for (from, to) in [
        ("source", "push"),
        ("registry", "source"),
        ("push", "source"),
    ] {
        reach(&graph, from, &[to], anywhere, RuleName::Control, violations);
    }
    let sources: BTreeSet<&str> = files
        .iter()
        .filter(|file| file.root() == Some("source"))
        .filter_map(|file| file.module.get(1).map(String::as_str))
        .collect();
    for file in files {
        let own = file.module.get(1).map(String::as_str);
        let foreign: &[&str] = match file.root() {
            Some("source") if own == Some("etcd") => &[],
            Some("source") => &["tonic"],
            Some("registry") => &["tonic", "kube"],
            _ => continue,
        };
        for found in &file.found {
            let names: Vec<&str> = found.names.iter().map(String::as_str).collect();
            let what = match (found.origin, names.as_slice()) {
                (Origin::Elsewhere, [first, ..]) if foreign.contains(first) => {
                    format!("{} names {first}", file.module.join("::"))
                }
                (Origin::OwnCrate, ["source", other, ..])
                    if own.is_some_and(|own| own != *other) && sources.contains(other) =>
                {
                    format!("source {} names source {other}", own.unwrap_or_default())
                }
                _ => continue,
            };
            violations.push(file.violation(RuleName::Control, found, what));
        }
    }
}

fn check_wire(crates: &[Vec<File<'_>>], violations: &mut Vec<Violation>) {
    for file in crates.iter().flatten() {
        for found in file
            .found
            .iter()
            .filter(|found| found.origin == Origin::Elsewhere)
        {
            let names: Vec<&str> = found.names.iter().map(String::as_str).collect();
            let what = match names.as_slice() {
                // As a whole it could be named anything.
                ["sidelane_proto"] | ["sidelane_proto", "*"] => "the whole of sidelane_proto",
                ["sidelane_proto", "wire", rest @ ..] if !may_name_wire(file.path, rest) => {
                    "a wire type"
                }
                _ => continue,
            };
            let what = format!("names {what}: {}", names.join("::"));
            violations.push(file.violation(RuleName::Wire, found, what));
        }
    }
}

/// Of the command line, which may, nothing is looked at.
fn may_name_wire(path: &str, names: &[&str]) -> bool {
    let package = names.first().copied().unwrap_or_default();
    let within = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    let all = [
        "sidecar/src/discover",
        "control/src/push",
        "control/src/admin",
        "control/src/certificates",
    ];
    // The admin dump, as a page and as a gRPC service.
    let admin = [
        "sidecar/src/admin",
        "sidecar/src/explain",
        "sidecar/src/own",
    ];
    within(&all)
        || (package == "peer" && within(&["sidecar/src/pool", "sidecar/src/accept"]))
        || (package == "admin" && within(&admin))
}

/// Looks from one root module along all imports, and notes the way to each forbidden one.
/// `through` says which imports are followed.
fn reach(
    graph: &Graph<'_>,
    from: &str,
    forbidden: &[&str],
    through: impl Fn(&str, &str) -> bool,
    rule: RuleName,
    violations: &mut Vec<Violation>,
) {
    for first in graph.get(from).into_iter().flatten() {
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut open = vec![(first, from.to_owned())];
        while let Some((edge, way)) = open.pop() {
            let way = format!("{way} -> {}", edge.to);
            if forbidden.contains(&edge.to.as_str()) {
                violations.push(Violation {
                    rule,
                    path: first.path.to_owned(),
                    line: first.line,
                    what: format!("imports what it must not: {way}"),
                });
            } else if seen.insert(edge.to.clone()) {
                let next = graph.get(&edge.to).into_iter().flatten();
                let next = next.filter(|next| through(&edge.to, &next.to));
                open.extend(next.map(|next| (next, way.clone())));
            }
        }
    }
}

fn graph<'a>(files: &[File<'a>]) -> Graph<'a> {
    let mut graph: Graph<'_> = files
        .iter()
        .filter_map(|file| Some((file.root()?.to_owned(), Vec::new())))
        .collect();
    for file in files {
        let Some(root) = file.root() else {
            continue;
        };
        for found in file.own() {
            let Some(to) = found.names.first() else {
                continue;
            };
            if to != root && graph.contains_key(to) {
                let edge = Edge {
                    to: to.clone(),
                    path: file.path,
                    line: found.line,
                };
                graph.entry(root.to_owned()).or_default().push(edge);
            }
        }
    }
    graph
}

/// The files under this folder, without those that are for unit tests.
fn files<'a>(sources: &'a [Source], folder: &str) -> Vec<File<'a>> {
    let mut test_modules = Vec::new();
    let mut files = Vec::new();
    for source in sources {
        let Some(inner) = source.path.strip_prefix(folder) else {
            continue;
        };
        let Some(module) = module(inner) else {
            continue;
        };
        let (tokens, under_test) = without_tests(tokens(&source.text));
        for name in under_test {
            test_modules.push([module.as_slice(), &[name]].concat());
        }
        files.push(File {
            path: &source.path,
            found: paths(&tokens, &module),
            module,
        });
    }
    files.retain(|file| {
        !test_modules
            .iter()
            .any(|test| file.module.starts_with(test))
    });
    files
}

/// The module that a file is, by its path from the crate's `src`. None for what is no Rust.
fn module(inner: &str) -> Option<Vec<String>> {
    let inner = inner.strip_suffix(".rs")?;
    let mut names: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if matches!(names.last()?.as_str(), "mod" | "lib" | "main") {
        names.pop();
    }
    Some(names)
}

impl File<'_> {
    fn root(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    fn own(&self) -> impl Iterator<Item = &Found> {
        self.found
            .iter()
            .filter(|found| found.origin == Origin::OwnCrate)
    }

    fn violation(&self, rule: RuleName, found: &Found, what: String) -> Violation {
        Violation {
            rule,
            path: self.path.to_owned(),
            line: found.line,
            what,
        }
    }
}
