//! The header `traceparent` (W3C Trace Context, Level 1): which trace a call belongs to, and which
//! span it comes from. Pure. What is not well-formed is no context: the trace begins anew.

use http::HeaderValue;

/// The header that names a call's trace and the span that it comes from.
pub(super) const TRACEPARENT: &str = "traceparent";

/// The length of version 00: version, trace, span and flags, with a `-` between each two.
const LENGTH: usize = 55;
/// This version means that nobody understands what follows.
const NEVER: u8 = 0xff;
/// The one flag there is.
const SAMPLED: u8 = 1;

/// The id of a trace; never all zeros.
pub type TraceId = [u8; 16];
/// The id of a span; never all zeros.
pub type SpanId = [u8; 8];

/// Where a call stands in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// Is it recorded by those who make it?
    pub sampled: bool,
}

impl Context {
    /// The first span of a new trace.
    #[must_use]
    pub fn new(sampled: bool) -> Self {
        Self {
            trace: new_trace(),
            span: new_span(),
            sampled,
        }
    }

    /// A new span of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span: new_span(),
            ..self
        }
    }

    /// Reads a header. A version that is not known is read as the document says: what it shares with
    /// version 00, and no more.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let known = text.get(..LENGTH)?;
        let [version] = hex(&known[..2])?;
        let longer = match text.get(LENGTH) {
            None => true,
            Some(b'-') => version != 0,
            Some(_) => false,
        };
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        if version == NEVER || !longer || !dashes {
            return None;
        }
        let (trace, span) = (hex(&known[3..35])?, hex(&known[36..52])?);
        let [flags] = hex(&known[53..])?;
        let real = trace != TraceId::default() && span != SpanId::default();
        real.then_some(Self {
            trace,
            span,
            sampled: flags & SAMPLED != 0,
        })
    }

    /// Writes the header, in version 00. Flags that Level 1 does not know are zero: some readers of
    /// version 00 refuse others.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let (halves, _) = self.trace.as_chunks();
        for (place, half) in [(3, halves[0]), (19, halves[1]), (36, self.span)] {
            write_hex(&mut text[place..place + 16], u64::from_be_bytes(half));
        }
        text[54] = DIGITS[usize::from(self.sampled)];
        // Digits and dashes are always a header value.
        let value = HeaderValue::from_bytes(&text);
        value.unwrap_or(HeaderValue::from_static(""))
    }
}

fn new_trace() -> TraceId {
    loop {
        // A range without zero would cost a division.
        let trace = fastrand::u128(..);
        if trace != 0 {
            return trace.to_be_bytes();
        }
    }
}

fn new_span() -> SpanId {
    loop {
        let span = fastrand::u64(..);
        if span != 0 {
            return span.to_be_bytes();
        }
    }
}

/// Reads lower-case hexadecimal digits; upper-case ones are refused, as the document demands.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (mut bytes, mut all) = ([0; N], 0);
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|it| VALUES[usize::from(it)]);
        all |= high | low;
        *byte = (high << 4) | (low & 0xf);
    }
    (all <= 0xf).then_some(bytes)
}

