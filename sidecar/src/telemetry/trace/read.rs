//! What a call's headers say of its trace, read in one walk over them: a look-up of three names
//! would take longer.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::carried::{self, BAGGAGE, Fate, TRACESTATE};
use super::context::{Context, TRACEPARENT};

const TRACEPARENT_HEADER: HeaderName = HeaderName::from_static(TRACEPARENT);
const TRACESTATE_HEADER: HeaderName = HeaderName::from_static(TRACESTATE);
const BAGGAGE_HEADER: HeaderName = HeaderName::from_static(BAGGAGE);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Read<'a> {
    /// The span that the call comes from.
    pub(super) parent: Option<Context>,
    /// Headers that name one.
    pub(super) parents: usize,
    states: Values<'a>,
    baggage: Values<'a>,
}

/// The headers of one name, of which there is nearly always one or none.
#[derive(Debug, Default)]
struct Values<'a> {
    first: Option<&'a HeaderValue>,
    more: Vec<&'a HeaderValue>,
}

impl<'a> Values<'a> {
    fn push(&mut self, value: &'a HeaderValue) {
        match self.first {
            None => self.first = Some(value),
            Some(_) => self.more.push(value),
        }
    }

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// All of them in one, put together with commas where they are several.
    fn joined(&self) -> Option<Cow<'a, [u8]>> {
        let first = self.first?.as_bytes();
        if self.more.is_empty() {
            return Some(Cow::Borrowed(first));
        }
        let mut joined = first.to_vec();
        for value in &self.more {
            joined.push(b',');
            joined.extend_from_slice(value.as_bytes());
        }
        Some(Cow::Owned(joined))
    }
}

/// Headers that do not go on as they came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Amended {
    state: Option<Option<HeaderValue>>,
    baggage: Option<Option<HeaderValue>>,
}

impl<'a> Read<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let mut read = Self::default();
        for (name, value) in headers {
            match name.as_str() {
                TRACEPARENT => {
                    read.parents += 1;
                    // The space around a header is none of its value, also where HTTP/2 let it pass.
                    read.parent = Context::parse(carried::trim(value.as_bytes()));
                }
                TRACESTATE => read.states.push(value),
                BAGGAGE => read.baggage.push(value),
                _ => {}
            }
        }
        if read.parents > 1 {
            // Which of them is meant nobody can say.
            read.parent = None;
        }
        read
    }

    /// The `tracestate` that goes on, as one header.
    pub(super) fn state(&self, amended: Option<&Amended>) -> Option<HeaderValue> {
        if let Some(state) = amended.and_then(|amended| amended.state.as_ref()) {
            return state.clone();
        }
        match self.states.more.is_empty() {
            true => self.states.first.cloned(),
            false => HeaderValue::from_bytes(&self.states.joined()?).ok(),
        }
    }

    /// What of it goes on otherwise than it came; nearly always nothing.
    pub(super) fn amended(&self) -> Option<Box<Amended>> {
        if self.states.is_empty() && self.baggage.is_empty() {
            return None;
        }
        let state = match self.parent {
            Some(_) => amended(&self.states, carried::state),
            // It belongs to a trace that ends here.
            None => (!self.states.is_empty()).then_some(None),
        };
        let baggage = amended(&self.baggage, carried::baggage);
        let any = state.is_some() || baggage.is_some();
        any.then(|| Box::new(Amended { state, baggage }))
    }
}

impl Amended {
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let both = [
            (TRACESTATE_HEADER, &self.state),
            (BAGGAGE_HEADER, &self.baggage),
        ];
        for (name, amended) in both {
            match amended {
                None => {}
                Some(None) => {
                    headers.remove(name);
                }
                Some(Some(value)) => {
                    headers.insert(name, value.clone());
                }
            }
        }
    }
}

pub(super) fn write(context: &Context, headers: &mut HeaderMap, first: bool) {
    let mut value = context.header();
    value.set_sensitive(!first);
    headers.insert(TRACEPARENT_HEADER, value);
}

