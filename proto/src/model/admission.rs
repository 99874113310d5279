//! What a sidecar admits of the calls for a service: how many a second, how many at once, and which
//! it fails on purpose. A rule that says nothing of it admits all. Each part can be written in a
//! constant, and is checked by the same functions wherever rules are.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::adaptive::Adaptive;
use super::breaker::is_within;
use super::error::{FieldError, Problem};
use super::retry::Statuses;
use super::written::{duration, duration_text};
use crate::wire::routing::v1 as wire;

/// The most limits that a rule, or a method, may have.
pub const LIMITS_LIMIT: usize = 8;
/// The most calls a second, and the most at once, that a limit may allow.
pub const RATE_LIMIT: u32 = 1_000_000;
/// The most calls at once that [`Concurrency`] may allow.
pub const IN_FLIGHT_LIMIT: u32 = 65_536;
/// The most calls that may wait for a place.
pub const QUEUE_LIMIT: u32 = 4_096;
/// The longest that a call may wait for a place.
pub const WAIT_LIMIT: Duration = Duration::from_secs(10);
/// The longest that a call waits for a place where a rule says nothing else.
pub const WAIT: Duration = Duration::from_millis(100);
/// The shortest time that a rule can say.
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
/// The longest delay that may be injected.
pub const DELAY_LIMIT: Duration = Duration::from_secs(60);
/// The longest name, and the longest value, of a header that faults go by, in bytes.
pub const HEADER_LIMIT: usize = 256;

/// What is admitted of the calls for a service, or for one method of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// All of them hold; none means that any number of calls a second is admitted.
    pub limits: Cow<'static, [Limit]>,
    /// How many calls are open at once with a local service. Of a service, never of a method.
    pub concurrency: Option<Concurrency>,
    /// Which calls fail on purpose.
    pub fault: Option<Fault>,
}

/// So many calls a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Calls a second, on average: 1 to [`RATE_LIMIT`].
    pub requests_per_second: u32,
    /// Calls that may come at once after a pause: 1 to [`RATE_LIMIT`].
    pub burst: u32,
    /// What has a share of its own; nothing means that all calls share one.
    pub per: Per,
    /// Counted where the calls leave, and not where they arrive.
    pub outbound: bool,
}

/// What has a share of its own of a limit: each combination of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Per {
    /// Each calling node.
    pub caller: bool,
    /// Each method that the rule knows; all others share one.
    pub method: bool,
    /// Each lane.
    pub lane: bool,
}

/// So many calls at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Concurrency {
    /// Calls at once with the local service.
    pub bound: Bound,
    /// Calls that may wait for a place, up to [`QUEUE_LIMIT`].
    pub queue: u32,
    /// The longest that one waits, up to [`WAIT_LIMIT`].
    pub longest_wait: Duration,
}

/// What bounds the calls at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// A number: 1 to [`IN_FLIGHT_LIMIT`].
    Fixed(u32),
    /// It follows latency.
    Adaptive(Adaptive),
}

/// Calls that fail on purpose, before the local service hears of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Those that are held back first.
    pub delay: Option<Delay>,
    /// Those that fail.
    pub abort: Option<Abort>,
    /// Only calls that bring this header; lower-case.
    pub header: Option<Cow<'static, str>>,
    /// Only those in which the header has exactly this value.
    pub header_value: Option<Cow<'static, str>>,
}

/// Calls that are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delay {
    /// Of a hundred calls, 1 to 100.
    pub percent: u32,
    /// For so long, up to [`DELAY_LIMIT`].
    pub time: Duration,
}

/// Calls that are failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Abort {
    /// Of a hundred calls, 1 to 100.
    pub percent: u32,
    /// With this gRPC status, by number.
    pub status: u32,
}

/// A field that cannot be, and why, as it goes on after the field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// The field, within the rule or the method.
    pub field: &'static str,
    /// Why.
    pub reason: &'static str,
}

pub(super) const fn wrong(field: &'static str, reason: &'static str) -> Option<Wrong> {
    Some(Wrong { field, reason })
}

