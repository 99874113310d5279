//! Pure: a call and the view of the mesh decide which rule holds, and whether the call may go
//! that way at all. The first stage of every call, and the one that `explain` asks too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sidelane::routing::Found;
use sidelane_proto::model::{ConnectionClass, Lane, MethodRule, Rule, SpokenRule};

use crate::mesh::{Moved, RuleSource, Target, View, Way};
use crate::parts::Course;

/// Calls that come by the way of a rule that was replaced are taken for so long after. By then
/// their callers have heard, or control has given them up.
pub const OLD_WAY: Duration = Duration::from_secs(10);
/// Class, lane and secure.
type Agreement = (ConnectionClass, Lane, bool);

/// How many names a refusal lists.
const NAMES_SHOWN: usize = 5;

/// What the operator decided about calls in general.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// A service without a rule is not called.
    pub require_rules: bool,
    /// A call that nobody here knows goes on to where it was meant to go, where that is known.
    pub passthrough: bool,
    /// Links can be secure: trust mode is not `disabled`.
    pub secure: bool,
}

/// A call that may go its way.
#[derive(Debug, Clone)]
pub struct Classified {
    /// Whom it is for.
    pub target: Arc<Target>,
    /// The place of its method in the target's rule; `None` where the rule does not know it.
    pub method: Option<usize>,
    /// From where the callee is reached.
    pub class: ConnectionClass,
    /// In which lane it travels.
    pub lane: Lane,
    /// The caller's own rule, where it decided instead of one of this sidecar's.
    pub spoken: Option<Arc<SpokenRule>>,
    /// Which parts of its service's split it may go to.
    pub course: Course,
}

impl Classified {
    /// What an endpoint's own rule must agree with.
    #[must_use]
    pub fn agreement(&self) -> Option<Agreement> {
        let spoken = self.spoken.as_ref().map(|spoken| spoken.agreement());
        spoken.or_else(|| self.target.agreement())
    }

    /// The header that the rule names as the key of calls which bring none.
    #[must_use]
    pub fn hash_header(&self) -> Option<&str> {
        self.target.rule.balancing.hash_header.as_deref()
    }

    /// What the rule says of its method.
    #[must_use]
    pub fn method(&self) -> Option<&MethodRule> {
        self.target.rule.methods.get(self.method?)
    }
}

/// Why a call may not go its way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClassifyError {
    /// No rule, and no endpoint ever seen.
    #[error(
        "{service}: no rule names it and no node ever offered it; {known}; start a sidecar with \
         `--serve {service}=ADDRESS`, or look at `sidelane services`"
    )]
    UnknownService {
        /// What was asked for.
        service: String,
        /// What is known, in words.
        known: String,
    },
    /// One node's health or reflection was asked for, and no service of that node is known.
    #[error(
        "{service}: node `{node}` was named, and no service of it is known here; call one of its \
         services first, or see `sidelane nodes`"
    )]
    NotBeside {
        /// What was asked for.
        service: String,
        /// The node that was named.
        node: String,
    },
    /// Some node offers it, but rules are demanded and it has none.
    #[error(
        "{service}: it is offered, but no rule names it, and this sidecar runs with \
         `--require-rules`; write a rule for it, or leave the flag out"
    )]
    NoRule {
        /// What was asked for.
        service: String,
    },
    /// The lane that was asked for is not the rule's, or does not go with its class.
    #[error("{service}: lane `{asked}` was asked for, its rule ({origin}) allows {allowed}")]
    LaneRefused {
        /// The service.
        service: String,
        /// The lane that was asked for.
        asked: &'static str,
        /// Where the rule was written.
        origin: String,
        /// The lanes it allows.
        allowed: String,
    },
    /// The rule says secure, and this mesh runs in the clear.
    #[error(
        "{service}: its rule ({origin}) says secure, and this way is in the clear \
         (--trust strict makes every way secure); the call did not go on"
    )]
    NotSecure {
        /// The service.
        service: String,
        /// Where the rule was written.
        origin: String,
    },
    /// An internal service asked for on the external listener.
    #[error("{service}: not reachable here")]
    NotExposed {
        /// The service.
        service: String,
    },
    /// An external service asked for on the internal listener.
    #[error("{service}: its class is {rule}, and this listener takes calls of class {link}")]
    WrongListener {
        /// The service.
        service: String,
        /// The rule's class.
        rule: ConnectionClass,
        /// The link's class.
        link: ConnectionClass,
    },
    /// The local caller was built with another rule than this sidecar goes by.
    #[error(
        "{service}: its caller was built with class {}, lane `{}`, secure {}; the rule of this \
         sidecar ({origin}) says class {}, lane `{}`, secure {}; build both from the same .proto",
        theirs.0, theirs.1, theirs.2, ours.0, ours.1, ours.2
    )]
    CallersRule {
        /// The service.
        service: String,
        /// What the caller's build says.
        theirs: Agreement,
        /// What holds here.
        ours: Agreement,
        /// Who says so, and where.
        origin: String,
    },
    /// The local caller's rule asks for a strategy that this sidecar was not built with.
    #[error(
        "{service}: its caller was built with another strategy than this sidecar has: {problem}"
    )]
    CallersStrategy {
        /// The service.
        service: String,
        /// What is asked for, and what there is.
        problem: String,
    },
    /// The caller's rule puts it in another lane than ours.
    #[error(
        "{service}: the caller sends it in lane `{link}`, the rule here ({origin}) says `{rule}`; \
         build both sides with the same rules"
    )]
    RulesMismatch {
        /// The service.
        service: String,
        /// The link's lane.
        link: Lane,
        /// The rule's lane.
        rule: Lane,
        /// Where the rule here was written.
        origin: String,
    },
}

