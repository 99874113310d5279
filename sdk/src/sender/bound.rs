//! What a generated client stands on so that each of its calls says the rule of its service.

use std::future::ready;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use sidelane_proto::model::{CallPath, Rule, SpokenRule};
use tonic::Status;
use tonic::body::Body;

use super::local::LocalSidecar;
use super::network::{Answering, CallRule, NetworkCall, NetworkSender, Recipient};
use crate::local::{Target, TargetError};
use crate::routing::ServiceRouting;

/// The way of service `S` to its endpoints, in place of a channel: a client over it carries the
/// rule of `S` with each call. The build writes clients whose `connect()` makes one, so ordinary
/// stub code has it without a word:
///
/// ```ignore
/// let mut orders = OrdersClient::connect().await?;
/// let order = orders.get_order(GetOrder { id: 7 }).await?;
/// ```
///
/// By hand it is `OrdersClient::new(Bound::<OrdersServiceRouting>::connect().await?)`, and over a
/// sidecar that is linked into the program `OrdersClient::new(Bound::over(mesh.channel()))`. A call
/// of any other service over it is refused.
pub struct Bound<S: ServiceRouting> {
    sender: Arc<dyn NetworkSender>,
    recipient: Recipient,
    rules: Arc<Rules>,
    service: PhantomData<fn() -> S>,
}

/// What is said with calls of each method that is known, and with all others.
#[derive(Debug)]
struct Rules {
    methods: Vec<(String, Arc<CallRule>)>,
    others: Arc<CallRule>,
}

impl<S: ServiceRouting> Bound<S> {
    /// Through the sidecar that `SIDELANE_TARGET` names, connected.
    ///
    /// # Errors
    /// The variable is malformed, or no sidecar answers there within 5 s.
    pub async fn connect() -> Result<Self, TargetError> {
        Ok(Self::over(LocalSidecar::connect().await?))
    }

    /// Through the sidecar at `target`, connected.
    ///
    /// # Errors
    /// No sidecar answers there within 5 s.
    pub async fn connect_to(target: &Target) -> Result<Self, TargetError> {
        Ok(Self::over(LocalSidecar::connect_to(target).await?))
    }

    /// Through this sender.
    #[must_use]
    pub fn over(sender: impl NetworkSender) -> Self {
        Self::shared(Arc::new(sender), Recipient::Any)
    }

    pub(super) fn shared(sender: Arc<dyn NetworkSender>, recipient: Recipient) -> Self {
        Self::saying(sender, recipient, Rules::of(&S::RULE))
    }

    /// For calls of one method only, which needs no other's text.
    pub(super) fn of_method(
        sender: Arc<dyn NetworkSender>,
        recipient: Recipient,
        method: &str,
    ) -> Self {
        Self::saying(sender, recipient, Rules::of_method(&S::RULE, method))
    }

    fn saying(sender: Arc<dyn NetworkSender>, recipient: Recipient, rules: Rules) -> Self {
        Self {
            sender,
            recipient,
            rules: Arc::new(rules),
            service: PhantomData,
        }
    }

    /// The same, and one node is meant or any.
    #[must_use]
    pub fn to(mut self, recipient: impl Into<Recipient>) -> Self {
        self.recipient = recipient.into();
        self
    }

    /// Who is meant.
    #[must_use]
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }
}

impl Rules {
    fn of(rule: &Rule) -> Self {
        let spoken = |method| Arc::new(CallRule::new(SpokenRule::of(rule, method)));
        let methods = rule.methods.iter();
        Self {
            methods: methods
                .map(|method| (method.name.to_string(), spoken(Some(method))))
                .collect(),
            others: spoken(None),
        }
    }

    fn of_method(rule: &Rule, method: &str) -> Self {
        let spoken = SpokenRule::of(rule, rule.method(method));
        Self {
            methods: Vec::new(),
            others: Arc::new(CallRule::new(spoken)),
        }
    }

    fn say(&self, method: &str) -> Arc<CallRule> {
        let known = self.methods.iter().find(|(name, _)| name == method);
        Arc::clone(known.map_or(&self.others, |(_, rule)| rule))
    }
}

impl<S: ServiceRouting> tower::Service<http::Request<Body>> for Bound<S> {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // The sender waits for its connection itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let method = match CallPath::parse(request.uri().path()) {
            Ok(path) if path.service == S::NAME => path.method,
            _ => {
                let text = format!(
                    "{} is not of {}, to whose rule this client is bound",
                    request.uri().path(),
                    S::NAME
                );
                return Box::pin(ready(Err(Status::invalid_argument(text))));
            }
        };
        let rule = self.rules.say(method);
        let call = NetworkCall::new(self.recipient.clone(), rule, request);
        self.sender.send(call)
    }
}

impl<S: ServiceRouting> Clone for Bound<S> {
    fn clone(&self) -> Self {
        Self {
            sender: Arc::clone(&self.sender),
            recipient: self.recipient.clone(),
            rules: Arc::clone(&self.rules),
            service: PhantomData,
        }
    }
}

impl<S: ServiceRouting> std::fmt::Debug for Bound<S> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Bound");
        shown.field("service", &S::NAME);
        shown.field("recipient", &self.recipient).finish()
    }
}