impl Admission {
    /// Everything is admitted.
    pub const NONE: Self = Self {
        limits: Cow::Borrowed(&[]),
        concurrency: None,
        fault: None,
    };

    /// Is everything admitted?
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.limits.is_empty() && self.concurrency.is_none() && self.fault.is_none()
    }

    /// What holds where `self` speaks first, and `other` where it says nothing.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let limits = if self.limits.is_empty() {
            &other.limits
        } else {
            &self.limits
        };
        Self {
            limits: limits.clone(),
            concurrency: self.concurrency.or(other.concurrency),
            fault: self.fault.clone().or_else(|| other.fault.clone()),
        }
    }

    /// What makes it impossible, if anything does: the part of the rule, and what is wrong in it.
    #[must_use]
    pub const fn flaw(&self) -> Option<Wrong> {
        let limits = match &self.limits {
            Cow::Borrowed(limits) => limits,
            Cow::Owned(limits) => limits.as_slice(),
        };
        if limits.len() > LIMITS_LIMIT {
            return wrong("limits", "has more than 8 entries");
        }
        let mut index = 0;
        while index < limits.len() {
            let flaw = limits[index].flaw();
            if flaw.is_some() {
                return flaw;
            }
            index += 1;
        }
        if let Some(concurrency) = &self.concurrency
            && let Some(flaw) = concurrency.flaw()
        {
            return Some(flaw);
        }
        if let Some(fault) = &self.fault
            && let Some(flaw) = fault.flaw()
        {
            return Some(flaw);
        }
        None
    }

    /// The same for a method, which has no place of its own at its service.
    pub(super) const fn flaw_of_method(&self) -> Option<Wrong> {
        if self.concurrency.is_some() {
            return wrong(
                "concurrency",
                "is the service's: its methods share what the local service can do at once",
            );
        }
        self.flaw()
    }

    pub(super) fn from_wire(
        limits: &[wire::Limit],
        concurrency: Option<&wire::Concurrency>,
        fault: Option<wire::Fault>,
    ) -> Result<Self, FieldError> {
        if limits.len() > LIMITS_LIMIT {
            let (count, limit) = (limits.len(), LIMITS_LIMIT);
            return Err(FieldError::new("limits", Problem::TooMany { count, limit }));
        }
        let limits = limits.iter().enumerate().map(|(index, limit)| {
            Limit::from_wire(limit).map_err(|it| it.within(format_args!("limits[{index}]")))
        });
        Ok(Self {
            limits: Cow::Owned(limits.collect::<Result<_, _>>()?),
            concurrency: concurrency
                .map(Concurrency::from_wire)
                .transpose()
                .map_err(|error| error.within("concurrency"))?,
            fault: fault
                .map(Fault::from_wire)
                .transpose()
                .map_err(|error| error.within("fault"))?,
        })
    }

    pub(super) fn limits_to_wire(&self) -> Vec<wire::Limit> {
        self.limits.iter().copied().map(Limit::to_wire).collect()
    }
}

/// The same as an error, within the part of the rule that the field belongs to.
pub(super) fn refused(flaw: Option<Wrong>) -> Result<(), FieldError> {
    flaw.map_or(Ok(()), |Wrong { field, reason }| {
        let field = field.split_once('.').map_or(field, |(_, within)| within);
        Err(FieldError::new(field, Problem::Refused(reason.to_owned())))
    })
}

impl Per {
    /// All calls share one.
    pub const NOTHING: Self = Self {
        caller: false,
        method: false,
        lane: false,
    };

    /// The names of what has a share of its own.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let named = [
            (self.caller, "CALLER"),
            (self.method, "METHOD"),
            (self.lane, "LANE"),
        ];
        named
            .into_iter()
            .filter_map(|(is, name)| is.then_some(name))
    }
}

impl Limit {
    /// So many calls a second, all together, and as many at once.
    #[must_use]
    pub const fn of(requests_per_second: u32) -> Self {
        Self {
            requests_per_second,
            burst: requests_per_second,
            per: Per::NOTHING,
            outbound: false,
        }
    }

