//! Who may call a service, by the identity that the caller's sidecar has proved, and by the way
//! that the call comes. Pure: the sidecar beside the callee asks it of each call, and `explain` asks
//! the same of a call that nobody makes.

mod form;

use std::borrow::Cow;
use std::fmt;

use super::admission::{Wrong, refused, text, wrong};
use super::class::ConnectionClass;
use super::error::{FieldError, Problem};
use super::flaw::PolicyFlaw;
use super::lane::Lane;
use super::rule::Rule;
use crate::wire::routing::v1 as wire;

/// The most entries that a list may have.
pub const ENTRIES_LIMIT: usize = 64;

/// Who may call a service, or one method of it.
///
/// - No list, at the service and at all its methods: everybody may call.
/// - A list at the service: whoever fits one of its entries may call, and nobody else.
/// - A list at a method stands instead of its service's, whole.
/// - Lists at methods and none at the service: the other methods may be called by nobody. Where all
///   the lists are a dry run, so is this.
/// - An entry is fitted by a call that fits every field of it; a field that says nothing is fitted
///   by every call.
/// - A call whose caller's identity is not known fits no entry that asks for one.
/// - `dry_run`: whoever fits none is counted and noted, and let in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authorization {
    /// One of them is enough; 1 to [`ENTRIES_LIMIT`].
    pub allow: Cow<'static, [Allow]>,
    /// Nobody is refused: it is only counted and noted who would be.
    pub dry_run: bool,
}

/// Calls that may come in: those that fit all that it says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Allow {
    /// Nothing is asked of who calls; it stands alone for that.
    pub anyone: bool,
    /// Exactly this SPIFFE id.
    pub identity: Option<Cow<'static, str>>,
    /// Service accounts of this namespace: of the trust domain that the entry names, else of the
    /// callee's own.
    pub namespace: Option<Cow<'static, str>>,
    /// Identities of this trust domain, which is written without `spiffe://`.
    pub trust_domain: Option<Cow<'static, str>>,
    /// Identities that begin so.
    pub prefix: Option<Cow<'static, str>>,
    /// Links of this class.
    pub class: Option<ConnectionClass>,
    /// Calls in this lane.
    pub lane: Option<Lane>,
}

/// What bears on the calls of one method, by a rule alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds<'a> {
    /// Everybody may call it.
    Nothing,
    /// This list.
    List(&'a Authorization),
    /// Other methods have lists, and this one has none: nobody may.
    Nobody,
}

/// A call, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Approach<'a> {
    /// The caller's SPIFFE id, where it was proved.
    pub identity: Option<&'a str>,
    /// The callee's own id, where it has one: a namespace that is named alone is of its trust domain.
    pub callee: Option<&'a str>,
    /// The class of the link that the call comes by.
    pub class: ConnectionClass,
    /// Its lane.
    pub lane: Lane,
}

impl Authorization {
    /// These may call.
    #[must_use]
    pub const fn of(allow: &'static [Allow]) -> Self {
        Self {
            allow: Cow::Borrowed(allow),
            dry_run: false,
        }
    }

    /// The same list, which refuses nobody.
    #[must_use]
    pub const fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// The place of the first entry that the call fits.
    #[must_use]
    pub fn fitted(&self, approach: &Approach<'_>) -> Option<usize> {
        self.allow.iter().position(|allow| allow.fits(approach))
    }

    /// The first entry that may let somebody in whom `before` did not: one that is narrower than
    /// none of its entries.
    #[must_use]
    pub fn widens(&self, before: &Self) -> Option<&Allow> {
        let covered = |entry: &Allow| before.allow.iter().any(|allow| allow.covers(entry));
        self.allow.iter().find(|entry| !covered(entry))
    }

    const fn entries(&self) -> &[Allow] {
        match &self.allow {
            Cow::Borrowed(allow) => allow,
            Cow::Owned(allow) => allow.as_slice(),
        }
    }

