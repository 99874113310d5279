//! `sidelane tap`: calls as they end, at one sidecar or at several. Each sidecar sorts out for itself
//! what is meant, keeps secrets back, and says how many calls it could not tell of; here they come
//! together and are shown.

mod show;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use sidelane_process::fetch::{self, FetchError, Fetched, Lines};
use sidelane_process::settings::{Flag, Program, Settings, value};
use tokio::signal::ctrl_c;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::arguments::{self, Format, OUTPUT, Usage, plain};
use super::figures::{self, SIDECARS};
use super::sidecar::{SidecarError, escaped};
use super::{Failure, block_on};
use show::Show;

const SERVICE: Flag = Flag::list(
    "service",
    "NAME,…",
    "Only calls of these services; `shop.*` is all that begin so, here as with other names",
);
const METHOD: Flag = Flag::list("method", "NAME,…", "Only calls of these methods");
const PATH: Flag = Flag::list("path", "PATH,…", "Only calls of these paths");
const CONNECTION: Flag = Flag::list("connection", "CLASS,…", "Only calls of these classes");
const LANE: Flag = Flag::list("lane", "LANE,…", "Only calls in these lanes");
const DIRECTION: Flag = Flag::list(
    "direction",
    "inbound|outbound",
    "Only calls of peers, or only those of the app beside the sidecar and of users",
);
const PEER: Flag = Flag::list(
    "peer",
    "NAME,…",
    "Only calls to or from these nodes, identities or users' addresses",
);
const STATUS: Flag = Flag::list(
    "status",
    "STATUS,…",
    "Only calls that ended so: `error`, UNAVAILABLE or 14, or a reason such as NO_ENDPOINT",
);
const ABOVE: Flag = Flag::single("above", "DURATION", "Only calls that took longer");
const HEADERS: Flag = Flag::switch(
    "headers",
    "Shows headers, too, as JSON always does; never what they prove who somebody is by",
);
const REDACT: Flag = Flag::list(
    "redact",
    "NAME,…",
    "Hides the values of these headers, too; `x-acme-*` is all that begin so",
);
const LIMIT: Flag = Flag::single("limit", "CALLS", "Ends after so many calls");
const FOR: Flag = Flag::single("for", "DURATION", "Ends after this time");

/// What a sidecar is asked by the flags' own names.
const ASKED: [&Flag; 10] = [
    &SERVICE,
    &METHOD,
    &PATH,
    &CONNECTION,
    &LANE,
    &DIRECTION,
    &PEER,
    &STATUS,
    &ABOVE,
    &REDACT,
];
/// How long a sidecar may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(5);
/// A sidecar says something at least each 5 s, be it an empty line.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Lines that wait to be shown. While they do nothing is read, and the sidecars count what they cannot
/// tell.
const WAITING: usize = 64;

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane tap",
        version: env!("CARGO_PKG_VERSION"),
        about: "Shows calls as they end, at one sidecar or at several",
        flags: &[
            SIDECARS, SERVICE, METHOD, PATH, CONNECTION, LANE, DIRECTION, PEER, STATUS, ABOVE,
            HEADERS, REDACT, LIMIT, FOR, OUTPUT,
        ],
    },
    operand: None,
};

/// It could not begin, or did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapError {
    /// A sidecar does not let it.
    #[error("{sidecar} does not tell of its calls: {why}")]
    Refused {
        /// Which.
        sidecar: String,
        /// What it said, and what to do.
        why: String,
    },
    /// Nobody is left to tell of calls.
    #[error("no sidecar is left that tells of its calls: {}", .0.join("; "))]
    AllGone(Vec<String>),
}

/// What a sidecar says, or what became of it.
enum Said {
    Line(Value),
    /// It has told all that it was to tell.
    Done,
    Gone {
        sidecar: String,
        why: String,
    },
}

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let settings = &arguments.settings;
    let bases = figures::bases(settings)?;
    let headers = settings.switch(&HEADERS)? || format == Format::Json;
    let limit = settings.optional(&LIMIT, count)?;
    // Checked here, so that a mistake is told as one of the command line.
    settings.optional(&ABOVE, value::duration)?;
    settings.optional(&FOR, value::duration)?;
    let query = query(settings, headers)?;
    block_on(tap(bases, query, limit, Show::new(format, headers)))?
}

