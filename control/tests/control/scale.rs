//! The size that one control plane is built for, against the program in a process of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use sidelane_proto::wire::control::v1::{Hello, Update};
use tokio::task::JoinSet;

use crate::process::{Program, start};
use crate::sidecar::{Sidecar, channel, hello, offer, services};

const SIDECARS: usize = 1_000;
const SERVICES: usize = 500;
/// Services that each sidecar offers, and that each wants to know: 20 endpoints a service.
const EACH: usize = 10;
/// What a session may cost, with the record of its node. 24 KiB of it are two buffers that h2 makes
/// for each connection, whatever it is told (0.4.20).
const SESSION_KIB: usize = 45;

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

fn names(sidecar: usize) -> Vec<String> {
    let numbers = (0..EACH).map(|n| (sidecar * EACH + n) % SERVICES);
    numbers
        .map(|number| format!("scale.v1.Service{number}"))
        .collect()
}

fn introduce(number: usize) -> Hello {
    let names = names(number);
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

async fn join_all(address: std::net::SocketAddr, hello: fn(usize) -> Hello) -> Vec<Sidecar> {
    let mut joining = JoinSet::new();
    for number in 0..SIDECARS {
        joining.spawn(async move {
            let sidecar = Sidecar::join(channel(address).await, hello(number)).await;
            (number, sidecar)
        });
    }
    let mut sidecars = joining.join_all().await;
    sidecars.sort_by_key(|(number, _)| *number);
    sidecars.into_iter().map(|(_, sidecar)| sidecar).collect()
}

/// Every sidecar takes updates until it holds `wanted`; returns them with the time each took.
async fn settle(
    sidecars: Vec<Sidecar>,
    wanted: fn(&Sidecar, &Update) -> bool,
) -> Vec<(Sidecar, Duration)> {
    let began = Instant::now();
    let mut settling = JoinSet::new();
    for mut sidecar in sidecars {
        settling.spawn(async move {
            while !{
                let update = sidecar.take().await;
                wanted(&sidecar, &update)
            } {}
            (sidecar, began.elapsed())
        });
    }
    settling.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, on an idle machine and in release mode: cargo test --release -- --ignored"]
async fn a_thousand_sidecars_with_ten_thousand_endpoints() {
    let folder = tempfile::tempdir().unwrap();
    measure(folder.path()).await;
}

async fn measure(folder: &Path) {
    let (program, address) = start(folder);
    let empty = resident(&program);
    let began = Instant::now();
    let sidecars = join_all(address, introduce).await;
    let whole =
        |sidecar: &Sidecar, _: &Update| sidecar.held.len() == EACH * EACH * SIDECARS / SERVICES;
    let sidecars = settle(sidecars, whole).await;
    println!("all joined and told after {:?}", began.elapsed());
    let mesh = resident(&program);
    let each = (mesh - empty) / SIDECARS;
    println!("{empty} KiB empty, {each} KiB more for each sidecar with its {EACH} endpoints");
    let listeners = settle(join_all(address, listener).await, whole).await;
    let each = (resident(&program) - mesh) / SIDECARS;
    println!("{each} KiB for each session that only listens");
    assert!(each < SESSION_KIB, "{each} KiB a session");
    drop(listeners);

    let mut sidecars: Vec<Sidecar> = sidecars.into_iter().map(|(sidecar, _)| sidecar).collect();
    let mut worst = Duration::ZERO;
    for round in 1..=20 {
        let changer = sidecars.swap_remove(0);
        let mut offers: Vec<_> = names_of(&changer);
        offers[0].weight = round;
        let service = offers[0].service.clone();
        let concerned = sidecars
            .iter()
            .filter(|sidecar| sidecar.held.keys().any(|(known, _)| *known == service))
            .count();
        let (listening, quiet): (Vec<_>, Vec<_>) = sidecars
            .into_iter()
            .partition(|sidecar| sidecar.held.keys().any(|(known, _)| *known == service));
        changer.offer(offers).await;
        let told = settle(listening, |_, update| !update.upserts.is_empty()).await;
        assert_eq!(told.len(), concerned);
        worst = worst.max(told.iter().map(|(_, time)| *time).max().unwrap());
        sidecars = quiet;
        sidecars.extend(told.into_iter().map(|(sidecar, _)| sidecar));
        sidecars.push(changer);
    }
    println!("the slowest subscriber of 20 changes was told after {worst:?}");
    assert!(worst < Duration::from_millis(100), "{worst:?}");
}

fn names_of(sidecar: &Sidecar) -> Vec<sidelane_proto::wire::control::v1::Offer> {
    let mut names: Vec<&str> = sidecar.held.keys().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    names.into_iter().map(offer).collect()
}