/// Decides a local app's call. `found` is what this view finds by the path.
///
/// # Errors
/// Why it may not go.
#[inline]
pub fn outbound(
    view: &View,
    path: &str,
    found: Found<&Arc<Target>>,
    asked: Option<Lane>,
    policy: Policy,
) -> Result<Classified, ClassifyError> {
    let target = found
        .service
        .filter(|target| target.is_known())
        .ok_or_else(|| unknown(view, found.split(path).service))?;
    if policy.require_rules && target.source == RuleSource::Default {
        return Err(ClassifyError::NoRule {
            service: target.name.to_string(),
        });
    }
    let rule = &target.rule;
    check_secure(rule, policy.secure)?;
    let lane = match asked {
        None => rule.lane,
        Some(lane) if lane == rule.lane => lane,
        // Nobody said anything about this service, so its caller may.
        Some(lane) if target.source == RuleSource::Default && rule.class.allows(lane) => lane,
        Some(lane) => return Err(lane_refused(target, lane)),
    };
    Ok(Classified {
        target: Arc::clone(target),
        method: found.method,
        class: rule.class,
        lane,
        spoken: None,
        course: Course::ANY,
    })
}

/// Decides a user's call. What is not meant for users is as if it did not exist: it is asked of the
/// class before anything else, since every other answer would say that it does. Nor does it take
/// longer to say so.
///
/// # Errors
/// Why it may not go.
pub fn from_outside(
    view: &View,
    path: &str,
    found: Found<&Arc<Target>>,
    policy: Policy,
) -> Result<Classified, ClassifyError> {
    let service = || found.split(path).service.to_owned();
    match found.service.filter(|target| target.is_known()) {
        Some(target) if target.rule.class == ConnectionClass::External => {
            outbound(view, path, found, None, policy)
        }
        Some(_) => Err(ClassifyError::NotExposed { service: service() }),
        None => Err(ClassifyError::UnknownService {
            service: service(),
            known: "nothing more is said to users".to_owned(),
        }),
    }
}

/// Decides a local app's call whose caller says which rule it was built with. Where this sidecar
/// is bound by a rule of its own, the two must agree; where it would follow an offer or the
/// default, it follows its caller.
///
/// # Errors
/// Why it may not go.
pub fn spoken(
    view: &View,
    path: &str,
    found: Found<&Arc<Target>>,
    asked: Option<Lane>,
    spoken: &Arc<SpokenRule>,
    policy: Policy,
) -> Result<Classified, ClassifyError> {
    let Some(target) = found.service.filter(|target| target.is_known()) else {
        return outbound(view, path, found, asked, policy);
    };
    if let Some(rule) = target.binding() {
        if rule.agreement() == spoken.agreement() {
            return outbound(view, path, found, asked, policy);
        }
        return Err(ClassifyError::CallersRule {
            service: target.name.to_string(),
            theirs: spoken.agreement(),
            ours: rule.agreement(),
            origin: target.said.fixed_by().to_string(),
        });
    }
    if policy.require_rules && target.source == RuleSource::Default {
        let service = target.name.to_string();
        return Err(ClassifyError::NoRule { service });
    }
    let origin = || "its caller's".to_owned();
    if spoken.secure && !policy.secure {
        let service = target.name.to_string();
        let origin = origin();
        return Err(ClassifyError::NotSecure { service, origin });
    }
    if let Some(asked) = asked.filter(|asked| *asked != spoken.lane) {
        return Err(ClassifyError::LaneRefused {
            service: target.name.to_string(),
            asked: asked.name(),
            origin: origin(),
            allowed: spoken.lane.name().to_owned(),
        });
    }
    Ok(Classified {
        target: Arc::clone(target),
        method: found.method,
        class: spoken.class,
        lane: spoken.lane,
        spoken: Some(Arc::clone(spoken)),
        course: Course::ANY,
    })
}