    /// What makes it impossible, if anything does.
    pub(super) const fn flaw(&self) -> Option<PolicyFlaw> {
        let entries = self.entries();
        if entries.is_empty() {
            return PolicyFlaw::some("authorization.allow", NOBODY);
        }
        if entries.len() > ENTRIES_LIMIT {
            return PolicyFlaw::some("authorization.allow", "has more than 64 entries");
        }
        let mut index = 0;
        while index < entries.len() {
            if let Some(Wrong { field, reason }) = entries[index].flaw() {
                return PolicyFlaw::some(form::beneath(field), reason);
            }
            index += 1;
        }
        None
    }

    /// Reads it from the wire, in a rule of this class and lane.
    pub(super) fn from_wire(
        authorization: Option<wire::Authorization>,
        (class, lane): (ConnectionClass, Lane),
    ) -> Result<Option<Self>, FieldError> {
        let Some(authorization) = authorization else {
            return Ok(None);
        };
        let within = |error: FieldError| error.within("authorization");
        let wire::Authorization { allow, dry_run } = authorization;
        if allow.is_empty() {
            let problem = Problem::Refused(NOBODY.to_owned());
            return Err(within(FieldError::new("allow", problem)));
        }
        if allow.len() > ENTRIES_LIMIT {
            let (count, limit) = (allow.len(), ENTRIES_LIMIT);
            let error = FieldError::new("allow", Problem::TooMany { count, limit });
            return Err(within(error));
        }
        let allow = allow.into_iter().enumerate().map(|(index, allow)| {
            let allow = Allow::from_wire(allow, (class, lane));
            allow.map_err(|error| within(error.within(format_args!("allow[{index}]"))))
        });
        let allow = Cow::Owned(allow.collect::<Result<_, _>>()?);
        Ok(Some(Self { allow, dry_run }))
    }

    pub(super) fn to_wire(&self) -> wire::Authorization {
        wire::Authorization {
            allow: self.allow.iter().map(Allow::to_wire).collect(),
            dry_run: self.dry_run,
        }
    }
}

impl<'a> Holds<'a> {
    /// What the rule says of calls of this method.
    #[must_use]
    pub fn of(rule: &'a Rule, method: &str) -> Self {
        let own = rule.method(method).and_then(|it| it.authorization.as_ref());
        if let Some(list) = own.or(rule.authorization.as_ref()) {
            return Self::List(list);
        }
        let mut lists = rule.methods.iter();
        // A dry run lets everybody in.
        match lists.any(|it| it.authorization.as_ref().is_some_and(|it| !it.dry_run)) {
            true => Self::Nobody,
            false => Self::Nothing,
        }
    }

    /// Whom it may let in whom `before` did not, in words.
    #[must_use]
    pub fn widens(self, before: Self) -> Option<String> {
        let open = |holds| match holds {
            Self::Nothing => true,
            Self::List(list) => list.dry_run,
            Self::Nobody => false,
        };
        match (before, self) {
            (before, _) if open(before) => None,
            (_, now) if open(now) => Some("everybody".to_owned()),
            (Self::List(before), Self::List(now)) => now.widens(before).map(ToString::to_string),
            (_, Self::List(now)) => now.allow.first().map(ToString::to_string),
            (_, Self::Nothing | Self::Nobody) => None,
        }
    }
}

const NOBODY: &str = "names nobody, so that nobody could call; name who may, or leave \
                      `authorization` out";

impl Allow {
    /// Every call, for constants to begin with: it cannot be as it stands.
    pub const NOTHING_SAID: Self = Self {
        anyone: false,
        identity: None,
        namespace: None,
        trust_domain: None,
        prefix: None,
        class: None,
        lane: None,
    };

    /// Whoever calls, known or not.
    pub const ANYONE: Self = Self {
        anyone: true,
        ..Self::NOTHING_SAID
    };

    /// Exactly this SPIFFE id.
    #[must_use]
    pub const fn identity(id: &'static str) -> Self {
        Self {
            identity: Some(Cow::Borrowed(id)),
            ..Self::NOTHING_SAID
        }
    }

    /// Every service account of this namespace of the callee's own trust domain.
    #[must_use]
    pub const fn namespace(namespace: &'static str) -> Self {
        Self {
            namespace: Some(Cow::Borrowed(namespace)),
            ..Self::NOTHING_SAID
        }
    }