/// Leaves out what came, which names no span.
pub(super) fn leave_out(headers: &mut HeaderMap) {
    headers.remove(TRACEPARENT_HEADER);
}

/// What came goes on as it is, and stays out of HPACK's table as what is written here. Where its sender
/// kept it out already, it stays out (RFC 7541, section 7.1.3).
pub(super) fn keep(headers: &mut HeaderMap, first: bool) {
    if !first && let Some(value) = headers.get_mut(TRACEPARENT_HEADER) {
        value.set_sensitive(true);
    }
}

fn amended(values: &Values<'_>, fate: fn(&[u8]) -> Fate) -> Option<Option<HeaderValue>> {
    match fate(&values.joined()?) {
        Fate::Untouched => None,
        // Parts of a header value, and commas.
        Fate::Cut(text) => Some(HeaderValue::from_bytes(&text).ok()),
        Fate::Dropped => Some(None),
    }
}

/// Takes out what somebody outside the mesh says of a trace, and says which it was: to join it would
/// let them choose what is recorded and into whose trace it goes, and apps take baggage for what one
/// of their own has said.
pub fn strip(headers: &mut HeaderMap) -> Option<Context> {
    let read = Read::of(headers);
    let parent = read.parent;
    if read.parents == 0 && read.states.is_empty() && read.baggage.is_empty() {
        return None;
    }
    for name in [TRACEPARENT_HEADER, TRACESTATE_HEADER, BAGGAGE_HEADER] {
        headers.remove(name);
    }
    parent
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let each = all.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in each {
            headers.append(name, value);
        }
        headers
    }

    /// What goes on of these headers.
    fn onward(all: &[(&'static str, &str)]) -> (Option<Context>, HeaderMap) {
        let mut headers = headers(all);
        let read = Read::of(&headers);
        let (parent, amended) = (read.parent, read.amended());
        if let Some(amended) = amended {
            amended.write(&mut headers);
        }
        (parent, headers)
    }

    #[test]
    fn what_is_well_formed_goes_on_untouched_several_headers_too() {
        let all = [
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("tracestate", "b=2, c=3"),
            ("baggage", "x=1"),
            ("baggage", "y=2"),
            ("x-own", "stays"),
        ];
        let (parent, onward) = onward(&all);
        assert!(parent.is_some());
        assert_eq!(onward, headers(&all));
    }

    #[test]
    fn what_its_sender_kept_out_of_tables_stays_out() {
        for (sensitive, first, kept_out) in [
            (false, true, false),
            (false, false, true),
            (true, true, true),
            (true, false, true),
        ] {
            let mut came = HeaderValue::from_static(PARENT);
            came.set_sensitive(sensitive);
            let mut headers = HeaderMap::from_iter([(TRACEPARENT_HEADER, came)]);
            keep(&mut headers, first);
            assert_eq!(headers["traceparent"], PARENT);
            assert_eq!(headers["traceparent"].is_sensitive(), kept_out);
        }
    }

    #[test]
    fn a_state_without_its_trace_does_not_go_on() {
        let two = [
            ("traceparent", PARENT),
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
        ];
        let (parent, left) = onward(&two);
        assert!(parent.is_none() && !left.contains_key("tracestate"));
        let (parent, left) = onward(&[("tracestate", "a=1"), ("baggage", "x=1")]);
        assert!(parent.is_none() && !left.contains_key("tracestate"));
        assert_eq!(left["baggage"], "x=1");
    }

    /// What comes, whether the trace goes on, and what of its state does.
    type Case<'a> = (Vec<(&'static str, &'a str)>, bool, &'a [&'a str]);

    /// The cases of the test suite beside the document (w3c/trace-context, `test/test.py`) that are about
    /// headers as a whole; those about one header are at its reader.
    #[test]
    fn the_suites_cases_of_whole_headers() {
        let other = PARENT.replace("4bf92f", "5bf92f");
        let spaced = ["{} ", " {}", "\t{}", "{}\t", "\t {} \t"];
        let spaced = spaced.map(|it| it.replace("{}", PARENT));
        let most = (0..32).map(|it| format!("k{it}={it}"));
        let most = most.collect::<Vec<_>>().join(",");
        let more = format!("{most},k=1");
        let whole = [&*most];
        let parent = ("traceparent", PARENT);
        let state = |text| ("tracestate", text);
        let mut cases: Vec<Case<'_>> = vec![
            (vec![], false, &[]),
            (vec![parent], true, &[]),
            (vec![parent, ("traceparent", &other)], false, &[]),
            (vec![("trace-parent", PARENT)], false, &[]),
            (vec![("trace.parent", PARENT)], false, &[]),
            (vec![state("foo=1")], false, &[]),
            (vec![("traceparent", ""), state("foo=1")], false, &[]),
            (vec![parent, ("trace-state", "foo=1")], true, &[]),
            (
                vec![parent, state("foo=1"), state("")],
                true,
                &["foo=1", ""],
            ),
            (
                vec![parent, state(""), state("foo=1")],
                true,
                &["", "foo=1"],
            ),
            (
                vec![
                    parent,
                    state("foo=1,bar=2"),
                    state("rojo=1"),
                    state("baz=3"),
                ],
                true,
                &["foo=1,bar=2", "rojo=1", "baz=3"],
            ),
            (vec![parent, state("foo=1,foo=1")], true, &[]),
            (vec![parent, state("foo=1"), state("foo=1")], true, &[]),
            (vec![parent, state("foo=1"), state("foo=2")], true, &[]),
            (vec![parent, state("\t foo=1 \t")], true, &["\t foo=1 \t"]),
            (vec![parent, state("foo@bar@baz=1,bar=2")], true, &[]),
            (vec![parent, state(&most)], true, &whole),
            (vec![parent, state(&more)], true, &[]),
            (vec![parent, state(&most), state("k=1")], true, &[]),
        ];
        for text in &spaced {
            cases.push((vec![("traceparent", text), state("a=1")], true, &["a=1"]));
        }
        for (all, goes_on, kept) in cases {
            let (found, left) = onward(&all);
            let found = found.map(|it| it.trace);
            let expected = Context::parse(PARENT.as_bytes()).map(|it| it.trace);
            assert_eq!(found, expected.filter(|_| goes_on), "{all:?}");
            let left: Vec<_> = left.get_all("tracestate").iter().collect();
            assert_eq!(left, kept, "{all:?}");
        }
    }

    #[test]
    fn baggage_goes_on_without_a_trace_and_is_cut_over_all_headers() {
        let member = |it: usize| format!("k{it}=v;p=1");
        let members: Vec<String> = (0..70).map(member).collect();
        let [first, rest] = [members[..60].join(","), members[60..].join(",")];
        let (parent, left) = onward(&[("baggage", &first), ("baggage", &rest)]);
        assert!(parent.is_none());
        let left: Vec<_> = left.get_all("baggage").iter().collect();
        assert_eq!(left, [&members[..64].join(",")]);
    }

    #[test]
    fn several_headers_count_together() {
        let twice = [
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("tracestate", "a=2"),
        ];
        let (parent, left) = onward(&twice);
        assert!(parent.is_some() && !left.contains_key("tracestate"));
        let half = "b=".to_owned() + &"v".repeat(5000);
        let (_, left) = onward(&[("baggage", "x=1"), ("baggage", &half), ("baggage", &half)]);
        let left: Vec<_> = left.get_all("baggage").iter().collect();
        assert_eq!(left, [&format!("x=1,{half}")]);
    }

    #[test]
    fn nothing_of_it_is_left_of_what_somebody_outside_says() {
        let mut all = headers(&[
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("baggage", "x=1"),
            ("baggage", "y=1"),
            ("x-own", "stays"),
        ]);
        assert_eq!(strip(&mut all), Context::parse(PARENT.as_bytes()));
        assert_eq!(all, headers(&[("x-own", "stays")]));
    }
}
