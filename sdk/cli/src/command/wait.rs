//! `sidelane wait`: for what an app's start or a deployment has to wait for. Either a sidecar is
//! ready, or every sidecar has taken over a revision of what control knows. Whoever waits in vain
//! is told what was missing.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use sidelane_process::fetch::FetchError;
use sidelane_process::settings::{Flag, Origin, Program, Settings, value};
use sidelane_proto::wire::admin::v1::{Laggard, WaitRevisionResponse};
use tokio::time::{Instant, sleep};

use super::arguments::{self, CONTROL, Format, OUTPUT, SIDECAR, Usage};
use super::sidecar::{self, SidecarError};
use super::{Failure, block_on, control, output};

const FOR: Flag = Flag::single(
    "for",
    "outbound|inbound|all",
    "What must be ready: calls out, calls in, or both",
)
.or("all");
const TIMEOUT: Flag = Flag::single("timeout", "DURATION", "The longest wait").or("60s");
const REVISION: Flag = Flag::single(
    "revision",
    "NUMBER",
    "Wait until every sidecar has this revision instead; 0 is control's newest",
);

/// Time between two looks at a sidecar.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane wait",
        version: env!("CARGO_PKG_VERSION"),
        about: "Waits until a sidecar is ready, or until all have a revision",
        flags: &[SIDECAR, FOR, REVISION, CONTROL, TIMEOUT, OUTPUT],
    },
    operand: None,
};

/// It did not come to be in time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WaitError {
    /// A sidecar did not become ready.
    #[error("{url} was not ready within {}: {reason}", seconds(*limit))]
    NotReady {
        /// What was asked.
        url: String,
        /// How long.
        limit: Duration,
        /// What it said last.
        reason: String,
    },
    /// Control has never come to the revision.
    #[error(
        "control did not come to revision {revision} within {}: its newest is {newest}",
        seconds(*limit)
    )]
    NotThere {
        /// The revision that was waited for.
        revision: u64,
        /// How long.
        limit: Duration,
        /// The newest that there is.
        newest: u64,
    },
    /// Some sidecars do not have the revision.
    #[error("revision {revision} was not everywhere within {}:{}", seconds(*limit), listed(laggards))]
    Behind {
        /// The revision that was waited for.
        revision: u64,
        /// How long.
        limit: Duration,
        /// Those that do not have it.
        laggards: Vec<Laggard>,
    },
}

/// What a sidecar must be ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    Outbound,
    Inbound,
    All,
}

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let settings = &arguments.settings;
    let limit = settings.value(&TIMEOUT, value::duration)?;
    let revision = settings.optional(&REVISION, str::parse::<u64>)?;
    no_conflict(settings, revision.is_some())?;
    let waited = match revision {
        Some(revision) => for_revision(settings, revision, limit),
        None => for_sidecar(settings, limit),
    };
    match (format, waited) {
        (Format::Table, waited) => output::line(&waited?.text()),
        (Format::Json, Ok(waited)) => output::json(&waited.json()).map(|()| ExitCode::SUCCESS),
        // Programs are told, too, what is missing. Where nothing is known, there is only the error.
        (Format::Json, Err(Failure::Wait(error))) => {
            output::json(&error.json())?;
            Err(error.into())
        }
        (Format::Json, Err(failure)) => Err(failure),
    }
}

/// What was waited for has come to be.
enum Waited {
    /// The page of a sidecar, after this time.
    Ready(String, Duration),
    /// Every connected sidecar has this revision.
    Everywhere(u64),
}

impl Waited {
    fn text(&self) -> String {
        match self {
            Self::Ready(url, took) => format!("{url} is ready after {}", seconds(*took)),
            Self::Everywhere(revision) => {
                format!("every connected sidecar has revision {revision}")
            }
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Ready(url, took) => {
                let waited = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                json!({ "ready": true, "url": url, "waited_ms": waited })
            }
            Self::Everywhere(revision) => {
                json!({ "reached": true, "revision": revision, "laggards": [] })
            }
        }
    }
}

impl WaitError {
    fn json(&self) -> Value {
        match self {
            Self::NotReady { url, reason, .. } => {
                json!({ "ready": false, "url": url, "reason": reason })
            }
            Self::NotThere {
                revision, newest, ..
            } => {
                json!({
                    "reached": false, "revision": revision, "newest": newest, "laggards": [],
                })
            }
            Self::Behind {
                revision, laggards, ..
            } => {
                let laggards = laggards.iter().map(|laggard| {
                    json!({
                        "node_id": laggard.node_id,
                        "acknowledged": laggard.acknowledged,
                        "refused": laggard.refused,
                    })
                });
                let laggards: Vec<_> = laggards.collect();
                json!({ "reached": false, "revision": revision, "laggards": laggards })
            }
        }
    }
}

