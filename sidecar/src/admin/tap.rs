//! `/tap`: calls as they end, a line of JSON each, for as long as somebody reads. What may be asked is
//! read here; what is looked at, and what is told of it, is `telemetry::tap`.

use std::time::Duration;

use http::StatusCode;
use sidelane_process::admin::{
    AdminRequest, AdminResponse, AdminStream, CONNECTION_AGE, STREAM_AGE,
};
use sidelane_process::settings::{nearest, value};

use crate::stack::Stack;
use crate::telemetry::tap::{Filter, NAMES, Redaction, Wish};

/// Lines of JSON.
const LINES: &str = "application/x-ndjson";
/// What else may be asked, beside filters.
const OTHERS: [&str; 4] = ["headers", "redact", "limit", "for"];
/// Values may be secrets that nobody knows the names of, and whoever asks from elsewhere is not asked
/// who that is.
const KEPT_BACK: &str = "kept back: they are told to this sidecar's own machine alone";

/// The page, or why there is none.
pub(super) fn page(stack: &Stack, request: &AdminRequest) -> Result<AdminStream, AdminResponse> {
    let bad = |text: String| AdminResponse::text(text).with_status(StatusCode::BAD_REQUEST);
    let (wish, kept_back) = allowed(request).map_err(|why| bad(format!("{why}\n")))?;
    let listening = stack.metrics.taps.open(wish).map_err(|error| {
        AdminResponse::text(format!("{error}\n")).with_status(StatusCode::TOO_MANY_REQUESTS)
    })?;
    let mut pieces = listening.pieces(stack.own.node.as_str(), kept_back);
    Ok(AdminStream::new(LINES, move |context| {
        pieces.poll_next(context)
    }))
}

/// How long a tap goes on at most: a connection may have lasted [`CONNECTION_AGE`] when its answer
/// begins, and the answer is to say that it ends before it is cut off.
const LONGEST: Duration = Duration::from_secs(STREAM_AGE.as_secs() - 2 * CONNECTION_AGE.as_secs());

/// What is told of what was asked for, and why that is not all.
fn allowed(request: &AdminRequest) -> Result<(Wish, Option<&'static str>), String> {
    let mut wish = read(request)?;
    let kept_back = (wish.headers && !request.near).then_some(KEPT_BACK);
    wish.headers &= request.near;
    wish.near = request.near;
    Ok((wish, kept_back))
}

fn read(request: &AdminRequest) -> Result<Wish, String> {
    let mut wish = Wish {
        longest: Some(LONGEST),
        ..Wish::default()
    };
    let (mut filters, mut hidden) = (Vec::new(), Vec::new());
    for (name, given) in &request.query {
        let bad = |why: &dyn std::fmt::Display| format!("{name}={given}: {why}");
        match name.as_str() {
            "headers" => wish.headers = value::boolean(given).map_err(|error| bad(&error))?,
            "redact" => hidden.push(given.clone()),
            "limit" => {
                let limit = given.parse().ok().filter(|limit| *limit > 0);
                let limit = limit.ok_or_else(|| bad(&"it is a number of calls, from 1"))?;
                wish.limit = Some(limit);
            }
            "for" => {
                let longest = value::duration(given).map_err(|error| bad(&error))?;
                if longest.is_zero() {
                    return Err(bad(&"it is longer than nothing"));
                }
                if longest > LONGEST {
                    let most = LONGEST.as_secs() / 60;
                    let why = format!("a tap ends after {most} min; begin another one then");
                    return Err(bad(&why));
                }
                wish.longest = Some(longest);
            }
            known if NAMES.contains(&known) => filters.push((known, given.as_str())),
            _ => {
                let known = NAMES.into_iter().chain(OTHERS);
                let nearest = nearest(name, known).unwrap_or_default();
                let all = NAMES
                    .into_iter()
                    .chain(OTHERS)
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(format!(
                    "`{name}` cannot be asked here; the nearest that can is `{nearest}` (all are {all})"
                ));
            }
        }
    }
    wish.filter = Filter::read(filters).map_err(|error| error.to_string())?;
    wish.redaction = Redaction::of(hidden);
    Ok(wish)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::telemetry::Direction;
    use crate::telemetry::tap::{Ended, Seen};

    fn request(query: &[(&str, &str)], near: bool) -> AdminRequest {
        let pairs = query
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        AdminRequest {
            method: Method::GET,
            path: "/tap".to_owned(),
            query: pairs.collect(),
            body: bytes::Bytes::new(),
            accept: String::new(),
            peer: "192.0.2.7:4711".parse().unwrap(),
            near,
        }
    }

    #[test]
    fn all_that_is_asked_is_read() {
        let query = [
            ("headers", "true"),
            ("redact", "x-note"),
            ("limit", "3"),
            ("for", "2s"),
            ("service", "shop.*"),
            ("above", "5ms"),
        ];
        let (wish, kept_back) = allowed(&request(&query, true)).unwrap();
        assert_eq!((wish.headers, kept_back, wish.limit), (true, None, Some(3)));
        assert!(wish.near);
        assert_eq!(wish.longest, Some(Duration::from_secs(2)));
        assert_eq!(wish.redaction, Redaction::of(["x-note".to_owned()]));
        let seen = |path| Seen {
            direction: Direction::Inbound,
            path,
            way: None,
        };
        assert!(wish.filter.may_fit(&seen("/shop.v1.Orders/Get")));
        assert!(!wish.filter.may_fit(&seen("/x.Y/Z")));
        let ended = |took| Ended {
            status: 0,
            reason: None,
            peer: None,
            user: None,
            identity: None,
            took: Duration::from_millis(took),
        };
        assert!(wish.filter.fits(&ended(6)) && !wish.filter.fits(&ended(5)));
    }

    #[test]
    fn no_tap_lasts_as_long_as_an_answer_may() {
        let longest = |query: &[_]| allowed(&request(query, false)).unwrap().0.longest;
        assert_eq!(longest(&[]), Some(LONGEST));
        assert_eq!(longest(&[("for", "60m")]), Some(LONGEST));
        assert!(LONGEST + CONNECTION_AGE < STREAM_AGE);
    }

    #[test]
    fn headers_are_for_this_machine_alone() {
        let (wish, kept_back) = allowed(&request(&[("headers", "true")], false)).unwrap();
        assert_eq!((wish.headers, kept_back), (false, Some(KEPT_BACK)));
        assert!(!wish.near);
        // Nothing is kept back from who did not ask for it.
        let (wish, kept_back) = allowed(&request(&[], false)).unwrap();
        assert_eq!((wish.headers, kept_back), (false, None));
    }

    #[test]
    fn what_cannot_be_asked_is_told() {
        let refused = |name, value| allowed(&request(&[(name, value)], true)).unwrap_err();
        assert!(refused("servce", "x").starts_with(
            "`servce` cannot be asked here; the nearest that can is `service` (all are service, "
        ));
        assert_eq!(
            refused("limit", "0"),
            "limit=0: it is a number of calls, from 1"
        );
        assert_eq!(refused("for", "0s"), "for=0s: it is longer than nothing");
        assert_eq!(
            refused("for", "61m"),
            "for=61m: a tap ends after 60 min; begin another one then"
        );
        for (name, value) in [("for", "long"), ("headers", "some"), ("direction", "up")] {
            assert!(refused(name, value).starts_with(&format!("{name}={value}: ")));
        }
    }
}