    /// Every identity of this trust domain.
    #[must_use]
    pub const fn trust_domain(domain: &'static str) -> Self {
        Self {
            trust_domain: Some(Cow::Borrowed(domain)),
            ..Self::NOTHING_SAID
        }
    }

    /// Every identity that begins so.
    #[must_use]
    pub const fn prefix(prefix: &'static str) -> Self {
        Self {
            prefix: Some(Cow::Borrowed(prefix)),
            ..Self::NOTHING_SAID
        }
    }

    /// Does a call that comes so fit it?
    #[must_use]
    pub fn fits(&self, approach: &Approach<'_>) -> bool {
        let way = self.class.is_none_or(|class| class == approach.class)
            && self.lane.is_none_or(|lane| lane == approach.lane);
        if !way || !self.asks_who() {
            return way;
        }
        let Some(caller) = approach.identity.and_then(form::Caller::read) else {
            return false;
        };
        let exact = self.identity.as_deref().is_none_or(|id| id == caller.id);
        let begins = |prefix: &str| caller.id.starts_with(prefix);
        let of_domain = |domain: &str| caller.domain == domain;
        let of_namespace = |namespace: &str| {
            let home = || approach.callee.and_then(form::Caller::read);
            let domain = self.trust_domain.as_deref();
            let domain = domain.or_else(|| home().map(|home| home.domain));
            caller.namespace == Some(namespace) && domain.is_some_and(of_domain)
        };
        exact
            && self.prefix.as_deref().is_none_or(begins)
            && self.trust_domain.as_deref().is_none_or(of_domain)
            && self.namespace.as_deref().is_none_or(of_namespace)
    }

    /// Does whatever fits `narrower` fit this one as well? Never yes where the answer is no.
    #[must_use]
    pub fn covers(&self, narrower: &Self) -> bool {
        let way = self.class.is_none_or(|class| narrower.class == Some(class))
            && self.lane.is_none_or(|lane| narrower.lane == Some(lane));
        if !way || !self.asks_who() {
            return way;
        }
        let caller = narrower.identity.as_deref().and_then(form::Caller::read);
        let exact = self.identity.is_none() || self.identity == narrower.identity;
        let begins = self.prefix.as_deref().is_none_or(|prefix| {
            let narrow = [&narrower.identity, &narrower.prefix];
            let mut narrow = narrow.into_iter().flatten();
            narrow.any(|text| text.starts_with(prefix))
        });
        let of_domain = self.trust_domain.as_deref().is_none_or(|domain| {
            let told = narrower.trust_domain.as_deref();
            let begins = narrower.prefix.as_deref().and_then(form::domain);
            let known = caller.as_ref().map(|caller| caller.domain);
            [told, begins, known].contains(&Some(domain))
        });
        // A namespace is of a trust domain, and the same where neither names one.
        let of_namespace = self.namespace.is_none()
            || (self.namespace == narrower.namespace && self.trust_domain == narrower.trust_domain)
            || caller.is_some_and(|caller| {
                caller.namespace == self.namespace.as_deref()
                    && self.trust_domain.as_deref() == Some(caller.domain)
            });
        exact && begins && of_domain && of_namespace
    }

    /// Does it ask who calls?
    const fn asks_who(&self) -> bool {
        self.identity.is_some()
            || self.namespace.is_some()
            || self.trust_domain.is_some()
            || self.prefix.is_some()
    }

    const fn flaw(&self) -> Option<Wrong> {
        if self.anyone && self.asks_who() {
            return wrong(
                "anyone",
                "is said beside who may call; leave `anyone` out, or the others",
            );
        }
        if !self.anyone && !self.asks_who() && self.class.is_none() && self.lane.is_none() {
            return wrong(
                "anyone",
                "is missing, and the entry says nothing else, so that every call fits it; say \
                 `anyone: true` if that is meant",
            );
        }
        if let Some(id) = &self.identity
            && let Some(reason) = form::flaw_of_identity(text(id))
        {
            return wrong("identity", reason);
        }
        if let Some(namespace) = &self.namespace
            && !form::is_segment(text(namespace).as_bytes())
        {
            return wrong(
                "namespace",
                "is no namespace: one segment of a SPIFFE id, made of a-z, A-Z, 0-9, `.`, `-` and \
                 `_`",
            );
        }
        if let Some(domain) = &self.trust_domain
            && !form::is_trust_domain(text(domain).as_bytes())
        {
            return wrong(
                "trust_domain",
                "is no trust domain: 1 to 255 of a-z, 0-9, `.`, `-` and `_`, without `spiffe://`",
            );
        }
        if let Some(prefix) = &self.prefix
            && let Some(reason) = form::flaw_of_prefix(text(prefix))
        {
            return wrong("prefix", reason);
        }
        None
    }

