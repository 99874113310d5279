//! The typed facts of a call, read once from its headers. Every stage works with these; nobody
//! parses twice, and nobody but this module knows how the headers are spelt.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use sidelane::routing::Found;
use sidelane_identity::SpiffeId;
use sidelane_process::strangers::network;
use sidelane_proto::model::{
    CallPath, ConnectionClass, FieldError, Generation, Lane, NodeId, PathError, SpokenRule,
};

/// Asks for a lane.
pub const LANE_HEADER: HeaderName = HeaderName::from_static("sidelane-lane");
/// Asks for one node: standard mode.
pub const NODE_HEADER: HeaderName = HeaderName::from_static("sidelane-node");
/// The key that keeps calls together on one endpoint, where the rule's strategy goes by a key.
pub const HASH_HEADER: HeaderName = HeaderName::from_static("sidelane-hash");
/// What the caller's own build says of the service: see [`SpokenRule`].
pub const RULE_HEADER: HeaderName =
    HeaderName::from_static(sidelane_proto::model::spoken::RULE_HEADER);
/// The longest key, in bytes.
pub const HASH_KEY_LIMIT: usize = 256;
/// The reason of a failure that the mesh made.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("sidelane-error");
/// Tells the app which node calls.
pub const SOURCE_NODE_HEADER: HeaderName = HeaderName::from_static("sidelane-source-node");
/// Tells the app whose certificate the caller's sidecar has shown.
pub const SOURCE_IDENTITY_HEADER: HeaderName = HeaderName::from_static("sidelane-source-identity");
/// All headers that belong to the mesh begin so.
pub const MESH_PREFIX: &str = "sidelane-";
/// The time limit of a call (gRPC over HTTP/2).
pub const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("grpc-timeout");
/// When, if at all, the callee would like the next attempt (gRFC A6).
pub const PUSHBACK_HEADER: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// Tells the callee how often the call was attempted before (gRFC A6).
pub const PREVIOUS_ATTEMPTS_HEADER: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");
/// The status of a call (gRPC over HTTP/2).
pub const STATUS_HEADER: HeaderName = HeaderName::from_static("grpc-status");

/// The other end of a link, as its Hello said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its generation.
    pub generation: Generation,
    /// The class of every call on the link.
    pub class: ConnectionClass,
    /// The lane of every call on the link.
    pub lane: Lane,
    /// Whose certificate it has shown; `None` where the link is in the clear.
    pub identity: Option<SpiffeId>,
    /// What comes without `traceparent` is not recorded: its sidecar has said so.
    pub unmarked: bool,
}

/// Who calls from outside the mesh, by the external listener. All that is known is an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct User(IpAddr);

impl User {
    /// Who connected from there.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self(network(address))
    }

    /// The key of calls that bring no other.
    #[must_use]
    pub fn key(self) -> u64 {
        match self.0 {
            IpAddr::V4(address) => hash_key(&address.octets()),
            IpAddr::V6(address) => hash_key(&address.octets()),
        }
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Who calls.
#[derive(Debug, Clone)]
pub enum Caller {
    /// The app beside this sidecar.
    Local,
    /// Another sidecar.
    Peer(Arc<Peer>),
    /// Somebody outside the mesh.
    User(User),
}

/// What a call asks for, apart from its path.
#[derive(Debug)]
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// When its headers were read.
    pub arrived: Instant,
    /// When its caller gives up.
    pub deadline: Option<Instant>,
    /// The node that is meant: standard mode.
    pub node: Option<NodeId>,
    /// The lane that is asked for.
    pub lane: Option<Lane>,
    /// The key that it brings, in `sidelane-hash` or in the header that its rule names, hashed by
    /// [`hash_key`].
    pub hash: Option<u64>,
    /// The rule that its caller was built with, where it says so.
    pub rule: Option<Arc<SpokenRule>>,
    /// Where the service's name ends in the path.
    service_end: usize,
}

