//! Deadlines. The client here has no clock of its own, so whatever ends a call in time is the
//! server or, through the mesh, a sidecar.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tonic::Code;

use super::{Ground, SOON, fresh_key, keyed, median};
use crate::client::{RawAnswer, mesh_reason};
use crate::languages::Language;
use crate::wire::v1::{Behaviour, ExpandRequest, Moment, UnaryRequest};

const UNARY: &str = "/sidelane.test.v1.Echo/Unary";
const EXPAND: &str = "/sidelane.test.v1.Echo/Expand";
const TIMES: usize = 5;
const DEADLINE: Duration = Duration::from_millis(200);
/// Both sidecars and the server each count in whole milliseconds, rounded down, and do not begin to
/// count at the same time as the client.
const TOO_EARLY: Duration = Duration::from_millis(4);
/// The median; single calls may be late when the machine is busy.
const TOO_LATE: Duration = Duration::from_millis(50);
/// Longer than the case may take.
const FOR_EVER_MS: u32 = 600_000;

/// A unary call ends at its deadline, on both sides.
pub async fn deadline_of_unary(ground: Ground) -> Result<()> {
    let client = ground.raw().await?;
    ends_in_time(&ground, async |headers, behaviour| {
        let request = UnaryRequest {
            behaviour: Some(behaviour),
            ..UnaryRequest::default()
        };
        client.unary(UNARY, headers, &request).await
    })
    .await
}

/// A stream that has begun ends at its deadline, on both sides.
pub async fn deadline_of_stream(ground: Ground) -> Result<()> {
    if !ground.is_mesh() && ground.server_kind == Language::Rust {
        // tonic's server forgets the deadline once it has sent headers, so nobody would end it.
        println!("       not tested: tonic alone ends no stream at its deadline");
        return Ok(());
    }
    let client = ground.raw().await?;
    ends_in_time(&ground, async |headers, behaviour| {
        let request = ExpandRequest {
            messages: 2,
            bytes: 10,
            behaviour: Some(Behaviour {
                after_messages: 1,
                ..behaviour
            }),
        };
        let answer = client.unary(EXPAND, headers, &request).await?;
        let messages = answer.messages()?.len();
        ensure!(messages == 1, "{messages} messages before the deadline");
        Ok(answer)
    })
    .await
}

/// The server is told how much is left, and that is less than the caller set.
pub async fn remaining_time_is_passed_on(ground: Ground) -> Result<()> {
    let set = Duration::from_secs(20);
    let key = fresh_key("remaining");
    let request = UnaryRequest {
        behaviour: Some(keyed(&key)),
        ..UnaryRequest::default()
    };
    let headers = [("grpc-timeout", "20S")];
    let answer = ground.raw().await?.unary(UNARY, &headers, &request).await?;
    let status = answer.grpc_status()?;
    ensure!(status.code() == Code::Ok, "{status:?}");
    let seen = ground.witness().await?.sees(&key, Moment::Arrived).await?;
    let left = seen.remaining.context("the server saw no deadline")?;
    let least = set - Duration::from_secs(5);
    ensure!(left > least, "of {set:?} only {left:?} were left");
    if ground.is_mesh() {
        ensure!(
            left < set,
            "the way took no time: {left:?} of {set:?} were left"
        );
    }
    Ok(())
}

/// A call whose deadline is over when it comes is refused before it costs anything: the server
/// never sees it.
pub async fn expired_on_arrival(ground: Ground) -> Result<()> {
    let key = fresh_key("expired");
    let request = UnaryRequest {
        behaviour: Some(Behaviour {
            delay_ms: FOR_EVER_MS,
            ..keyed(&key)
        }),
        ..UnaryRequest::default()
    };
    let headers = [("grpc-timeout", "1n")];
    let answer = ground.raw().await?.unary(UNARY, &headers, &request).await?;
    if ground.is_mesh() {
        let status = answer.grpc_status()?;
        ensure!(status.code() == Code::DeadlineExceeded, "{status:?}");
        // To users the mesh gives no reasons of its own.
        let reason = mesh_reason(&status);
        ensure!(
            reason.is_none_or(|it| it == "DEADLINE"),
            "another reason in {status:?}"
        );
        let executed = ground.witness().await?.count(&key).await?;
        ensure!(executed.arrived == 0, "the server got it: {executed:?}");
    } else {
        check_direct(&answer)?;
    }
    Ok(())
}

async fn ends_in_time(
    ground: &Ground,
    mut call: impl AsyncFnMut(&[(&str, &str)], Behaviour) -> Result<RawAnswer>,
) -> Result<()> {
    let timeout = format!("{}m", DEADLINE.as_millis());
    let headers = [("grpc-timeout", timeout.as_str())];
    let mut witness = ground.witness().await?;
    let mut late = Vec::new();
    for _ in 0..TIMES {
        let key = fresh_key("deadline");
        let behaviour = Behaviour {
            delay_ms: FOR_EVER_MS,
            ..keyed(&key)
        };
        let start = Instant::now();
        let called = tokio::time::timeout(SOON, call(&headers, behaviour));
        let answer = called
            .await
            .context("nobody ended the call at its deadline")??;
        let took = start.elapsed();
        if ground.is_mesh() {
            // Whether the server or a sidecar is the first to notice is left to chance, what the
            // caller is told is not.
            let status = answer.grpc_status()?;
            ensure!(status.code() == Code::DeadlineExceeded, "{status:?}");
        } else {
            check_direct(&answer)?;
        }
        ensure!(
            took + TOO_EARLY >= DEADLINE,
            "ended after {took:?}, before {DEADLINE:?}"
        );
        late.push(took.saturating_sub(DEADLINE));
        // Nobody goes on working for nobody.
        witness.sees(&key, Moment::Cancelled).await?;
    }
    let all = format!("{late:?}");
    let median = median(late);
    println!("       late by {median:?} (median of {TIMES})");
    ensure!(
        median < TOO_LATE,
        "late by {median:?} (median of {TIMES}): {all}"
    );
    Ok(())
}

/// Servers end calls at their deadline each in its own way: tonic says CANCELLED, grpcio resets
/// the stream.
fn check_direct(answer: &RawAnswer) -> Result<()> {
    if answer.reset.is_some() {
        return Ok(());
    }
    let status = answer.grpc_status()?;
    let known = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
    ensure!(known, "{status:?}");
    Ok(())
}
