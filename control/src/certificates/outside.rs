//! Control's own identity where another authority signs: from files, or from a SPIFFE agent. Control
//! then signs nothing; it shows its certificate and judges sidecars by the roots that came with it.
//! Its chain is shown with its root, which the join file names for control's own user.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use sidelane_identity::files::FilesError;
use sidelane_identity::{Identity, Source, TrustDomain, pinned};
use sidelane_spiffe::{Agent, AgentError, Taken, Timing, Wanted};
use tokio::sync::watch;

use super::join::Join;
use crate::config;
use crate::drain::Draining;

/// How long a start waits for the agent.
pub const FIRST_LIMIT: Duration = Duration::from_secs(30);

/// Follows it.
pub struct Outside {
    domain: TrustDomain,
    /// As it comes.
    given: Source,
    /// With its root, as it is shown.
    own: watch::Sender<Option<Arc<Identity>>>,
    join: Option<Join>,
}

impl Outside {
    /// Takes the first certificate, and follows the next ones.
    ///
    /// # Errors
    /// There is none, or sidecars would not take it for control's.
    pub async fn start(from: config::Outside) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let given = match from {
            config::Outside::Files(files) => {
                let first = files.read(SystemTime::now())?;
                let (sender, given) = watch::channel(Some(Arc::new(first)));
                let say = |news: Result<&Identity, &FilesError>| match news {
                    Ok(identity) => said(identity, "control's files say"),
                    Err(error) => tracing::error!(%error, "control's last good certificate stays"),
                };
                tokio::spawn(files.follow(sender, say));
                given
            }
            config::Outside::Agent(endpoint) => from_agent(endpoint).await?,
        };
        let first = given.borrow().clone().ok_or("there is no certificate")?;
        let domain = first.svid().trust_domain();
        let (found, wanted) = (first.svid().id(), pinned::control(&domain));
        if *found != wanted {
            return Err(format!(
                "the certificate is of {found}, and sidecars take nobody for control but {wanted}: \
                 have one signed, or registered with the agent, for that identity"
            )
            .into());
        }
        said(&first, "control's certificate comes from elsewhere");
        let own = watch::Sender::new(None);
        let outside = Self {
            domain,
            given,
            own,
            join: None,
        };
        outside.show()?;
        Ok(outside)
    }

    /// The mesh's name.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Control's own identity, at any time.
    #[must_use]
    pub fn source(&self) -> Source {
        self.own.subscribe()
    }

    /// Leaves the join file, and goes on doing so.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn leaving(mut self, join: Join) -> Result<Self, Box<dyn Error + Send + Sync>> {
        self.join = Some(join);
        self.show()?;
        Ok(self)
    }

    /// Runs until the end begins.
    pub async fn run(mut self, mut draining: Draining) {
        loop {
            tokio::select! {
                () = draining.begun() => break,
                changed = self.given.changed() => if changed.is_err() {
                    draining.begun().await;
                    break;
                },
            }
            if let Err(error) = self.show() {
                tracing::error!(%error, "control's last good certificate stays");
            }
        }
        if let Some(join) = &self.join {
            join.remove();
        }
    }

    fn show(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let given = self.given.borrow().clone();
        let given = given.ok_or("there is no certificate")?;
        let (shown, root) = given
            .with_root(SystemTime::now())
            .ok_or("no root signed it, or its chain is too long with its root")?;
        self.own.send_replace(Some(Arc::new(shown)));
        if let Some(join) = &self.join {
            join.leave(Sha256::digest(&root).into())?;
        }
        Ok(())
    }
}

async fn from_agent(
    endpoint: sidelane_spiffe::Endpoint,
) -> Result<Source, Box<dyn Error + Send + Sync>> {
    let agent = Agent {
        endpoint,
        wanted: Wanted::First,
        timing: Timing::default(),
    };
    let (sender, mut given) = watch::channel(None);
    let why = watch::Sender::new("it does not answer".to_owned());
    let last = why.subscribe();
    let say = move |news: Result<Taken<'_>, &AgentError>| match news {
        Ok(taken) => said(taken.identity, "the agent says who control is"),
        Err(error) => {
            why.send_replace(error.to_string());
            tracing::error!(%error, "there is no news from the agent");
        }
    };
    let following = tokio::spawn(agent.follow(sender, say));
    let first = given.wait_for(Option::is_some);
    match tokio::time::timeout(FIRST_LIMIT, first).await {
        Ok(Ok(_)) => {}
        // It has ended by itself, or it may go on for ever.
        Ok(Err(_)) | Err(_) => {
            following.abort();
            let why = last.borrow().clone();
            return Err(why.into());
        }
    }
    Ok(given)
}

fn said(identity: &Identity, what: &'static str) {
    let (id, serial) = (identity.svid().id(), identity.svid().serial());
    tracing::info!(%id, %serial, "{what}");
}
