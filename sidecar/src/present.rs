//! Where this node's certificate comes from, and which one is present. The first one is there before
//! anything listens; what comes later takes its place in the source that links read.

use std::sync::Arc;
use std::time::SystemTime;

use sidelane_identity::files::{Files, FilesError};
use sidelane_identity::{Identity, SpiffeId};
use sidelane_process::settings;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::app::StartError;
use crate::config::Config;
use crate::edge::files::PairError;
use crate::edge::tls::Shown;
use crate::trust::Trust;

/// Who this node is from its start on, and what its links ask for.
pub(crate) struct Present {
    /// `None` in trust mode `disabled`. It stays: a certificate of somebody else is not taken.
    pub(crate) id: Option<SpiffeId>,
    pub(crate) trust: Trust,
}

/// Takes the first certificate, and follows its files from now on.
///
/// # Errors
/// There is none, or no peer would take it.
pub(crate) fn start(config: &Config) -> Result<Present, StartError> {
    let strict = config.trust == settings::Trust::Strict;
    if config.trust == settings::Trust::Disabled {
        warn!("trust mode disabled: links are in the clear, and nothing is secure");
        let (id, trust) = (None, Trust::Disabled);
        return Ok(Present { id, trust });
    }
    let Some(files) = &config.identity else {
        return Err("this node has no certificate to show".into());
    };
    if !strict {
        warn!("trust mode permissive: links in the clear are taken, too");
    }
    let first = files.read(SystemTime::now())?;
    let id = first.svid().id().clone();
    info!(%id, serial = %first.svid().serial(), "the certificate is taken from files");
    let (sender, source) = watch::channel(Some(Arc::new(first)));
    tokio::spawn(follow(files.clone(), sender));
    Ok(Present {
        id: Some(id),
        trust: Trust::certified(source, strict)?,
    })
}

/// What users meet, and follows its files from now on; `None` where there is no certificate for them.
///
/// # Errors
/// The files make none.
pub(crate) fn shown_to_users(config: &Config) -> Result<Option<Shown>, StartError> {
    let Some(pair) = &config.users.pair else {
        let in_the_clear = config.trust == settings::Trust::Disabled;
        if config.external.is_some() && in_the_clear {
            warn!("users come in the clear to --external: --tls-cert and --tls-key name none");
        }
        return Ok(None);
    };
    if pair.is_open() {
        let key = pair.key.display();
        warn!(%key, "everybody on this machine may read the private key; chmod 600 it");
    }
    let (sender, present) = watch::channel(Arc::new(pair.read()?));
    let say = |news: Result<(), &PairError>| match news {
        Ok(()) => info!("users are shown another certificate"),
        Err(error) => error!(%error, "users are shown the last good certificate"),
    };
    tokio::spawn(pair.clone().follow(sender, say));
    Ok(Some(Shown::new(
        present,
        pair.clone(),
        config.users.oldest,
    )?))
}

/// Ends with the runtime: links read the source until then.
async fn follow(files: Files, sender: watch::Sender<Option<Arc<Identity>>>) {
    let say = |news: Result<&Identity, &FilesError>| match news {
        Ok(identity) => {
            let svid = identity.svid();
            info!(id = %svid.id(), serial = %svid.serial(), "another certificate is taken");
        }
        Err(error) => error!(%error, "the last good certificate stays"),
    };
    files.follow(sender, say).await;
}
