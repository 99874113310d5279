//! A service's rule as a type. What the rule says of class and lane stands in types, so that a
//! pair that the matrix does not have does not compile; all else stands in constants, and so does
//! the rule itself, which is what sidecars work with.

use std::borrow::Cow;
use std::time::Duration;

pub use sidelane_proto::model::LoadBalancing as LoadBalancingStrategy;
use sidelane_proto::model::{
    Admission, Authorization, Balancing, Breaker, Category, MethodRule, Outlier, Retry, Rule, Split,
};

use super::matrix::ValidRoutingMatrix;
use crate::routing::check;
use crate::routing::phantom::{ConnectionMarker, LaneMarker};

/// What a service demands of the mesh, by a type that stands for it. The build writes it from the
/// options in the `.proto`; where there is none,
/// [`define_service_routing!`](crate::define_service_routing) does from Rust.
///
/// ```
/// use sidelane::routing::{
///     Category, General, Internal, LoadBalancingStrategy, MethodRule, Rule, ServiceRouting,
/// };
///
/// struct Orders;
///
/// impl ServiceRouting for Orders {
///     const NAME: &'static str = "shop.v1.Orders";
///     const SERVICE_CATEGORY: Category = Category::Worker;
///     type Connection = Internal;
///     type Lane = General;
///     const REQUIRES_SECURE_TRANSPORT: bool = true;
///     const REQUIRES_PERSISTENT_CONNECTION: bool = true;
///     const LOAD_BALANCING_STRATEGY: Option<LoadBalancingStrategy> =
///         Some(LoadBalancingStrategy::ConsistentHash);
///     const METHODS: &'static [MethodRule] = &[MethodRule::unary("GetOrder").idempotent()];
/// }
///
/// static RULE: Rule = Orders::RULE;
/// assert_eq!(RULE.service, "shop.v1.Orders");
/// // It says nothing of time, so that it can be tuned.
/// assert_eq!(RULE.timeout, None);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no routing rule",
    label = "not a service with a rule",
    note = "a rule is written beside the rpc (`option (sidelane.routing.v1.service)`), or with \
            `define_service_routing!`"
)]
pub trait ServiceRouting: 'static {
    /// The gRPC service, `shop.v1.Orders`.
    const NAME: &'static str;
    /// What kind of service it is.
    const SERVICE_CATEGORY: Category;
    /// From where it may be reached.
    type Connection: ValidRoutingMatrix<Self::Lane>;
    /// The lane in which its calls travel.
    type Lane: LaneMarker;
    /// Refused rather than sent in the clear.
    const REQUIRES_SECURE_TRANSPORT: bool;
    /// The channel is kept open while idle.
    const REQUIRES_PERSISTENT_CONNECTION: bool;
    /// How an endpoint is picked, unless [`ServiceRouting::LOAD_BALANCING_CUSTOM`] says. `None` says
    /// nothing: whoever tunes the service decides, and nobody's word is
    /// [`LoadBalancingStrategy::PeakEwma`].
    const LOAD_BALANCING_STRATEGY: Option<LoadBalancingStrategy> = None;
    /// A strategy of one's own, by the name under which the sidecar's builder knows it.
    const LOAD_BALANCING_CUSTOM: Option<&'static str> = None;
    /// What else decides how an endpoint is picked: the header that is the key, whether near ones
    /// are preferred, and how new ones warm up.
    const BALANCING: Balancing = Balancing::NONE;
    /// The ceiling: no unary call may take longer, whatever its caller or its method says.
    const MAX_TIMEOUT: Option<Duration> = None;
    /// Time limit of unary calls that bring none. `None` says nothing: whoever tunes the service
    /// decides, and nobody's word is 30 s where the connection is persistent and 5 s otherwise, never
    /// above the ceiling.
    const DEFAULT_TIMEOUT: Option<Duration> = None;
    /// How its idempotent methods are tried again; `None` where they are not.
    const RETRY: Option<Retry> = None;
    /// When an endpoint that fails is left alone; `None` for [`Breaker::DEFAULT`].
    const BREAKER: Option<Breaker> = None;
    /// When one that fails more often than the others is; `None` for [`Outlier::DEFAULT`].
    const OUTLIER: Option<Outlier> = None;
    /// How calls are split between versions of it; `None` where they are not.
    const SPLIT: Option<Split> = None;
    /// What is admitted of its calls: so many a second, so many at once.
    const ADMISSION: Admission = Admission::NONE;
    /// Who may call it; `None` for everybody.
    const AUTHORIZATION: Option<Authorization> = None;
    /// Its methods: which stream, which are idempotent, and what each changes in the rule. Methods
    /// that are not here count as streaming and as not idempotent.
    const METHODS: &'static [MethodRule] = &[];
    /// Where the rule is written, `file:line`, for `explain`.
    const ORIGIN: &'static str = "impl ServiceRouting";

    /// The rule that all of this makes. It is derived, and nobody sets it.
    const RULE: Rule = rule_of::<Self>();
}

