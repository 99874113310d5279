//! Our way to make a call: through the sidecar beside this process. It picks the endpoint, keeps
//! the links and obeys the rule; here is one connection to it.

use std::error::Error;
use std::sync::Arc;

use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Status, TimeoutExpired};
use tower::{Service, ServiceExt};

use super::network::{Answering, ConnectionKey, NetworkCall, NetworkSender};
use crate::local::{Target, TargetError, channel_to, lazy_channel_to};

/// The sidecar beside this process.
///
/// A call of it travels over one connection on loopback; what [`NetworkSender::apart`] gives has
/// one of its own, dialled when it is first used, so that bulk data on the way to the sidecar does
/// not stand before heartbeats either.
///
/// It knows no generations of nodes: the sidecar does, pools its links by them, and reaches a node
/// that was replaced without anybody here having to notice.
#[derive(Debug, Clone)]
pub struct LocalSidecar {
    target: Target,
    channel: Channel,
}

impl LocalSidecar {
    /// The one that `SIDELANE_TARGET` names, connected.
    ///
    /// # Errors
    /// The variable is malformed, or no sidecar answers there within 5 s.
    pub async fn connect() -> Result<Self, TargetError> {
        Self::connect_to(&Target::from_environment()?).await
    }

    /// The one at `target`, connected.
    ///
    /// # Errors
    /// No sidecar answers there within 5 s.
    pub async fn connect_to(target: &Target) -> Result<Self, TargetError> {
        Ok(Self {
            target: target.clone(),
            channel: channel_to(target).await?,
        })
    }

    /// The one at `target`, connected when it is first used.
    #[must_use]
    pub fn lazy(target: &Target) -> Self {
        Self {
            target: target.clone(),
            channel: lazy_channel_to(target),
        }
    }
}

impl NetworkSender for LocalSidecar {
    fn send(&self, call: NetworkCall) -> Answering {
        self.channel.send(call)
    }

    fn apart(&self, _: &ConnectionKey) -> Option<Arc<dyn NetworkSender>> {
        Some(Arc::new(Self::lazy(&self.target)))
    }
}

/// Any channel to a sidecar, such as that of one that is linked into the program. All calls of it
/// share its connection.
impl NetworkSender for Channel {
    fn send(&self, call: NetworkCall) -> Answering {
        // The clone is the one that is polled ready and then called.
        let mut channel = self.clone();
        Box::pin(async move {
            let request = call.into_request();
            let sent = async { channel.ready().await?.call(request).await };
            let answer = sent.await.map_err(|error| status(Box::new(error)))?;
            Ok(answer.map(Body::new))
        })
    }
}

/// tonic takes an expired time limit for a cancellation.
fn status(error: Box<dyn Error + Send + Sync>) -> Status {
    let mut source: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(cause) = source {
        if cause.is::<TimeoutExpired>() {
            let text = "the call's time was over before an answer came";
            return Status::deadline_exceeded(text);
        }
        source = cause.source();
    }
    Status::from_error(error)
}
