//! The pool against real sockets: one dial for all who wait, every bound by going past it, and
//! what becomes of links that are idle, old, replaced or lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use sidelane_proto::model::{ConnectionClass, Lane, PeerAddress};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::lane::MAX_AGE;

/// Tells the test about links that ended by themselves.
struct Told(mpsc::UnboundedSender<String>);

impl Observer for Told {
    fn closed(&self, key: &Key, cause: &CloseCause) {
        let _ = self.0.send(format!("{key}: {cause}"));
    }
}

/// An HTTP/2 server that takes calls and never answers.
struct Server {
    address: Address,
    connections: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    let mut calls = Vec::new();
                    while let Some(Ok(call)) = connection.accept().await {
                        calls.push(call);
                    }
                });
            }
        });
        Self {
            address: Address::Tcp(PeerAddress::new(&address).unwrap()),
            connections,
            accepting,
        }
    }

    fn key(&self, lane: Lane) -> Key {
        Key {
            to: To::Local(self.address.clone()),
            class: ConnectionClass::Internal,
            lane,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn pool() -> (Arc<Pool>, mpsc::UnboundedReceiver<String>) {
    let node = NodeId::new("test").unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    let own = Own::new(node, Generation::new(1).unwrap());
    let pool = Pool::new(
        own,
        Arc::new(Told(sender)),
        Arc::default(),
        Arc::default(),
        Trust::Disabled,
        MAX_AGE,
    );
    (pool, receiver)
}

async fn nobody() -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    Address::Tcp(PeerAddress::new(&address).unwrap())
}

#[tokio::test]
async fn all_who_wait_for_one_key_share_one_dial() {
    let server = Server::start().await;
    let (pool, _told) = pool();
    let key = server.key(Lane::GENERAL);
    let seats = (0..50).map(|_| pool.seat(&key, &server.address, false, || false));
    let seats = futures_util::future::join_all(seats).await;
    assert!(seats.iter().all(Result::is_ok));
    assert_eq!(server.connections(), 1);
    assert_eq!(pool.links().len(), 1);
    assert_eq!(pool.links()[0].in_flight(), 50);
    drop(seats);
    assert_eq!(pool.links()[0].in_flight(), 0);
}

#[tokio::test]
async fn a_link_that_stood_before_does_not_count_as_reached_anew() {
    let server = Server::start().await;
    let (pool, _told) = pool();
    let key = server.key(Lane::GENERAL);
    drop(
        pool.seat(&key, &server.address, false, || false)
            .await
            .unwrap(),
    );
    let since = Instant::now();
    pool.reach(&key, &server.address, since).await.unwrap();
    assert_eq!(server.connections(), 2, "dialled although a link stood");
    pool.reach(&key, &server.address, since).await.unwrap();
    assert_eq!(server.connections(), 2, "the newer link is enough");
    server.accepting.abort();
    let since = Instant::now();
    let refused = pool.reach(&key, &server.address, since).await;
    assert!(matches!(refused, Err(PoolError::Connect { .. })));
}

#[tokio::test]
async fn lanes_do_not_share_a_connection() {
    let server = Server::start().await;
    let (pool, _told) = pool();
    for lane in [Lane::GENERAL, Lane::GOSSIP, Lane::BIFROST_DATA] {
        pool.seat(&server.key(lane), &server.address, false, || false)
            .await
            .unwrap();
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_full_lane_refuses_and_says_so() {
    let server = Server::start().await;
    let (pool, _told) = pool();
    let key = server.key(Lane::BIFROST_DATA);
    let lane = settings(Lane::BIFROST_DATA);
    let room = lane.max_connections * lane.max_streams as usize;
    let mut seats = Vec::new();
    for _ in 0..room {
        seats.push(
            pool.seat(&key, &server.address, false, || false)
                .await
                .unwrap(),
        );
    }
    assert_eq!(server.connections(), lane.max_connections);
    let full = pool
        .seat(&key, &server.address, false, || false)
        .await
        .unwrap_err()
        .to_string();
    let expected = format!(
        "{key}: all 2 connections have 64 calls each; try again later, or give the service its \
         own lane"
    );
    assert_eq!(full, expected);
    assert_eq!(pool.links().len(), lane.max_connections);
    seats.pop();
    assert!(
        pool.seat(&key, &server.address, false, || false)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn those_who_wait_for_a_dial_have_a_bound_too() {
    // A listener that completes no TCP connection of ours in time is hard to have; one that
    // never answers the peer's Hello is as good: the dial stays under way.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = listener.local_addr().unwrap().to_string();
    let address = Address::Tcp(PeerAddress::new(&text).unwrap());
    let (pool, _told) = pool();
    let key = Key {
        to: To::Peer {
            node: NodeId::new("silent").unwrap(),
            generation: Generation::new(1).unwrap(),
        },
        class: ConnectionClass::Internal,
        lane: Lane::GOSSIP,
    };
    let bound = settings(Lane::GOSSIP).max_waiting;
    let mut waiting = JoinSet::new();
    for _ in 0..=bound {
        let (pool, key, address) = (Arc::clone(&pool), key.clone(), address.clone());
        waiting.spawn(async move { pool.seat(&key, &address, false, || false).await.map(drop) });
    }
    // The one too many is told at once; the others still wait.
    let first = waiting.join_next().await.unwrap().unwrap();
    assert!(
        matches!(first, Err(PoolError::LaneFull { .. })),
        "{first:?}"
    );
    assert_eq!(waiting.len(), bound);
}

#[tokio::test]
async fn a_failed_dial_holds_back_the_next_ones() {
    let address = nobody().await;
    let (pool, _told) = pool();
    let key = Key {
        to: To::Local(address.clone()),
        class: ConnectionClass::Internal,
        lane: Lane::GENERAL,
    };
    let first = pool
        .seat(&key, &address, false, || false)
        .await
        .unwrap_err();
    assert!(
        matches!(first, PoolError::Connect { again: None, .. }),
        "{first}"
    );
    let PoolError::Connect {
        again: Some(wait), ..
    } = pool
        .seat(&key, &address, false, || false)
        .await
        .unwrap_err()
    else {
        panic!("it was dialled again at once");
    };
    assert!(wait <= backoff::FIRST, "{wait:?}");
}

#[tokio::test]
async fn a_retired_link_lets_its_calls_finish() {
    let server = Server::start().await;
    let (pool, mut told) = pool();
    let key = server.key(Lane::GENERAL);
    let seat = pool
        .seat(&key, &server.address, false, || false)
        .await
        .unwrap();
    let request = http::Request::post("http://a/b.C/D").body(()).unwrap();
    let (answer, _body) = seat.send(request, false).unwrap();
    pool.links()[0].retire();
    let second = pool
        .seat(&key, &server.address, false, || false)
        .await
        .unwrap();
    assert_eq!(server.connections(), 2);
    assert!(futures_util::FutureExt::now_or_never(answer).is_none());
    drop((seat, second));
    assert!(
        told.try_recv().is_err(),
        "a link that was retired is no ghost"
    );
}

#[tokio::test]
async fn a_lost_link_is_told_and_its_calls_fail() {
    let server = Server::start().await;
    let (pool, mut told) = pool();
    let key = server.key(Lane::GENERAL);
    let seat = pool
        .seat(&key, &server.address, false, || false)
        .await
        .unwrap();
    let request = http::Request::post("http://a/b.C/D").body(()).unwrap();
    let (answer, _body) = seat.send(request, false).unwrap();
    server.accepting.abort();
    assert!(answer.await.is_err());
    let said = told.recv().await.unwrap();
    assert!(said.starts_with(&key.to_string()), "{said}");
    assert!(pool.links().is_empty());
}

#[tokio::test]
async fn idle_and_old_links_end_but_persistent_ones_stay() {
    let server = Server::start().await;
    let (pool, _told) = pool();
    let idle = settings(Lane::GENERAL).idle;
    let (plain, kept) = (server.key(Lane::GENERAL), server.key(Lane::GOSSIP));
    drop(
        pool.seat(&plain, &server.address, false, || false)
            .await
            .unwrap(),
    );
    drop(
        pool.seat(&kept, &server.address, true, || false)
            .await
            .unwrap(),
    );
    let now = Instant::now();
    pool.sweep_at(now);
    assert_eq!(pool.links().len(), 2);
    pool.sweep_at(now + idle + Duration::from_millis(1));
    let left: Vec<_> = pool.links().iter().map(|link| link.key.lane).collect();
    assert_eq!(left, [Lane::GOSSIP]);
    pool.sweep_at(now + MAX_AGE * 2);
    assert!(pool.links().is_empty());
}

/// A server that answers each call after a moment. What it has seen: connections, and those of them
/// that broke.
async fn answering() -> (Address, Arc<[AtomicUsize; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = PeerAddress::new(&listener.local_addr().unwrap().to_string()).unwrap();
    let seen: Arc<[AtomicUsize; 2]> = Arc::default();
    let counted = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted[0].fetch_add(1, Ordering::Relaxed);
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(call) = connection.accept().await {
                    let Ok((_, mut respond)) = call else {
                        counted[1].fetch_add(1, Ordering::Relaxed);
                        return;
                    };
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        let answer = http::Response::new(());
                        respond.send_response(answer, true).unwrap();
                    });
                }
            });
        }
    });
    (Address::Tcp(address), seen)
}