/// Decides a peer's call against the rule that holds here; `None` where nothing was said.
///
/// # Errors
/// Why it may not come in.
pub fn inbound(
    service: &str,
    rule: Option<&Rule>,
    (class, lane): Way,
    secure: bool,
) -> Result<(), ClassifyError> {
    let rule_class = rule.map_or(ConnectionClass::Internal, |rule| rule.class);
    if rule_class != class {
        let service = service.to_owned();
        return Err(if class == ConnectionClass::External {
            ClassifyError::NotExposed { service }
        } else {
            ClassifyError::WrongListener {
                service,
                rule: rule_class,
                link: class,
            }
        });
    }
    let Some(rule) = rule else { return Ok(()) };
    check_secure(rule, secure)?;
    if rule.lane == lane {
        return Ok(());
    }
    Err(ClassifyError::RulesMismatch {
        service: service.to_owned(),
        link: lane,
        rule: rule.lane,
        origin: rule.origin.to_string(),
    })
}

/// Decides a peer's call for a service beside this sidecar, as it stands at `now`. What a pushed
/// rule allowed until a moment ago still comes in: its callers may not have heard yet. A rule that
/// became secure holds at once.
///
/// # Errors
/// Why it may not come in.
pub fn incoming(
    service: &str,
    target: Option<&Target>,
    way: Way,
    secure: bool,
    now: Instant,
) -> Result<(), ClassifyError> {
    let rule = target.and_then(Target::binding).map(|rule| &**rule);
    let Err(refused) = inbound(service, rule, way, secure) else {
        return Ok(());
    };
    let moved = target.and_then(|target| target.moved.as_ref());
    let lately = moved.filter(|moved| now.saturating_duration_since(moved.at) < OLD_WAY);
    if let Some(Moved { before, .. }) = lately
        && !rule.is_some_and(|rule| rule.secure)
        && inbound(service, before.as_deref(), way, secure).is_ok()
    {
        return Ok(());
    }
    Err(refused)
}

/// What is to be secure does not go where links are in the clear.
fn check_secure(rule: &Rule, secure: bool) -> Result<(), ClassifyError> {
    if rule.secure && !secure {
        return Err(ClassifyError::NotSecure {
            service: rule.service.to_string(),
            origin: rule.origin.to_string(),
        });
    }
    Ok(())
}

fn lane_refused(target: &Target, asked: Lane) -> ClassifyError {
    let allowed = if target.source == RuleSource::Default {
        target.rule.class.lane_names()
    } else {
        target.rule.lane.name().to_owned()
    };
    ClassifyError::LaneRefused {
        service: target.name.to_string(),
        asked: asked.name(),
        origin: target.rule.origin.to_string(),
        allowed,
    }
}