/// The rule that a type stands for, as [`ServiceRouting::RULE`].
///
/// # Panics
/// At compile time, where it is used in a constant: the parts of the rule do not go together.
#[must_use]
pub const fn rule_of<S: ServiceRouting + ?Sized>() -> Rule {
    let (class, lane) = (
        <S::Connection as ConnectionMarker>::CLASS,
        <S::Lane as LaneMarker>::LANE,
    );
    let (load_balancing, strategy) = match S::LOAD_BALANCING_CUSTOM {
        Some(name) => (None, Some(Cow::Borrowed(name))),
        None => (S::LOAD_BALANCING_STRATEGY, None),
    };
    let rule = Rule {
        service: Cow::Borrowed(S::NAME),
        category: S::SERVICE_CATEGORY,
        class,
        lane,
        secure: S::REQUIRES_SECURE_TRANSPORT,
        persistent: S::REQUIRES_PERSISTENT_CONNECTION,
        load_balancing,
        strategy,
        balancing: S::BALANCING,
        timeout: S::DEFAULT_TIMEOUT,
        max_timeout: S::MAX_TIMEOUT,
        retry: S::RETRY,
        breaker: S::BREAKER,
        outlier: S::OUTLIER,
        split: S::SPLIT,
        admission: S::ADMISSION,
        authorization: S::AUTHORIZATION,
        methods: Cow::Borrowed(S::METHODS),
        origin: Cow::Borrowed(S::ORIGIN),
    };
    check::stated(&rule);
    rule
}

#[cfg(test)]
mod tests {
    use sidelane_proto::model::{HeaderMatch, SplitPart};

    use super::*;
    use crate::routing::{General, Internal};

    struct Orders;

    impl ServiceRouting for Orders {
        const NAME: &'static str = "shop.v1.Orders";
        const SERVICE_CATEGORY: Category = Category::Worker;
        type Connection = Internal;
        type Lane = General;
        const REQUIRES_SECURE_TRANSPORT: bool = false;
        const REQUIRES_PERSISTENT_CONNECTION: bool = false;
        // In the form in which `sidelane-build` writes it.
        const SPLIT: Option<Split> = Some({
            const PARTS: &[SplitPart] = &[
                SplitPart {
                    value: Cow::Borrowed("v1"),
                    percent: 100,
                    header: None,
                },
                SplitPart {
                    value: Cow::Borrowed("v2"),
                    percent: 0,
                    header: Some(HeaderMatch {
                        name: Cow::Borrowed("x-canary"),
                        value: Cow::Borrowed("yes"),
                    }),
                },
            ];
            Split {
                label: Cow::Borrowed("version"),
                parts: Cow::Borrowed(PARTS),
                strict: false,
            }
        });
        const ORIGIN: &'static str = "orders.proto:3";
    }

    #[test]
    fn a_split_can_be_a_constant() {
        static RULE: Rule = rule_of::<Orders>();
        RULE.check().unwrap();
        assert_eq!(RULE.split.as_ref().unwrap().parts.len(), 2);
    }
}