#[tokio::test]
async fn links_that_are_too_old_are_replaced_under_load_and_no_call_is_cut() {
    const SWEEPS: usize = 20;
    let (address, seen) = answering().await;
    let (pool, mut told) = pool();
    let key = Key {
        to: To::Local(address.clone()),
        class: ConnectionClass::Internal,
        lane: Lane::GENERAL,
    };
    let swept = AtomicUsize::new(0);
    let callers = (0..20).map(|_| async {
        let mut calls = 0;
        while swept.load(Ordering::Relaxed) < SWEEPS {
            let seat = pool.seat(&key, &address, true, || true).await.unwrap();
            let request = http::Request::post("http://a.B/C").body(()).unwrap();
            // Between the seat and the call its link may have come of age: nothing has left then.
            let Ok((response, _)) = seat.send(request, true) else {
                continue;
            };
            // And what has left is answered, however old the link.
            response.await.unwrap();
            calls += 1;
        }
        calls
    });
    let ages = async {
        while swept.load(Ordering::Relaxed) < SWEEPS {
            tokio::time::sleep(Duration::from_millis(25)).await;
            pool.sweep_at(Instant::now() + MAX_AGE * 2);
            swept.fetch_add(1, Ordering::Relaxed);
        }
    };
    let (calls, ()) = tokio::join!(futures_util::future::join_all(callers), ages);
    assert!(calls.iter().all(|calls| *calls > 0), "{calls:?}");
    let [connections, broken] = [0, 1].map(|index| seen[index].load(Ordering::Relaxed));
    assert!(connections >= SWEEPS / 2, "{connections} connections");
    assert_eq!(broken, 0);
    assert!(told.try_recv().is_err());
}

