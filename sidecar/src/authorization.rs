//! Who may call a service beside this sidecar, by the word of the rules that hold now. It stands with
//! the service in the picture of the mesh, is asked of each call, and lies below the stages, like
//! `admission`; whoever counts and notes what comes of it stands in `audit`. What other nodes offer
//! never loosens or tightens it: a node's door is its own rules' and control's.

use std::sync::Arc;

use sidelane_identity::SpiffeId;
use sidelane_proto::model::{Allow, Approach, Authorization, ConnectionClass, Lane, NodeId};

use crate::rules::Said;
use crate::telemetry::AuthorizationCounters;

/// Who may call one service.
#[derive(Debug)]
pub struct Permitted {
    of_service: Option<List>,
    of_methods: Vec<(Box<str>, List)>,
    /// What is counted.
    pub counters: Arc<AuthorizationCounters>,
}

#[derive(Debug)]
struct List {
    authorization: Authorization,
    /// Whose word it is, for people.
    origin: String,
}

/// A call that asks to come in.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Whose certificate the caller's sidecar has shown.
    pub identity: Option<&'a SpiffeId>,
    /// The node that it comes from.
    pub node: &'a NodeId,
    /// This sidecar's own identity.
    pub callee: Option<&'a SpiffeId>,
    /// The service that is called.
    pub service: &'a str,
    /// Its method.
    pub method: &'a str,
    /// The class of the link, or of the rule where there is none.
    pub class: ConnectionClass,
    /// The lane.
    pub lane: Lane,
}

/// What the rules say of a call.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'a> {
    /// The entry that it fits, by its place in the list; `None` where it fits none.
    pub fits: Option<(usize, &'a Allow)>,
    /// Where the list is written, and by whom.
    pub origin: &'a str,
    /// It is the method's own list.
    pub of_method: bool,
    /// Who fits none is let in all the same.
    pub dry_run: bool,
}

/// A call that may not come in. It was not processed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{service}/{method}: {} may not call it, by {origin}; ask whoever writes that rule, or see \
     `sidelane explain --as` at the sidecar of the callee",
    identity.as_ref().map_or(
        "a caller whose identity is not known".to_owned(),
        |identity| format!("`{identity}`")
    )
)]
pub struct NotAuthorized {
    /// The service that was called.
    pub service: String,
    /// Its method.
    pub method: String,
    /// Who called, where that is known.
    pub identity: Option<SpiffeId>,
    /// Whose word it is, and where it is written.
    pub origin: String,
}

impl Permitted {
    /// Who may call the service of which this was said; `None` where nobody said anything, so that a
    /// call asks nothing. What others offer counts only where the service is not `here`, and nothing
    /// is decided but for `explain`.
    #[must_use]
    pub fn under(
        said: &Said,
        here: bool,
        counters: impl FnOnce() -> Arc<AuthorizationCounters>,
    ) -> Option<Arc<Self>> {
        let words = || said.words(!here);
        let list = |authorization: &Authorization, origin: &dyn ToString| List {
            authorization: authorization.clone(),
            origin: origin.to_string(),
        };
        let of_service =
            words().find_map(|(rule, origin)| Some(list(rule.authorization.as_ref()?, &origin)));
        let mut of_methods: Vec<(Box<str>, List)> = Vec::new();
        for (rule, origin) in words() {
            for method in rule.methods.iter() {
                let known = of_methods.iter().any(|(name, _)| **name == *method.name);
                if let (false, Some(own)) = (known, &method.authorization) {
                    of_methods.push((Box::from(&*method.name), list(own, &origin)));
                }
            }
        }
        if of_service.is_none() && of_methods.is_empty() {
            return None;
        }
        Some(Arc::new(Self {
            of_service,
            of_methods,
            counters: counters(),
        }))
    }

    /// What the rules say of the call.
    #[must_use]
    pub fn judge(&self, asked: &Asked<'_>) -> Verdict<'_> {
        let approach = Approach {
            identity: asked.identity.map(SpiffeId::as_str),
            callee: asked.callee.map(SpiffeId::as_str),
            class: asked.class,
            lane: asked.lane,
        };
        let mut of_methods = self.of_methods.iter();
        let own = of_methods.find(|(name, _)| **name == *asked.method);
        if let Some((_, list)) = own {
            return list.judge(&approach, true);
        }
        if let Some(list) = &self.of_service {
            return list.judge(&approach, false);
        }
        // Lists at other methods only: this one is nobody's.
        let mut of_methods = self.of_methods.iter().map(|(_, list)| list);
        Verdict {
            fits: None,
            origin: of_methods.clone().next().map_or("", |list| &list.origin),
            of_method: false,
            dry_run: of_methods.all(|list| list.authorization.dry_run),
        }
    }

    /// The list that bears on calls of this method, whose word it is, and whether it is the method's
    /// own; no list where those of other methods leave this one to nobody.
    #[must_use]
    pub fn list(&self, method: &str) -> (Option<&Authorization>, &str, bool) {
        let own = self.of_methods.iter().find(|(name, _)| **name == *method);
        let own = own.map(|(_, list)| (list, true));
        match own.or(self.of_service.as_ref().map(|list| (list, false))) {
            Some((list, own)) => (Some(&list.authorization), &list.origin, own),
            None => {
                let first = self.of_methods.first();
                (None, first.map_or("", |(_, list)| &list.origin), false)
            }
        }
    }
}

impl List {
    fn judge(&self, approach: &Approach<'_>, of_method: bool) -> Verdict<'_> {
        let authorization = &self.authorization;
        let place = authorization.fitted(approach);
        Verdict {
            fits: place.and_then(|place| Some((place, authorization.allow.get(place)?))),
            origin: &self.origin,
            of_method,
            dry_run: authorization.dry_run,
        }
    }
}

impl Verdict<'_> {
    /// The call may not come in.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        self.fits.is_none() && !self.dry_run
    }

    /// The word for it, in logs and explanations.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match (self.fits, self.dry_run) {
            (Some(_), _) => "allowed",
            (None, true) => "would be denied",
            (None, false) => "denied",
        }
    }

    /// The refusal.
    #[must_use]
    pub fn refusal(&self, asked: &Asked<'_>) -> NotAuthorized {
        NotAuthorized {
            service: asked.service.to_owned(),
            method: asked.method.to_owned(),
            identity: asked.identity.cloned(),
            origin: self.origin.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