    fn from_wire(
        allow: wire::Allow,
        (class, lane): (ConnectionClass, Lane),
    ) -> Result<Self, FieldError> {
        let said = |text: String| (!text.is_empty()).then_some(Cow::Owned(text));
        let read = Self {
            anyone: allow.anyone,
            class: class_of(allow.connection, &allow.connection_custom, class)?,
            lane: lane_of(&allow.lane, lane)?,
            identity: said(allow.identity),
            namespace: said(allow.namespace),
            trust_domain: said(allow.trust_domain),
            prefix: said(allow.prefix),
        };
        refused(read.flaw())?;
        Ok(read)
    }

    fn to_wire(&self) -> wire::Allow {
        let told = |text: &Option<Cow<'static, str>>| text.as_deref().unwrap_or("").to_owned();
        let (connection, custom) = match self.class {
            None => (0, String::new()),
            Some(class) => {
                let (connection, name) = class.spoken();
                (connection, name.to_owned())
            }
        };
        wire::Allow {
            anyone: self.anyone,
            identity: told(&self.identity),
            namespace: told(&self.namespace),
            trust_domain: told(&self.trust_domain),
            prefix: told(&self.prefix),
            connection,
            connection_custom: custom,
            lane: self.lane.map_or("", Lane::name).to_owned(),
        }
    }
}

/// The class that is named: one of Sidelane's own, the rule's, or one that this process knows.
fn class_of(
    number: i32,
    custom: &str,
    of_rule: ConnectionClass,
) -> Result<Option<ConnectionClass>, FieldError> {
    if custom.is_empty() {
        return match number {
            0 => Ok(None),
            _ => ConnectionClass::from_wire(number, None, "connection").map(Some),
        };
    }
    let path = "connection_custom";
    if number != 0 {
        let text = "connection and connection_custom are both given".to_owned();
        return Err(FieldError::new(path, Problem::Contradiction(text)));
    }
    let mut known = ConnectionClass::known();
    known.insert(0, of_rule);
    let class = ConnectionClass::own_among(&known, custom);
    class
        .map(Some)
        .map_err(|problem| FieldError::new(path, problem))
}

/// The lane that is named, in the same way.
fn lane_of(name: &str, of_rule: Lane) -> Result<Option<Lane>, FieldError> {
    if name.is_empty() {
        return Ok(None);
    }
    if name == of_rule.name() {
        return Ok(Some(of_rule));
    }
    let unknown = || {
        let known = Lane::known();
        let names = known.iter().map(|lane| lane.name());
        FieldError::new("lane", Problem::unknown_name(name, "lane", names))
    };
    Lane::from_name(name).map(Some).ok_or_else(unknown)
}

impl fmt::Display for Allow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.asks_who() {
            parts.push("anyone".to_owned());
        }
        for (name, value) in [
            ("identity", &self.identity),
            ("namespace", &self.namespace),
            ("trust domain", &self.trust_domain),
            ("prefix", &self.prefix),
        ] {
            parts.extend(value.as_ref().map(|value| format!("{name} {value}")));
        }
        parts.extend(self.class.map(|class| format!("class {class}")));
        parts.extend(self.lane.map(|lane| format!("lane {lane}")));
        formatter.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Authorization {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dry_run {
            formatter.write_str("dry run, ")?;
        }
        for (index, allow) in self.allow.iter().enumerate() {
            let before = if index == 0 { "allow " } else { "; or " };
            write!(formatter, "{before}{allow}")?;
        }
        Ok(())
    }
}