#[test]
fn links_come_of_age_a_tenth_sooner_or_later() {
    let ages = (0..1_000).map(|_| {
        let (now, expires) = lifetime(MAX_AGE);
        (expires - now).div_duration_f64(MAX_AGE)
    });
    let ages: Vec<f64> = ages.collect();
    assert!(ages.iter().all(|age| (0.899..=1.101).contains(age)));
    // So links that were opened together are not replaced together.
    assert!(ages.iter().any(|age| *age < 0.95) && ages.iter().any(|age| *age > 1.05));
}

#[tokio::test]
async fn a_busy_link_is_not_idle() {
    let server = Server::start().await;
    let (pool, _told) = pool();
    let key = server.key(Lane::GENERAL);
    let _seat = pool
        .seat(&key, &server.address, false, || false)
        .await
        .unwrap();
    pool.sweep_at(Instant::now() + settings(Lane::GENERAL).idle * 2);
    assert_eq!(pool.links().len(), 1);
}

#[tokio::test]
async fn destinations_outside_the_mesh_have_a_bound() {
    let (pool, _told) = pool();
    let reach = |number: usize| {
        // Nobody listens on port 1, so each of them is refused, and remembered.
        let [_, _, high, low] = u32::try_from(number).unwrap().to_be_bytes();
        let at = PeerAddress::new(&format!("127.77.{high}.{low}:1")).unwrap();
        let key = Key {
            to: To::Destination(at.clone()),
            class: ConnectionClass::Internal,
            lane: Lane::GENERAL,
        };
        let pool = Arc::clone(&pool);
        async move {
            pool.seat(&key, &Address::Tcp(at), false, || false)
                .await
                .unwrap_err()
        }
    };
    for number in 0..DESTINATIONS_LIMIT {
        let error = reach(number).await;
        assert!(matches!(error, PoolError::Connect { .. }), "{error}");
    }
    let error = reach(DESTINATIONS_LIMIT).await;
    assert!(matches!(error, PoolError::TooManyDestinations), "{error}");
    // One that is known is dialled again, and the mesh's own have places of their own.
    let error = reach(0).await;
    assert!(matches!(error, PoolError::Connect { .. }), "{error}");
    let server = Server::start().await;
    let own = server.key(Lane::GENERAL);
    pool.seat(&own, &server.address, false, || false)
        .await
        .unwrap();
    pool.sweep_at(Instant::now() + FORGET + SWEEP);
    let error = reach(DESTINATIONS_LIMIT).await;
    assert!(matches!(error, PoolError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn every_link_is_known_as_the_sidecars_own_for_as_long_as_it_stands() {
    let server = Server::start().await;
    let (pool, mut told) = pool();
    let key = server.key(Lane::GENERAL);
    pool.seat(&key, &server.address, false, || false)
        .await
        .unwrap();
    let link = Arc::clone(&pool.links()[0]);
    let (local, remote) = (link.local.unwrap(), link.remote.unwrap());
    assert!(pool.onward.has_opened(local, remote));
    pool.close().await;
    assert!(!pool.onward.has_opened(local, remote));
    assert!(told.try_recv().is_err());
}

/// A lane without room, and all its seats.
async fn full(server: &Server, pool: &Pool, lane: Lane) -> Vec<Seat> {
    let (key, lane) = (server.key(lane), settings(lane));
    let mut seats = Vec::new();
    for _ in 0..lane.max_connections * lane.max_streams as usize {
        let seat = pool.seat(&key, &server.address, false, || false).await;
        seats.push(seat.unwrap());
    }
    seats
}

#[tokio::test]
async fn who_waits_for_room_gets_it_in_turn_and_the_line_has_a_bound() {
    let server = Server::start().await;
    let (pool, _told) = pool();
    let (key, lane) = (server.key(Lane::GOSSIP), settings(Lane::GOSSIP));
    let mut seats = full(&server, &pool, Lane::GOSSIP).await;
    let wait = || pool.seat(&key, &server.address, false, || true);
    let mut line: Vec<_> = (0..lane.queue).map(|_| Box::pin(wait())).collect();
    for waits in &mut line {
        assert!(waits.now_or_never().is_none());
    }
    // One too many, and that at once.
    let refused = wait().now_or_never();
    assert!(matches!(refused, Some(Err(PoolError::LaneFull { .. }))));
    // Who leaves is passed over; the others keep their turn.
    drop(line.remove(0));
    seats.pop();
    let Some(Ok(second)) = (&mut line[0]).now_or_never() else {
        panic!("the first in line has its turn");
    };
    assert!((&mut line[1]).now_or_never().is_none());
    // Newcomers go behind, also where a seat is given back at this moment.
    drop(second);
    let newcomer =
        futures_util::FutureExt::now_or_never(pool.seat(&key, &server.address, false, || false));
    assert!(matches!(newcomer, Some(Err(PoolError::LaneFull { .. }))));
    assert!((&mut line[1]).now_or_never().is_some());
}

#[tokio::test]
async fn nobody_waits_longer_than_the_lane_says() {
    let server = Server::start().await;
    let (pool, _told) = pool();
    let (key, lane) = (server.key(Lane::GOSSIP), settings(Lane::GOSSIP));
    let _seats = full(&server, &pool, Lane::GOSSIP).await;
    let start = Instant::now();
    let refused = pool.seat(&key, &server.address, false, || true).await;
    assert!(matches!(refused, Err(PoolError::LaneFull { .. })));
    assert!(start.elapsed() >= lane.longest_wait);
}

#[tokio::test]
async fn who_waits_on_links_that_retire_dials_anew() {
    let server = Server::start().await;
    let (pool, _told) = pool();
    let key = server.key(Lane::GOSSIP);
    let _seats = full(&server, &pool, Lane::GOSSIP).await;
    let mut waits = Box::pin(pool.seat(&key, &server.address, false, || true));
    assert!((&mut waits).now_or_never().is_none());
    pool.links().iter().for_each(|link| link.retire());
    assert!(waits.await.is_ok());
    assert_eq!(server.connections(), 2);
}