async fn tap(
    bases: Vec<String>,
    query: String,
    limit: Option<u64>,
    mut show: Show,
) -> Result<ExitCode, Failure> {
    let (sender, mut said) = mpsc::channel(WAITING);
    let mut readers = JoinSet::new();
    for base in bases {
        let lines = begin(&base, &query).await?;
        readers.spawn(read(base, lines, sender.clone()));
    }
    drop(sender);
    let began = Instant::now();
    let (mut calls, mut gone) = (0, Vec::new());
    let mut done = false;
    while limit.is_none_or(|limit| calls < limit) {
        let said = tokio::select! {
            said = said.recv() => said,
            // What was seen so far was what was wanted.
            _ = ctrl_c() => break,
        };
        match said {
            Some(Said::Line(line)) => {
                calls += u64::from(line["kind"] == "call");
                show.line(&line)?;
            }
            Some(Said::Done) => done = true,
            Some(Said::Gone { sidecar, why }) => {
                show.line(&json!({ "kind": "gone", "sidecar": sidecar, "why": why }))?;
                gone.push(format!("{sidecar}: {why}"));
            }
            None if done => break,
            None => return Err(TapError::AllGone(gone).into()),
        }
    }
    show.end(calls, began.elapsed());
    Ok(ExitCode::SUCCESS)
}

async fn begin(base: &str, query: &str) -> Result<Lines, Failure> {
    let url = format!("{base}/tap?{query}");
    match fetch::lines(&url, BEGIN_LIMIT).await {
        Ok(Ok(lines)) => Ok(lines),
        Ok(Err(answer)) => Err(refused(base, &answer).into()),
        Err(FetchError::Unreachable { source, .. }) => Err(SidecarError::Unreachable {
            sidecar: base.to_owned(),
            why: source.to_string(),
        }
        .into()),
        Err(error) => Err(SidecarError::Answer(error).into()),
    }
}

fn refused(base: &str, answer: &Fetched) -> TapError {
    let why = match answer.status {
        StatusCode::NOT_FOUND => "it has no page /tap: it is no sidecar, or older than this \
                                  command; `sidelane version --sidecar URL` says which"
            .to_owned(),
        _ => answer.text().trim().to_owned(),
    };
    TapError::Refused {
        sidecar: base.to_owned(),
        why,
    }
}

/// Reads what one sidecar says, up to its end.
async fn read(sidecar: String, mut lines: Lines, said: mpsc::Sender<Said>) {
    let mut done = false;
    let why = loop {
        let line = match timeout(SILENCE_LIMIT, lines.next()).await {
            Err(_) => break format!("it has said nothing for {} s", SILENCE_LIMIT.as_secs()),
            Ok(Err(_)) => break "its connection broke: it has ended, or was killed".to_owned(),
            Ok(Ok(None)) => break "it is ending, or cut the connection".to_owned(),
            Ok(Ok(Some(line))) => line,
        };
        // It has nothing to say, and is there.
        if line.trim().is_empty() {
            continue;
        }
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            break "what it says is no line of JSON".to_owned();
        };
        done |= line["kind"] == "ended";
        if said.send(Said::Line(line)).await.is_err() {
            return;
        }
        if done {
            break String::new();
        }
    };
    let last = match done {
        true => Said::Done,
        false => Said::Gone { sidecar, why },
    };
    // Whoever would read it may have seen enough.
    let _ = said.send(last).await;
}

/// What is asked of each sidecar, as the query of a URL.
fn query(settings: &Settings, headers: bool) -> Result<String, Failure> {
    let mut pairs = vec![("headers", headers.to_string())];
    for flag in ASKED {
        for given in settings.list(flag, plain)? {
            pairs.push((flag.name, given));
        }
    }
    for flag in [&LIMIT, &FOR] {
        if let Some(given) = settings.optional(flag, plain)? {
            pairs.push((flag.name, given));
        }
    }
    let pairs = pairs
        .iter()
        .map(|(name, given)| format!("{name}={}", escaped(given)));
    Ok(pairs.collect::<Vec<_>>().join("&"))
}

fn count(text: &str) -> Result<u64, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "it is a number of calls, from 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_what_the_flags_say() {
        let given = [
            "--service",
            "shop.v1.Orders,shop.v1.C*",
            "--peer=spiffe://mesh.example/ns/shop",
            "--above",
            "20ms",
            "--limit",
            "3",
            "--redact",
            "x-a&b",
        ];
        let given = given.map(OsString::from).to_vec();
        let settings = arguments::parsed_for_tests(&USAGE, given);
        assert_eq!(
            query(&settings, true).unwrap(),
            "headers=true&service=shop.v1.Orders&service=shop.v1.C%2A\
             &peer=spiffe%3A//mesh.example/ns/shop&above=20ms&redact=x-a%26b&limit=3"
        );
    }

    #[test]
    fn no_calls_are_no_limit() {
        assert_eq!(count("7"), Ok(7));
        for wrong in ["0", "-1", "many", ""] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
    }
}