/// What a digit counts; more than any of them for what is none.
const VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Writes eight bytes as sixteen digits, all at once: each half of a byte in a byte of its own, and a
/// digit made of each.
fn write_hex(text: &mut [u8], number: u64) {
    /// One in each byte, and the lower half of each.
    const ONES: u128 = u128::from_ne_bytes([1; 16]);
    const LOW: u128 = 15 * ONES;
    let spread = |number: u128, by: u32, mask: u128| (number | (number << by)) & mask;
    let halves = spread(
        u128::from(number),
        32,
        0x0000_0000_ffff_ffff_0000_0000_ffff_ffff,
    );
    let halves = spread(halves, 16, 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff);
    let halves = spread(halves, 8, 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff);
    let halves = spread(halves, 4, LOW);
    // Of those above nine a carry into the fifth bit tells, and they go on at `a`.
    let letters = ((halves + 6 * ONES) >> 4) & ONES;
    let digits = halves + u128::from(b'0') * ONES + letters * u128::from(b'a' - b'0' - 10);
    text.copy_from_slice(&digits.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The document's own example.
    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_documents_cases() {
        let read = Context::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(read.trace[..3], [0x4b, 0xf9, 0x2f]);
        assert_eq!(read.span, [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert!(read.sampled);
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let cases = [
            (format!("00-{trace}-00f067aa0ba902b7-00"), Some(false)),
            (format!("00-{trace}-00f067aa0ba902b7-ff"), Some(true)),
            (format!("00-{trace}-00f067aa0ba902b7-fe"), Some(false)),
            // Of a higher version as much is read as it shares with this one.
            (format!("01-{trace}-00f067aa0ba902b7-01"), Some(true)),
            (
                format!("cc-{trace}-00f067aa0ba902b7-01-what-it-adds"),
                Some(true),
            ),
            (format!("cc-{trace}-00f067aa0ba902b7-01-"), Some(true)),
            (format!("cc-{trace}-00f067aa0ba902b7-01.what"), None),
            // Version 00 has nothing more.
            (format!("00-{trace}-00f067aa0ba902b7-01-what"), None),
            (format!("00-{trace}-00f067aa0ba902b7-01-"), None),
            (format!("00-{trace}-00f067aa0ba902b7-01."), None),
            // What is no version.
            (format!("ff-{trace}-00f067aa0ba902b7-01"), None),
            (format!("0-{trace}-00f067aa0ba902b7-01"), None),
            (format!("000-{trace}-00f067aa0ba902b7-01"), None),
            (format!(".0-{trace}-00f067aa0ba902b7-01"), None),
            (format!("0.-{trace}-00f067aa0ba902b7-01"), None),
            // Ids of zeros, of other lengths, of other digits.
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None),
            (format!("00-{trace}-{}-01", "0".repeat(16)), None),
            (
                format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
                None,
            ),
            (format!("00-{trace}-00F067AA0BA902B7-01"), None),
            (format!("00-{trace}0-00f067aa0ba902b7-01"), None),
            (format!("00-{}-00f067aa0ba902b7-01", &trace[1..]), None),
            (format!("00-{trace}-0f067aa0ba902b7-01"), None),
            (format!("00-{trace}-00f067aa0ba902b7a-01"), None),
            (format!("00-{trace}-00f067aa0ba902b.-01"), None),
            (format!("00-{}.-00f067aa0ba902b7-01", &trace[1..]), None),
            (format!("0000-{trace}-00f067aa0ba902b7-01"), None),
            (format!("00-.{}-00f067aa0ba902b7-01", &trace[1..]), None),
            (format!("00-{trace}-.0f067aa0ba902b7-01"), None),
            // Flags.
            (format!("00-{trace}-00f067aa0ba902b7-1"), None),
            (format!("00-{trace}-00f067aa0ba902b7-0x"), None),
            (format!("00-{trace}-00f067aa0ba902b7-.0"), None),
            (format!("00-{trace}-00f067aa0ba902b7-0."), None),
            (format!("00-{trace}-00f067aa0ba902b7-001"), None),
            (format!("00-{trace}-00f067aa0ba902b7-"), None),
            (format!("00-{trace}-00f067aa0ba902b7"), None),
            // The space around it is the header's, and is gone by then.
            (format!(" 00-{trace}-00f067aa0ba902b7-01"), None),
            (String::new(), None),
            ("00".to_owned(), None),
        ];
        for (text, expected) in cases {
            let read = Context::parse(text.as_bytes());
            assert_eq!(read.map(|it| it.sampled), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            let context = Context {
                trace: trace.to_be_bytes(),
                span: span.to_be_bytes(),
                sampled,
            };
            let header = context.header();
            prop_assert_eq!(header.len(), LENGTH);
            prop_assert_eq!(Context::parse(header.as_bytes()), Some(context));
        }

        #[test]
        fn whatever_is_read_can_be_written(bytes: Vec<u8>, at in 0..LENGTH, byte: u8) {
            prop_assert!(Context::parse(&bytes).is_none_or(|it| it.trace != TraceId::default()));
            let mut near = GOOD.as_bytes().to_vec();
            near[at] = byte;
            if let Some(read) = Context::parse(&near) {
                prop_assert_eq!(Context::parse(read.header().as_bytes()), Some(read));
            }
        }
    }

    #[test]
    fn a_child_is_of_the_same_trace() {
        let parent = Context::new(true);
        let child = parent.child();
        assert_eq!((child.trace, child.sampled), (parent.trace, true));
        assert_ne!(child.span, parent.span);
    }
}