fn unknown(view: &View, service: &str) -> ClassifyError {
    let mut names: Vec<&str> = view
        .targets()
        .filter(|target| target.ever_seen)
        .map(|target| target.name.as_str())
        .collect();
    names.sort_unstable();
    let known = match names.len() {
        0 => "no service is known here yet".to_owned(),
        count if count > NAMES_SHOWN => {
            format!(
                "known are {} and {} more",
                names[..NAMES_SHOWN].join(", "),
                count - NAMES_SHOWN
            )
        }
        _ => format!("known are {}", names.join(", ")),
    };
    ClassifyError::UnknownService {
        service: service.to_owned(),
        known,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use sidelane::routing::{MethodRule, RouteTable, rule};
    use sidelane_proto::model::{ServiceName, ServiceState};

    use super::*;
    use crate::mesh::Mesh;
    use crate::telemetry::Metrics;

    const NONE: &[MethodRule] = &[];
    const INTERNAL: ConnectionClass = ConnectionClass::Internal;
    const EXTERNAL: ConnectionClass = ConnectionClass::External;
    static RULES: &[Rule] = &[
        rule("shop.v1.Orders", INTERNAL, Lane::GENERAL, NONE, "shop.rs:1"),
        rule(
            "shop.v1.Log",
            INTERNAL,
            Lane::BIFROST_DATA,
            NONE,
            "shop.rs:2",
        ),
        rule(
            "shop.v1.Front",
            EXTERNAL,
            Lane::INGRESS_DATA,
            NONE,
            "shop.rs:3",
        ),
    ];

    fn mesh() -> Mesh {
        let seen = ServiceName::new("other.v1.Seen").unwrap();
        let mesh = Mesh::new(
            RouteTable::new(RULES),
            Vec::new(),
            Arc::new(Metrics::default()),
        );
        let state = ServiceState {
            service: seen,
            ever_seen: true,
            endpoints: Vec::new(),
        };
        mesh.replace([&state], &[], Instant::now());
        mesh
    }

    fn decide(service: &str, lane: Option<Lane>) -> Result<Classified, ClassifyError> {
        let mesh = mesh();
        let (view, path) = (mesh.view(), format!("/{service}/Get"));
        outbound(
            &view,
            &path,
            view.find(&path).unwrap(),
            lane,
            Policy::default(),
        )
    }

    #[test]
    fn a_rule_decides_class_and_lane() {
        let orders = decide("shop.v1.Orders", None).unwrap();
        assert_eq!((orders.class, orders.lane), (INTERNAL, Lane::GENERAL));
        let log = decide("shop.v1.Log", Some(Lane::BIFROST_DATA)).unwrap();
        assert_eq!((log.class, log.lane), (INTERNAL, Lane::BIFROST_DATA));
        let front = decide("shop.v1.Front", None).unwrap();
        assert_eq!((front.class, front.lane), (EXTERNAL, Lane::INGRESS_DATA));
    }

    #[test]
    fn another_lane_than_the_rules_is_refused_with_the_rule() {
        let error = decide("shop.v1.Orders", Some(Lane::GOSSIP)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shop.v1.Orders: lane `gossip` was asked for, its rule (shop.rs:1) allows general"
        );
    }

    #[test]
    fn without_a_rule_the_caller_may_choose_among_the_classs_lanes() {
        let seen = decide("other.v1.Seen", None).unwrap();
        assert_eq!((seen.class, seen.lane), (INTERNAL, Lane::GENERAL));
        let gossip = decide("other.v1.Seen", Some(Lane::GOSSIP)).unwrap();
        assert_eq!(gossip.lane, Lane::GOSSIP);
        let error = decide("other.v1.Seen", Some(Lane::INGRESS_DATA)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "other.v1.Seen: lane `ingress_data` was asked for, its rule (default rule) allows \
             general, gossip, bifrost_data"
        );
    }

    #[test]
    fn where_rules_are_demanded_the_default_does_not_do() {
        let strict = Policy {
            require_rules: true,
            ..Policy::default()
        };
        let (mesh, path) = (mesh(), "/other.v1.Seen/Get");
        let view = mesh.view();
        let error = outbound(&view, path, view.find(path).unwrap(), None, strict).unwrap_err();
        assert!(matches!(error, ClassifyError::NoRule { .. }), "{error}");
    }

    #[test]
    fn an_unknown_service_is_refused_with_what_is_known() {
        let error = decide("never.v1.Heard", None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "never.v1.Heard: no rule names it and no node ever offered it; known are \
             other.v1.Seen; start a sidecar with `--serve never.v1.Heard=ADDRESS`, or look at \
             `sidelane services`"
        );
    }

    #[test]
    fn what_is_secure_does_not_go_in_the_clear() {
        let error = decide("sidelane.predefined.v1.Metadata", None).unwrap_err();
        assert!(matches!(error, ClassifyError::NotSecure { .. }), "{error}");
    }

    /// The rule set is finite: every service, class and lane there is.
    #[test]
    fn an_internal_service_never_comes_in_by_the_external_listener() {
        for rule in RULES {
            for class in ConnectionClass::BUILT_IN {
                for lane in Lane::BUILT_IN {
                    let decided = inbound(&rule.service, Some(rule), (class, lane), false);
                    let right = class == rule.class && lane == rule.lane;
                    assert_eq!(decided.is_ok(), right, "{} {class} {lane}", rule.service);
                    if rule.class == INTERNAL && class == EXTERNAL {
                        assert!(matches!(decided, Err(ClassifyError::NotExposed { .. })));
                    }
                }
            }
        }
        assert!(inbound("a.B", None, (INTERNAL, Lane::GOSSIP), false).is_ok());
        assert!(inbound("a.B", None, (EXTERNAL, Lane::GENERAL), false).is_err());
    }

    #[test]
    fn a_callers_other_lane_is_named_with_both_sides() {
        let error = inbound(
            "shop.v1.Log",
            Some(&RULES[1]),
            (INTERNAL, Lane::GENERAL),
            false,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "shop.v1.Log: the caller sends it in lane `general`, the rule here (shop.rs:2) says \
             `bifrost_data`; build both sides with the same rules"
        );
    }
}