    pub(super) const fn flaw(&self) -> Option<Wrong> {
        if self.requests_per_second == 0 || self.requests_per_second > RATE_LIMIT {
            return wrong("limits.requests_per_second", "is 1 to 1000000");
        }
        if self.burst == 0 || self.burst > RATE_LIMIT {
            return wrong("limits.burst", "is 1 to 1000000");
        }
        if self.outbound && self.per.caller {
            return wrong(
                "limits.per",
                "names CALLER, and a sidecar counts the calls of one caller where they leave; \
                 leave one of CALLER and `outbound` out",
            );
        }
        None
    }

    fn from_wire(limit: &wire::Limit) -> Result<Self, FieldError> {
        let mut per = Per::NOTHING;
        for (index, number) in limit.per.iter().enumerate() {
            let path = || format!("per[{index}]");
            let share = match wire::Per::try_from(*number) {
                Ok(wire::Per::Caller) => &mut per.caller,
                Ok(wire::Per::Method) => &mut per.method,
                Ok(wire::Per::Lane) => &mut per.lane,
                Ok(wire::Per::Unspecified) | Err(_) => {
                    let (given, what) = (number.to_string(), "share (CALLER, METHOD, LANE)");
                    return Err(FieldError::new(path(), Problem::Unknown { given, what }));
                }
            };
            if std::mem::replace(share, true) {
                let given = wire::Per::try_from(*number).map_or("", |it| it.as_str_name());
                let given = given.to_owned();
                return Err(FieldError::new(path(), Problem::Duplicate { given }));
            }
        }
        let read = Self {
            requests_per_second: limit.requests_per_second,
            burst: match limit.burst {
                0 => limit.requests_per_second,
                burst => burst,
            },
            per,
            outbound: limit.outbound,
        };
        refused(read.flaw())?;
        Ok(read)
    }

    fn to_wire(self) -> wire::Limit {
        let per = [
            (self.per.caller, wire::Per::Caller),
            (self.per.method, wire::Per::Method),
            (self.per.lane, wire::Per::Lane),
        ];
        let per = per.into_iter().filter(|(is, _)| *is);
        wire::Limit {
            requests_per_second: self.requests_per_second,
            burst: self.burst,
            per: per.map(|(_, share)| share.into()).collect(),
            outbound: self.outbound,
        }
    }
}

impl Concurrency {
    /// At most so many calls at once, and none that wait.
    #[must_use]
    pub const fn fixed(max_in_flight: u32) -> Self {
        Self {
            bound: Bound::Fixed(max_in_flight),
            queue: 0,
            longest_wait: WAIT,
        }
    }

    /// As many calls at once as latency allows, and none that wait.
    #[must_use]
    pub const fn adaptive(adaptive: Adaptive) -> Self {
        Self {
            bound: Bound::Adaptive(adaptive),
            queue: 0,
            longest_wait: WAIT,
        }
    }

    const fn flaw(&self) -> Option<Wrong> {
        match &self.bound {
            Bound::Fixed(0) => return wrong("concurrency.max_in_flight", "is 1 to 65536"),
            Bound::Fixed(most) if *most > IN_FLIGHT_LIMIT => {
                return wrong("concurrency.max_in_flight", "is 1 to 65536");
            }
            Bound::Fixed(_) => {}
            Bound::Adaptive(adaptive) => {
                if let Some(flaw) = adaptive.flaw() {
                    return Some(flaw);
                }
            }
        }
        if self.queue > QUEUE_LIMIT {
            return wrong("concurrency.queue", "is at most 4096");
        }
        if !is_within(self.longest_wait, (MILLISECOND, WAIT_LIMIT)) {
            return wrong(
                "concurrency.longest_wait",
                "is whole milliseconds from 1ms to 10s",
            );
        }
        None
    }