/// Why a request is no call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not POST.
    #[error("the method is {0}, a gRPC call is a POST")]
    Method(http::Method),
    /// Not `application/grpc`.
    #[error("the content type is {0}, a gRPC call's is `application/grpc`")]
    ContentType(String),
    /// No gRPC path.
    #[error("{0}")]
    Path(#[from] PathError),
    /// A `grpc-timeout` that is not digits and a unit.
    #[error("`grpc-timeout: {0}` is not up to 8 digits and one of H, M, S, m, u, n")]
    Timeout(String),
    /// A `sidelane-node` that is no node id.
    #[error("`sidelane-node: {0}` is no node id (letters, digits, `.`, `_`, `-`)")]
    Node(String),
    /// A `sidelane-lane` that is no lane.
    #[error("`sidelane-lane: {given}` is no lane; lanes are {known}")]
    Lane {
        /// What was asked for.
        given: String,
        /// The lanes there are.
        known: String,
    },
    /// A `sidelane-hash` that is too long.
    #[error("`sidelane-hash` has {0} bytes, at most {HASH_KEY_LIMIT} are taken")]
    Hash(usize),
    /// A `sidelane-rule` that cannot be read here: it names what this sidecar does not know.
    #[error("the caller's rule cannot be followed: {0}; build both sides from the same .proto")]
    Rule(FieldError),
}

impl CallError {
    /// Plain HTTP, rather than gRPC with a mistake: answered in HTTP's own terms.
    #[must_use]
    pub fn is_plain_http(&self) -> bool {
        matches!(self, Self::Method(_) | Self::ContentType(_))
    }
}

impl Call {
    /// Reads the facts from a request's head, and takes the mesh's own headers out of it. `find`
    /// looks the path up; whoever finds it need not check its form.
    ///
    /// # Errors
    /// The first thing that makes it no gRPC call.
    pub fn read<S>(
        parts: &mut Parts,
        caller: Caller,
        arrived: Instant,
        find: impl FnOnce(&str) -> Result<Found<S>, PathError>,
    ) -> Result<(Self, Found<S>), CallError> {
        if parts.method != http::Method::POST {
            return Err(CallError::Method(parts.method.clone()));
        }
        check_content_type(&parts.headers)?;
        let found = find(parts.uri.path())?;
        if parts.uri.query().is_some() {
            return Err(PathError::BadCharacter.into());
        }
        let deadline = match parts.headers.get(TIMEOUT_HEADER) {
            Some(value) => {
                let timeout = read_timeout(value.as_bytes())
                    .ok_or_else(|| CallError::Timeout(printable(value)))?;
                // A limit beyond what the clock can count is none.
                arrived.checked_add(timeout)
            }
            None => None,
        };
        let mut call = Self {
            caller,
            arrived,
            deadline,
            node: None,
            lane: None,
            hash: None,
            rule: None,
            service_end: found.service_end,
        };
        let outside = call.is_from_outside();
        if parts.headers.keys().any(is_mesh_header) {
            // What the mesh says to itself nobody outside may say, nor is it looked at.
            if !outside {
                call.read_mesh_headers(&parts.headers)?;
            }
            strip_mesh_headers(&mut parts.headers);
        }
        if outside {
            // What it says of its own identity in a proxy's name.
            strip(&mut parts.headers, is_forwarded);
        }
        Ok((call, found))
    }

    /// The path of the request that this call was read from, taken apart.
    #[must_use]
    pub fn path<'a>(&self, parts: &'a Parts) -> CallPath<'a> {
        let path = parts.uri.path();
        CallPath {
            service: &path[1..self.service_end],
            method: &path[self.service_end + 1..],
        }
    }

    /// Takes its key from this header, which its rule names, where it brings no other; a user's,
    /// from the address where there is no such header either.
    pub fn key_by(&mut self, parts: &Parts, header: Option<&str>) {
        if let (None, Some(header)) = (self.hash, header) {
            let value = values_of(&parts.headers, header).next();
            self.hash = value.map(|value| hash_key(value.as_bytes()));
        }
        if let (None, Caller::User(user)) = (self.hash, &self.caller) {
            self.hash = Some(user.key());
        }
    }

    /// Whose it is, where it came from outside the mesh.
    #[must_use]
    pub fn user(&self) -> Option<User> {
        match &self.caller {
            Caller::User(user) => Some(*user),
            Caller::Local | Caller::Peer(_) => None,
        }
    }

    /// Is it a user's?
    #[must_use]
    pub fn is_from_outside(&self) -> bool {
        matches!(self.caller, Caller::User(_))
    }

    fn read_mesh_headers(&mut self, headers: &HeaderMap) -> Result<(), CallError> {
        if let Some(value) = headers.get(NODE_HEADER) {
            let node = value.to_str().ok().and_then(|text| NodeId::new(text).ok());
            self.node = Some(node.ok_or_else(|| CallError::Node(printable(value)))?);
        }
        if let Some(value) = headers.get(LANE_HEADER) {
            let lane = value.to_str().ok().and_then(Lane::from_name);
            self.lane = Some(lane.ok_or_else(|| CallError::Lane {
                given: printable(value),
                known: lane_names(),
            })?);
        }
        if let Some(value) = headers.get(HASH_HEADER) {
            if value.len() > HASH_KEY_LIMIT {
                return Err(CallError::Hash(value.len()));
            }
            self.hash = Some(hash_key(value.as_bytes()));
        }
        // Peers have settled theirs with their own sidecar.
        if let (Some(value), Caller::Local) = (headers.get(RULE_HEADER), &self.caller) {
            let text = String::from_utf8_lossy(value.as_bytes());
            let rule: SpokenRule = text.parse().map_err(CallError::Rule)?;
            self.rule = Some(Arc::new(rule));
        }
        Ok(())
    }
}