/// A wait is for one thing: flags of the other one would be ignored, which nobody can mean.
fn no_conflict(settings: &Settings, revision: bool) -> Result<(), Failure> {
    let (others, why) = if revision {
        let why = "with --revision control is asked, about all sidecars";
        ([&SIDECAR, &FOR].as_slice(), why)
    } else {
        let why = "without --revision a sidecar is waited for, and control is not asked";
        ([&CONTROL].as_slice(), why)
    };
    let given = others.iter().find(|flag| {
        let item = settings.item(flag);
        item.is_some_and(|item| *item.origin() == Origin::CommandLine)
    });
    given.map_or(Ok(()), |flag| {
        let flag = flag.name;
        Err(Failure::OfNoUse { flag, why })
    })
}

fn for_sidecar(settings: &Settings, limit: Duration) -> Result<Waited, Failure> {
    let choices = [
        ("outbound", Ready::Outbound),
        ("inbound", Ready::Inbound),
        ("all", Ready::All),
    ];
    let ready = settings.value(&FOR, |text| value::choice(text, &choices))?;
    let sidecar = sidecar::base(settings)?;
    let page = match ready {
        Ready::Outbound => "/readyz?for=outbound",
        Ready::Inbound => "/readyz?for=inbound",
        Ready::All => "/readyz",
    };
    let took = block_on(until_ready(&sidecar, page, limit))??;
    Ok(Waited::Ready(format!("{sidecar}{page}"), took))
}

async fn until_ready(sidecar: &str, page: &str, limit: Duration) -> Result<Duration, Failure> {
    let began = Instant::now();
    let deadline = began + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let reason = match sidecar::get(sidecar, page, LOOK_LIMIT.min(left)).await {
            Ok(fetched) if fetched.status.is_success() => return Ok(began.elapsed()),
            Ok(fetched) => {
                let said = fetched.text();
                format!("it answered {}: {}", fetched.status, said.trim())
            }
            // That will not get better.
            Err(error @ SidecarError::Answer(FetchError::BadUrl { .. })) => {
                return Err(error.into());
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() + LOOK_EVERY >= deadline {
            let url = format!("{sidecar}{page}");
            return Err(WaitError::NotReady { url, limit, reason }.into());
        }
        sleep(LOOK_EVERY).await;
    }
}

fn for_revision(settings: &Settings, revision: u64, limit: Duration) -> Result<Waited, Failure> {
    let addresses = control::addresses(settings)?;
    let answer: WaitRevisionResponse = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        let answer = control.wait_revision(revision, limit).await?;
        if !answer.reached && answer.laggards.is_empty() {
            let version = control.list_nodes("").await?.version.unwrap_or_default();
            let newest = version.counter;
            return Err(Failure::from(WaitError::NotThere {
                revision,
                limit,
                newest,
            }));
        }
        Ok(answer)
    })??;
    let WaitRevisionResponse {
        reached,
        revision,
        laggards,
        ..
    } = answer;
    if reached {
        return Ok(Waited::Everywhere(revision));
    }
    Err(WaitError::Behind {
        revision,
        limit,
        laggards,
    }
    .into())
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else if time.subsec_millis() == 0 {
        format!("{} s", time.as_secs())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

fn listed(laggards: &[Laggard]) -> String {
    let mut text = String::new();
    for laggard in laggards {
        let Laggard {
            node_id,
            acknowledged,
            refused,
        } = laggard;
        // Writing into a String cannot fail.
        let _ = write!(text, "\n  {node_id} has {acknowledged}");
        if !refused.is_empty() {
            let _ = write!(text, " and refused what came later: {refused}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laggards_are_listed_with_what_they_refused() {
        let laggard = |node_id: &str, acknowledged, refused: &str| Laggard {
            node_id: node_id.to_owned(),
            acknowledged,
            refused: refused.to_owned(),
        };
        let error = WaitError::Behind {
            revision: 9,
            limit: Duration::from_secs(2),
            laggards: vec![
                laggard("orders-1", 7, ""),
                laggard("orders-2", 8, "upserts[0].lane: unknown"),
            ],
        };
        assert_eq!(
            error.to_string(),
            "revision 9 was not everywhere within 2 s:\n  orders-1 has 7\n  orders-2 has 8 and \
             refused what came later: upserts[0].lane: unknown"
        );
        let told = error.json();
        assert_eq!(
            (&told["reached"], &told["revision"]),
            (&json!(false), &json!(9))
        );
        let last = json!({
            "node_id": "orders-2", "acknowledged": 8, "refused": "upserts[0].lane: unknown",
        });
        assert_eq!(told["laggards"][1], last);
    }

    #[test]
    fn times_are_short() {
        assert_eq!(seconds(Duration::from_secs(60)), "60 s");
        assert_eq!(seconds(Duration::from_millis(1_250)), "1.2 s");
        assert_eq!(seconds(Duration::from_millis(50)), "50 ms");
    }
}