    fn from_wire(concurrency: &wire::Concurrency) -> Result<Self, FieldError> {
        if concurrency.queue == 0 && !concurrency.longest_wait.is_empty() {
            let text = "is given, and no call may wait; say how many with `queue`";
            let problem = Problem::Contradiction(text.to_owned());
            return Err(FieldError::new("longest_wait", problem));
        }
        let bound = match (concurrency.max_in_flight, &concurrency.adaptive) {
            (most, None) => Bound::Fixed(most),
            (0, Some(adaptive)) => Bound::Adaptive(Adaptive::from_wire(adaptive)?),
            (_, Some(_)) => {
                let text = "is given beside `max_in_flight`; keep one of them";
                let problem = Problem::Contradiction(text.to_owned());
                return Err(FieldError::new("adaptive", problem));
            }
        };
        let read = Self {
            bound,
            queue: concurrency.queue,
            longest_wait: time(&concurrency.longest_wait, "longest_wait")?.unwrap_or(WAIT),
        };
        refused(read.flaw())?;
        Ok(read)
    }

    pub(super) fn to_wire(self) -> wire::Concurrency {
        let (max_in_flight, adaptive) = match self.bound {
            Bound::Fixed(most) => (most, None),
            Bound::Adaptive(adaptive) => (0, Some(adaptive.to_wire())),
        };
        wire::Concurrency {
            max_in_flight,
            adaptive,
            queue: self.queue,
            longest_wait: match self.queue {
                0 => String::new(),
                _ => duration_text(self.longest_wait),
            },
        }
    }
}

impl Fault {
    const fn flaw(&self) -> Option<Wrong> {
        const PERCENT: &str = "is 1 to 100";
        if self.delay.is_none() && self.abort.is_none() {
            return wrong(
                "fault.abort_percent",
                "is missing, and so is `delay_percent`: say how many of a hundred calls fail, or \
                 are held back",
            );
        }
        if let Some(delay) = &self.delay {
            if delay.percent == 0 || delay.percent > 100 {
                return wrong("fault.delay_percent", PERCENT);
            }
            if !is_within(delay.time, (MILLISECOND, DELAY_LIMIT)) {
                return wrong("fault.delay", "is whole milliseconds from 1ms to 60s");
            }
        }
        if let Some(abort) = &self.abort {
            if abort.percent == 0 || abort.percent > 100 {
                return wrong("fault.abort_percent", PERCENT);
            }
            if abort.status == 0 || abort.status > 16 {
                return wrong("fault.abort_status", "is a gRPC status other than OK");
            }
        }
        match (&self.header, &self.header_value) {
            (Some(header), value) => flaw_of_header(text(header), value.as_ref()),
            (None, Some(_)) => wrong("fault.header_value", "is given, and no `header`"),
            (None, None) => None,
        }
    }

    fn from_wire(fault: wire::Fault) -> Result<Self, FieldError> {
        let contradiction = |field: &str, text: &str| {
            let problem = Problem::Contradiction(text.to_owned());
            Err(FieldError::new(field, problem))
        };
        let delay = match (fault.delay_percent, time(&fault.delay, "delay")?) {
            (0, None) => None,
            (0, Some(_)) => return contradiction("delay_percent", "`delay` is given without it"),
            (_, None) => return contradiction("delay", "`delay_percent` is given without it"),
            (percent, Some(time)) => Some(Delay { percent, time }),
        };
        let abort = match (fault.abort_percent, fault.abort_status.as_str()) {
            (0, "") => None,
            (0, _) => {
                return contradiction("abort_percent", "`abort_status` is given without it");
            }
            (_, "") => {
                return contradiction("abort_status", "`abort_percent` is given without it");
            }
            (percent, name) => {
                let status = Statuses::named(name);
                let status = status.map_err(|problem| FieldError::new("abort_status", problem))?;
                Some(Abort { percent, status })
            }
        };
        let some = |text: String| (!text.is_empty()).then_some(Cow::Owned(text));
        let read = Self {
            delay,
            abort,
            header: some(fault.header),
            header_value: some(fault.header_value),
        };
        refused(read.flaw())?;
        Ok(read)
    }