/// 64 bits that depend on every bit of a key, the same in every sidecar and in every build: callers
/// on different nodes must find the same endpoint by one key. FNV-1a (draft-eastlake-fnv), and the
/// finalizer of `MurmurHash3`, because FNV's upper bits hardly depend on the last bytes.
#[must_use]
pub fn hash_key(key: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mut hash = key.iter().fold(0xcbf2_9ce4_8422_2325, fold);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

fn lane_names() -> String {
    let names: Vec<&str> = Lane::known().into_iter().map(Lane::name).collect();
    names.join(", ")
}

fn check_content_type(headers: &HeaderMap) -> Result<(), CallError> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Err(CallError::ContentType("missing".into()));
    };
    match value.as_bytes().strip_prefix(b"application/grpc") {
        Some([] | [b'+' | b';', ..]) => Ok(()),
        _ => Err(CallError::ContentType(format!("`{}`", printable(value)))),
    }
}

/// Of the mesh, by the name that has it or by one that many servers read as the same.
fn is_mesh_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with(MESH_PREFIX) || name.starts_with("sidelane_")
}

/// Takes out every header that belongs to the mesh, so that no app can make one up.
pub fn strip_mesh_headers(headers: &mut HeaderMap) {
    strip(headers, is_mesh_header);
}

