//! A call's headers as W3C's documents have them, to and from OpenTelemetry's context.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};

const TRACEPARENT: &str = "traceparent";

/// What came with a call. Several headers of one name are one, put together with commas; of a
/// `traceparent` there is one or none, which that makes of it.
struct Incoming(Vec<(&'static str, String)>);

/// What goes with a call.
struct Outgoing<'a>(&'a mut HeaderMap);

impl Incoming {
    fn of(headers: &HeaderMap) -> Self {
        let names = [TRACEPARENT, "tracestate", "baggage"];
        let each = names.into_iter().filter_map(|name| {
            let values = headers.get_all(name).iter();
            let values: Vec<&str> = values.filter_map(|it| it.to_str().ok()).collect();
            (!values.is_empty()).then(|| (name, values.join(",")))
        });
        Self(each.collect())
    }
}

impl Extractor for Incoming {
    fn get(&self, key: &str) -> Option<&str> {
        let mut all = self.0.iter();
        all.find(|(name, _)| *name == key)
            .map(|(_, value)| value.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::try_from(key);
        // A list of nothing says nothing.
        if let (Ok(name), Ok(value), false) =
            (name, HeaderValue::try_from(&value), value.is_empty())
        {
            self.0.insert(name, value);
        }
    }
}

/// The span that a call comes from, and the baggage that it brings.
pub(crate) fn extract(headers: &HeaderMap) -> Context {
    let incoming = Incoming::of(headers);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &incoming);
    BaggagePropagator::new().extract_with_context(&context, &incoming)
}

/// Sends a call on in the name of this context's span. What the app has written itself stays where
/// there is none.
pub(crate) fn inject(context: &Context, headers: &mut HeaderMap) {
    if !context.span().span_context().is_valid() {
        return;
    }
    // It belongs to the span that was written there before, if any.
    headers.remove("tracestate");
    let mut outgoing = Outgoing(headers);
    TraceContextPropagator::new().inject_context(context, &mut outgoing);
    BaggagePropagator::new().inject_context(context, &mut outgoing);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is a failed test")]
mod tests {
    use opentelemetry::baggage::BaggageExt;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_comes_goes_on() {
        let came = headers(&[
            ("traceparent", PARENT),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
            ("baggage", "user=alice"),
            ("baggage", "tier=gold"),
        ]);
        let context = extract(&came);
        assert_eq!(context.baggage().len(), 2);
        let mut onward = headers(&[("tracestate", "old=1"), ("x-own", "stays")]);
        inject(&context, &mut onward);
        assert_eq!(onward["traceparent"], PARENT);
        assert_eq!(onward["tracestate"], "a=1,b=2");
        assert_eq!(onward["x-own"], "stays");
        let baggage = onward["baggage"].to_str().unwrap();
        assert!(baggage.contains("user=alice") && baggage.contains("tier=gold"));
    }

    #[test]
    fn two_parents_are_none_and_no_span_writes_nothing() {
        let context = extract(&headers(&[
            ("traceparent", PARENT),
            ("traceparent", PARENT),
        ]));
        assert!(!context.span().span_context().is_valid());
        let mut onward = headers(&[("traceparent", PARENT), ("tracestate", "a=1")]);
        let before = onward.clone();
        inject(&context, &mut onward);
        assert_eq!(onward, before);
    }
}