    pub(super) fn to_wire(&self) -> wire::Fault {
        let text = |text: &Option<Cow<'static, str>>| text.as_deref().unwrap_or("").to_owned();
        let status = |abort: Abort| Statuses::of(&[abort.status]).names().next();
        wire::Fault {
            delay_percent: self.delay.map_or(0, |delay| delay.percent),
            delay: self
                .delay
                .map_or_else(String::new, |it| duration_text(it.time)),
            abort_percent: self.abort.map_or(0, |abort| abort.percent),
            abort_status: self.abort.and_then(status).unwrap_or("").to_owned(),
            header: text(&self.header),
            header_value: text(&self.header_value),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, burst) = (self.requests_per_second, self.burst);
        write!(formatter, "{rate} calls/s, {burst} at once")?;
        let shares: Vec<_> = self.per.names().collect();
        if !shares.is_empty() {
            write!(formatter, ", per {}", shares.join(" and "))?;
        }
        if self.outbound {
            formatter.write_str(", where they leave")?;
        }
        Ok(())
    }
}

impl fmt::Display for Concurrency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bound {
            Bound::Fixed(most) => write!(formatter, "{most} calls at once")?,
            Bound::Adaptive(adaptive) => write!(formatter, "{adaptive}")?,
        }
        match self.queue {
            0 => Ok(()),
            queue => write!(formatter, ", {queue} wait up to {:?}", self.longest_wait),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(Delay { percent, time }) = self.delay {
            parts.push(format!("{percent} % held back {time:?}"));
        }
        if let Some(Abort { percent, status }) = self.abort {
            let status = Statuses::of(&[status]).names().next().unwrap_or("?");
            parts.push(format!("{percent} % fail with {status}"));
        }
        formatter.write_str(&parts.join(", "))?;
        match (&self.header, &self.header_value) {
            (Some(header), Some(value)) => write!(formatter, ", where {header} is `{value}`"),
            (Some(header), None) => write!(formatter, ", where there is {header}"),
            _ => Ok(()),
        }
    }
}

const fn flaw_of_header(name: &str, value: Option<&Cow<'static, str>>) -> Option<Wrong> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > HEADER_LIMIT {
        return wrong("fault.header", "is a name of at most 256 bytes");
    }
    let mut index = 0;
    while index < bytes.len() {
        // RFC 9110 §5.6.2, less what no gRPC metadata has.
        if !matches!(bytes[index], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.') {
            return wrong(
                "fault.header",
                "is made of lower-case letters, digits, `-`, `_` and `.`",
            );
        }
        index += 1;
    }
    if is_of_the_mesh(bytes) {
        return wrong(
            "fault.header",
            "begins with `sidelane-`: such headers are the mesh's own; name one that the caller \
             sends",
        );
    }
    if let Some(value) = value {
        let bytes = text(value).as_bytes();
        if bytes.len() > HEADER_LIMIT {
            return wrong("fault.header_value", "has more than 256 bytes");
        }
        let mut index = 0;
        while index < bytes.len() {
            if !matches!(bytes[index], b' '..=b'~') {
                return wrong(
                    "fault.header_value",
                    "is made of printable ASCII characters",
                );
            }
            index += 1;
        }
    }
    None
}

const fn is_of_the_mesh(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"sidelane-";
    let mut index = 0;
    while index < PREFIX.len() {
        if index >= name.len() || name[index] != PREFIX[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// What a `Cow` is otherwise read by is not for constants.
#[allow(clippy::ptr_arg)]
pub(super) const fn text<'a>(text: &'a Cow<'static, str>) -> &'a str {
    match text {
        Cow::Borrowed(text) => text,
        Cow::Owned(text) => text.as_str(),
    }
}

pub(super) fn time(text: &str, path: &str) -> Result<Option<Duration>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    let malformed = || {
        let given = text.to_owned();
        let wanted = "a time: a whole number and a unit, such as 50ms or 2s";
        FieldError::new(path, Problem::Malformed { given, wanted })
    };
    duration(text).ok_or_else(malformed).map(Some)
}
