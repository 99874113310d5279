//! Times look-ups and classifications. Paths come in random order from a list that is larger than
//! the nearest cache, so that what is measured is a mixed load and no single path that the
//! processor has learnt by heart; the list fits the next one, because a real path has just been
//! read from its request.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use sidelane::routing::{PathIndex, Rule};
use sidelane_sidecar::classify::{self, Policy};
use sidelane_sidecar::mesh::{Mesh, View};
use sidelane_sidecar::telemetry::Metrics;

use crate::table;

/// Look-ups in a pass.
const ASKED: usize = 1 << 13;
/// The best of so many passes counts: whatever else the machine does only makes one slower.
const PASSES: usize = 200;

/// The same for indexes.
const BUILDS: usize = 5;

/// What was measured in one table.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) services: usize,
    pub(crate) paths: usize,
    /// A path of a rule's method.
    pub(crate) known_ns: f64,
    /// The same path in the standard library's `HashMap` of all paths: what the machine can do at the
    /// moment, measured in turn with `known_ns`.
    pub(crate) hash_map_ns: f64,
    /// A service's method that its rule does not name.
    pub(crate) unknown_method_ns: f64,
    /// A well-formed path of no service.
    pub(crate) unknown_service_ns: f64,
    /// From the path to class, lane, method and target, in one thread; measured in turn with
    /// `known_ns`, too.
    pub(crate) classifications_per_second: f64,
    pub(crate) build_ms: f64,
}

/// Measures a table of so many services.
pub(crate) fn measure(services: usize) -> Figures {
    let rules = table::rules(services);
    let mesh = Mesh::new(
        table::table(rules),
        Vec::new(),
        Arc::new(Metrics::default()),
    );
    let paths = table::paths(rules);
    let known = shuffled(&paths, str::to_owned);
    let unknown_methods = shuffled(&paths, |path| format!("{path}s"));
    let unknown_services = shuffled(&paths, |path| path.replacen("acme", "acne", 1));
    let view = mesh.view();
    let map: HashMap<&str, usize> = paths.iter().map(String::as_str).zip(1..).collect();
    let [mut known_ns, mut decided_ns, mut hash_map_ns] = [f64::INFINITY; 3];
    // In turn: what else the machine does makes all of them slower.
    for _ in 0..PASSES {
        known_ns = known_ns.min(pass(&known, &mut |path| look_up(&view, path)));
        decided_ns = decided_ns.min(pass(&known, &mut |path| decide(&mesh, path)));
        let found = &mut |path: &str| map.get(path).copied().unwrap_or_default();
        hash_map_ns = hash_map_ns.min(pass(&known, found));
    }
    Figures {
        services,
        paths: paths.len(),
        known_ns,
        hash_map_ns,
        unknown_method_ns: nanoseconds(&unknown_methods, |path| look_up(&view, path)),
        unknown_service_ns: nanoseconds(&unknown_services, |path| look_up(&view, path)),
        classifications_per_second: 1e9 / decided_ns,
        build_ms: (0..BUILDS)
            .map(|_| build(rules))
            .fold(f64::INFINITY, f64::min),
    }
}

/// Milliseconds that an index takes.
fn build(rules: &[Rule]) -> f64 {
    let start = Instant::now();
    black_box(PathIndex::new(
        rules.iter().map(|rule| (&*rule.service, &*rule.methods)),
    ));
    start.elapsed().as_secs_f64() * 1e3
}

fn look_up(view: &View, path: &str) -> usize {
    let found = view.find(path);
    found.map_or(0, |found| found.method.unwrap_or(1) + found.service_end)
}

/// As a call does it, the view that it looks at included.
fn decide(mesh: &Mesh, path: &str) -> usize {
    let decided = mesh.look(|view| {
        let found = view.find(path).ok()?;
        classify::outbound(view, path, found, None, Policy::default()).ok()
    });
    decided.map_or(0, |classified| {
        usize::from(classified.lane.id()) + usize::from(classified.method().is_some())
    })
}

/// The mean time of one, in the best pass.
fn nanoseconds(paths: &[String], mut what: impl FnMut(&str) -> usize) -> f64 {
    let passes = (0..PASSES).map(|_| pass(paths, &mut what));
    passes.fold(f64::INFINITY, f64::min)
}

/// The mean time of one in a pass.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn pass(paths: &[String], what: &mut impl FnMut(&str) -> usize) -> f64 {
    let start = Instant::now();
    let mut sum = 0;
    for path in paths {
        sum += what(black_box(path));
    }
    black_box(sum);
    start.elapsed().as_secs_f64() * 1e9 / paths.len() as f64
}

/// The paths in an order that is the same in each run and looks like none.
fn shuffled(paths: &[String], change: impl Fn(&str) -> String) -> Vec<String> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |count: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % count as u64).unwrap_or_default()
    };
    (0..ASKED)
        .map(|_| change(&paths[next(paths.len())]))
        .collect()
}