fn strip(headers: &mut HeaderMap, goes: fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// What proxies say of the client before them, and what those who sign users in say of them. From
/// users these are claims that nobody has checked, and an app that reads them takes them for its own
/// proxy's word: its certificate (Envoy's header, RFC 9440's, nginx's and Linkerd's), its address and
/// what it asked for (RFC 7239, and what came before it), its name.
pub const FORWARDED: [&str; 15] = [
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-real-ip",
    "x-remote-user",
    "x-webauth-user",
    "x-ssl-cert",
    "remote-user",
    "x-original-forwarded-for",
    "cf-access-authenticated-user-email",
];

/// Beginnings of names that mean the same: `x-forwarded-for`, `x-forwarded-client-cert`,
/// `l5d-client-id`, `x-envoy-original-path`, `x-auth-request-email` and their like.
pub const FORWARDED_PREFIXES: [&str; 9] = [
    "x-forwarded-",
    "l5d-",
    "x-envoy-",
    "x-auth-request-",
    "x-ssl-client-",
    "x-goog-authenticated-user-",
    "ssl-client-",
    "x-amzn-oidc-",
    "x-ms-client-principal",
];

/// Is it one of [`FORWARDED`] or [`FORWARDED_PREFIXES`], however its words are joined? Many servers
/// read `_` and `-` as the same.
fn is_forwarded(name: &HeaderName) -> bool {
    let dashed;
    let name = if name.as_str().contains('_') {
        dashed = name.as_str().replace('_', "-");
        &dashed
    } else {
        name.as_str()
    };
    FORWARDED.contains(&name) || FORWARDED_PREFIXES.iter().any(|it| name.starts_with(it))
}

/// The values of a header that a rule names. It looks at each header instead of hashing the name,
/// which must be read and checked for that: calls have a handful of headers.
pub fn values_of<'a>(
    headers: &'a HeaderMap,
    name: &'a str,
) -> impl Iterator<Item = &'a HeaderValue> {
    let all = headers.iter();
    all.filter(|(known, _)| known.as_str().eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// The same for an app's answers and a request's trailers; most have nothing.
pub fn strip_if_any(headers: &mut HeaderMap) {
    if headers.keys().any(is_mesh_header) {
        strip_mesh_headers(headers);
    }
}

/// Reads a `grpc-timeout`.
fn read_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes what is left of a call's time as a `grpc-timeout`, rounded down by less than a hundredth,
/// never zero. Calls with the same limit so send the same few values, which HTTP/2's table of headers
/// then holds: one byte each instead of a new entry, for which another must go.
#[must_use]
pub fn write_timeout(left: Duration) -> HeaderValue {
    const MOST: u64 = 99_999_999;
    let micros = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
    let (number, unit) = match micros {
        0..1_000 => (micros.max(1), b'u'),
        1_000..10_000 => (micros / 10 * 10, b'u'),
        10_000..100_000 => (micros / 100 * 100, b'u'),
        _ if micros / 1_000 <= MOST => (micros / 1_000, b'm'),
        _ => (left.as_secs().min(MOST), b'S'),
    };
    // Eight digits and a unit.
    let mut text = [unit; 9];
    let mut begins = text.len() - 1;
    let mut rest = number;
    while rest > 0 && begins > 0 {
        begins -= 1;
        text[begins] = b'0' + (rest % 10).to_le_bytes()[0];
        rest /= 10;
    }
    // Digits and a letter are always a header value.
    HeaderValue::from_bytes(&text[begins..]).unwrap_or(HeaderValue::from_static("1u"))
}

fn printable(value: &HeaderValue) -> String {
    let text: String = String::from_utf8_lossy(value.as_bytes())
        .chars()
        .take(64)
        .collect();
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::post(path);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn read(path: &str, headers: &[(&str, &str)]) -> Result<(Call, Parts), CallError> {
        let mut parts = head(path, headers);
        let read = Call::read(
            &mut parts,
            Caller::Local,
            Instant::now(),
            Found::<()>::unknown,
        );
        read.map(|(call, _)| (call, parts))
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn content_types_of_grpc_and_no_others_are_taken() {
        for good in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=x",
        ] {
            assert!(read("/a.B/C", &[("content-type", good)]).is_ok(), "{good}");
        }
        for bad in ["application/json", "application/grpcx", "text/plain"] {
            let error = read("/a.B/C", &[("content-type", bad)]).unwrap_err();
            assert_eq!(error, CallError::ContentType(format!("`{bad}`")));
            assert!(error.is_plain_http());
        }
        let error = read("/a.B/C", &[]).unwrap_err();
        let expected = "the content type is missing, a gRPC call's is `application/grpc`";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_header_that_a_rule_names_is_found_in_any_case_with_all_its_values() {
        let (_, parts) = read("/a.B/C", &[GRPC, ("x-user", "1"), ("x-user", "2")]).unwrap();
        let of = |name| -> Vec<&HeaderValue> { values_of(&parts.headers, name).collect() };
        assert_eq!(of("X-User"), ["1", "2"]);
        assert!(of("x-use").is_empty() && of("x-users").is_empty());
    }

    #[test]
    fn timeouts_are_read_in_every_unit_and_refused_otherwise() {
        let cases = [
            ("1H", 3_600_000_000_000_u128),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("4m", 4_000_000),
            ("5u", 5_000),
            ("99999999n", 99_999_999),
        ];
        for (text, nanoseconds) in cases {
            assert_eq!(
                read_timeout(text.as_bytes()).unwrap().as_nanos(),
                nanoseconds
            );
        }
        for bad in ["", "S", "1", "1s", "123456789S", "-1S", "1.5S", " 1S"] {
            assert_eq!(read_timeout(bad.as_bytes()), None, "{bad}");
        }
        let error = read("/a.B/C", &[GRPC, ("grpc-timeout", "soon")]).unwrap_err();
        assert_eq!(error, CallError::Timeout("soon".into()));
    }

    #[test]
    fn what_is_left_is_written_rounded_down_and_never_zero() {
        let cases = [
            (Duration::ZERO, "1u"),
            (Duration::from_nanos(1_999), "1u"),
            (Duration::from_micros(999), "999u"),
            (Duration::from_micros(1_239), "1230u"),
            (Duration::from_micros(99_999), "99900u"),
            (Duration::from_millis(1_500), "1500m"),
            (Duration::from_micros(1_999_999), "1999m"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_millis(99_999_999), "99999999m"),
            (Duration::from_millis(100_000_000), "100000S"),
            (Duration::MAX, "99999999S"),
        ];
        for (left, text) in cases {
            assert_eq!(write_timeout(left), text);
        }
    }

    #[test]
    fn less_than_a_hundredth_of_what_is_left_is_lost() {
        for micros in [1, 9, 99, 1_009, 9_999, 10_099, 99_999, 100_999, 5_000_999] {
            let left = Duration::from_micros(micros);
            let read = read_timeout(write_timeout(left).as_bytes()).unwrap();
            assert!(read <= left && left - read < left / 100 + Duration::from_nanos(1));
        }
    }

    #[test]
    fn the_meshs_headers_are_read_and_taken_out() {
        let asked = [
            GRPC,
            ("sidelane-node", "orders-1"),
            ("sidelane-lane", "gossip"),
            ("sidelane-source-node", "forged"),
            ("x-own", "stays"),
        ];
        let (call, parts) = read("/a.B/C", &asked).unwrap();
        assert_eq!(call.node.unwrap().as_str(), "orders-1");
        assert_eq!(call.lane, Some(Lane::GOSSIP));
        assert_eq!(parts.headers.len(), 2);
        assert_eq!(parts.headers["x-own"], "stays");
        let error = read("/a.B/C", &[GRPC, ("sidelane-lane", "fast")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sidelane-lane: fast` is no lane; lanes are general, gossip, bifrost_data, ingress_data"
        );
    }

    #[test]
    fn the_rules_header_is_the_key_of_calls_that_bring_none() {
        let keyed = |headers: &[(&str, &str)], header| {
            let (mut call, parts) = read("/a.B/C", headers).unwrap();
            call.key_by(&parts, header);
            call.hash
        };
        let user = [GRPC, ("x-user", "order-7")];
        let said = Some(hash_key(b"order-7"));
        assert_eq!(keyed(&user, Some("x-user")), said);
        assert_eq!(keyed(&user, Some("x-other")), None);
        assert_eq!(keyed(&user, None), None);
        let both = [GRPC, ("x-user", "other"), ("sidelane-hash", "order-7")];
        assert_eq!(keyed(&both, Some("x-user")), said);
    }

    #[test]
    fn nothing_that_a_user_says_of_the_mesh_or_of_itself_is_heard() {
        let user = User::at("192.0.2.7".parse().unwrap());
        let mut headers = vec![GRPC, ("sidelane-lane", "no lane"), ("sidelane-node", "a b")];
        headers.extend([("sidelane-hash", "k"), ("sidelane-rule", "?")]);
        headers.extend(FORWARDED.map(|name| (name, "forged")));
        headers.push(("x-own", "stays"));
        let mut parts = head("/a.B/C", &headers);
        let caller = Caller::User(user);
        let read = Call::read(&mut parts, caller, Instant::now(), Found::<()>::unknown);
        let (mut call, _) = read.unwrap();
        assert_eq!(
            (call.hash, call.lane, call.node.as_ref()),
            (None, None, None)
        );
        assert!(call.rule.is_none());
        assert_eq!(parts.headers.len(), 2);
        assert_eq!(parts.headers["x-own"], "stays");
        call.key_by(&parts, Some("x-absent"));
        assert_eq!(call.hash, Some(user.key()));
    }

    #[test]
    fn a_user_is_an_address_or_the_network_of_one() {
        let at = |text: &str| User::at(text.parse().unwrap());
        assert_eq!(at("192.0.2.7"), at("::ffff:192.0.2.7"));
        assert_ne!(at("192.0.2.7"), at("192.0.2.8"));
        assert_eq!(at("2001:db8:0:1::1"), at("2001:db8:0:1:ffff::2"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8:0:2::1"));
        assert_ne!(at("192.0.2.7").key(), at("192.0.2.8").key());
    }

    #[test]
    fn a_key_is_hashed_alike_everywhere_and_has_a_bound() {
        let key = |text: &str| read("/a.B/C", &[GRPC, ("sidelane-hash", text)]);
        let (call, parts) = key("order-7").unwrap();
        // The figure is a promise: another build beside this one must find the same endpoint.
        assert_eq!(call.hash, Some(0x3962_df2f_6dfa_894a));
        assert_eq!(parts.headers.len(), 1);
        assert_eq!(read("/a.B/C", &[GRPC]).unwrap().0.hash, None);
        assert!(key(&"k".repeat(HASH_KEY_LIMIT)).is_ok());
        let error = key(&"k".repeat(HASH_KEY_LIMIT + 1)).unwrap_err();
        assert_eq!(error, CallError::Hash(HASH_KEY_LIMIT + 1));
    }
}
