//! A fifth of the size that one control plane is built for, against the program in a process of its
//! own: bounds that hold in an unoptimised build on a busy machine. `sidelane-bench control`
//! measures the whole size.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use sidelane_process::fetch;
use sidelane_proto::wire::control::v1::{Hello, Update};
use tokio::task::JoinSet;

use crate::process::{Program, start, start_with_admin};
use crate::sidecar::{PATIENCE, Sidecar, channel, hello, offer, services};

const SIDECARS: usize = 200;
const SERVICES: usize = 100;
/// Services that each sidecar offers, and that each wants to know: 20 endpoints a service.
const EACH: usize = 10;
/// What a sidecar holds once everybody is there.
const WHOLE: usize = EACH * EACH * SIDECARS / SERVICES;
/// What a session may cost, in KiB. 28 of them are buffers that h2 makes for each connection,
/// whatever it is told (0.4.20).
const SESSION_KIB: usize = 40;
/// What a change may take to its last subscriber: ten times the aim, for a busy machine.
const SLOWEST: Duration = Duration::from_secs(1);
/// What control may take to tell everybody again after a crash: twice the aim.
const RESYNC: Duration = Duration::from_secs(10);

/// Resident memory of a process, in KiB.
fn resident(program: &Program) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let digits = line.chars().filter(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap()
}

fn introduce(number: usize) -> Hello {
    let numbers = (0..EACH).map(|n| (number * EACH + n) % SERVICES);
    let names: Vec<String> = numbers
        .map(|number| format!("scale.v1.Service{number}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Hello {
        subscribe: Some(services(&names)),
        ..hello(&format!("n-{number}"), 1, &names)
    }
}

/// One that only listens, to the same services.
fn listener(number: usize) -> Hello {
    Hello {
        node_id: format!("listener-{number}"),
        offers: Vec::new(),
        ..introduce(number)
    }
}

/// All say Hello at once, and take updates until each holds what it should.
async fn join_all(address: SocketAddr, hellos: impl Iterator<Item = Hello>) -> Vec<Sidecar> {
    let mut joining = JoinSet::new();
    for (number, hello) in hellos.enumerate() {
        joining.spawn(async move {
            let mut sidecar = Sidecar::join(channel(address).await, hello).await;
            sidecar.take_until(|held| held.len() == WHOLE).await;
            (number, sidecar)
        });
    }
    let mut sidecars = joining.join_all().await;
    sidecars.sort_by_key(|(number, _)| *number);
    sidecars.into_iter().map(|(_, sidecar)| sidecar).collect()
}

/// A figure of the metrics page.
async fn figure(admin: SocketAddr, name: &str) -> usize {
    let url = format!("http://{admin}/metrics");
    let page = fetch::get(&url, PATIENCE).await.unwrap().text();
    let name = format!("sidelane_control_{name} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap().parse().unwrap()
}

/// Waits until all updates that were sent are answered.
async fn quiet(admin: SocketAddr) -> usize {
    loop {
        let answered = figure(admin, "acks_total").await;
        if figure(admin, "updates_total").await == answered {
            return answered;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Takes updates until one tells of this weight.
async fn take_weight(sidecar: &mut Sidecar, weight: u32) {
    let told = |update: &Update| update.upserts.iter().any(|told| told.weight == weight);
    while !told(&sidecar.take().await) {}
}

#[tokio::test]
async fn a_session_costs_little_and_a_change_is_told_to_its_subscribers_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (program, address, admin) = start_with_admin(folder.path());
    let mut sidecars = join_all(address, (0..SIDECARS).map(introduce)).await;
    let mesh = resident(&program);
    let listeners = join_all(address, (0..SIDECARS).map(listener)).await;
    let each = resident(&program).saturating_sub(mesh) / SIDECARS;
    assert!(each < SESSION_KIB, "{each} KiB a session");
    // Their streams end before anything is counted below.
    for listener in &listeners {
        listener.goodbye().await;
    }
    while figure(admin, "sessions").await > SIDECARS {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(listeners);

    // Drives its stream, or acks of others would wait for it.
    let before = quiet(admin).await;
    let mut slowest = Duration::ZERO;
    let mut told = 0;
    for weight in 201..=210 {
        let service = "scale.v1.Service0";
        let mut offers: Vec<_> = (0..EACH)
            .map(|n| offer(&format!("scale.v1.Service{n}")))
            .collect();
        offers[0].weight = weight;
        let began = Instant::now();
        sidecars[0].offer(offers).await;
        let subscribes = |sidecar: &Sidecar| sidecar.held.keys().any(|(name, _)| name == service);
        let subscribers = sidecars.iter_mut().filter(|sidecar| subscribes(sidecar));
        for subscriber in subscribers {
            take_weight(subscriber, weight).await;
            told += 1;
        }
        slowest = slowest.max(began.elapsed());
    }
    assert_eq!(told, 10 * EACH * SIDECARS / SERVICES);
    assert!(slowest < SLOWEST, "{slowest:?}");
    assert_eq!(quiet(admin).await - before, told, "nobody else was told");
}

#[tokio::test]
async fn after_a_crash_all_go_on_from_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (program, address) = start(folder.path());
    let sidecars = join_all(address, (0..SIDECARS).map(introduce)).await;
    wait_for_records(folder.path()).await;
    drop(program);
    let (_program, address) = start(folder.path());
    let began = Instant::now();
    let mut joining = JoinSet::new();
    for (number, before) in sidecars.into_iter().enumerate() {
        joining.spawn(async move {
            let hello = Hello {
                held: Some(before.taken()),
                ..introduce(number)
            };
            let mut sidecar = Sidecar::join(channel(address).await, hello).await;
            sidecar.held = before.held;
            let first = sidecar.take().await;
            let healthy = |held: &crate::sidecar::Held| {
                let healthy = sidelane_proto::wire::control::v1::Health::Healthy;
                held.len() == WHOLE && held.values().all(|(_, health)| *health == healthy)
            };
            sidecar.take_until(healthy).await;
            // Kept, because who leaves is suspect to the others.
            (first.full, sidecar)
        });
    }
    let sidecars = joining.join_all().await;
    let took = began.elapsed();
    assert!(sidecars.iter().all(|(full, _)| !full), "nobody began anew");
    assert!(took < RESYNC, "{took:?}");
}

/// What was published is written behind; it is there once every node is in the file.
async fn wait_for_records(folder: &Path) {
    let file = folder.join(sidelane_control::store::Embedded::FILE);
    let began = Instant::now();
    let wanted: HashSet<String> = (0..SIDECARS).map(|n| format!("default\0n-{n}")).collect();
    loop {
        let bytes = std::fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        if wanted.iter().all(|node| text.contains(node)) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "all nodes are stored in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
