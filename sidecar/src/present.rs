//! Where this node's certificate comes from, and which one is present. The first one is there before
//! anything but the admin port listens; what comes later takes its place in the source that links
//! read.

use std::future::{pending, ready};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use sidelane_identity::files::{Files, FilesError};
use sidelane_identity::{Identity, SpiffeId};
use sidelane_process::admin::{self, AdminResponse, Pages};
use sidelane_process::settings;
use sidelane_proto::model::NodeId;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::app::StartError;
use crate::config::{Config, Joins};
use crate::discover::certificate::{EnrolErrors, Enrolment, Proofs};
use crate::discover::{DataFolder, Holder, Timing};
use crate::edge::files::PairError;
use crate::edge::tls::Shown;
use crate::host::Stops;
use crate::trust::Trust;

/// Who this node is from its start on, and what its links ask for.
pub(crate) struct Present {
    /// `None` in trust mode `disabled`. It stays: a certificate of somebody else is not taken.
    pub(crate) id: Option<SpiffeId>,
    pub(crate) trust: Trust,
    /// What control signs, where it does.
    pub(crate) holder: Option<Arc<Holder>>,
}

/// Takes the first certificate, and follows its files, or renews it, from now on. `None` if it was
/// told to end before there was one.
///
/// # Errors
/// There is none, or no peer would take it.
pub(crate) async fn start(
    config: &Config,
    node: &NodeId,
    folder: &Arc<DataFolder>,
    admin: &TcpListener,
    stops: &mut Stops,
) -> Result<Option<Present>, StartError> {
    match config.trust {
        settings::Trust::Strict => {}
        settings::Trust::Permissive => {
            warn!("trust mode permissive: links in the clear are taken, too");
        }
        settings::Trust::Disabled => {
            warn!("trust mode disabled: links are in the clear, and nothing is secure");
            return Ok(Some(Present {
                id: None,
                trust: Trust::Disabled,
                holder: None,
            }));
        }
    }
    let strict = config.trust == settings::Trust::Strict;
    if let Some(files) = &config.identity {
        return from_files(files, strict).map(Some);
    }
    let Some(joins) = &config.joins else {
        return Err("this node has no certificate to show, and asks for none".into());
    };
    let enrolment = enrolment(config, joins, node, folder);
    let why = watch::Sender::new("control is asked".to_owned());
    let waits = |errors: &EnrolErrors| {
        why.send_replace(errors.to_string());
    };
    let holder = tokio::select! {
        holder = enrolment.first(waits) => Arc::new(holder?),
        error = meanwhile(admin, why.subscribe()) => return Err(error.into()),
        () = stops.drain() => return Ok(None),
    };
    let source = holder.source();
    let id = source
        .borrow()
        .as_ref()
        .map(|first| first.svid().id().clone());
    tokio::spawn(enrolment.renew(Arc::clone(&holder)));
    Ok(Some(Present {
        id,
        trust: Trust::certified(source, strict)?,
        holder: Some(holder),
    }))
}

/// Answers on the admin port until it is dropped: alive, and not ready, and why.
async fn meanwhile(admin: &TcpListener, why: watch::Receiver<String>) -> io::Error {
    // The same socket, so that who has connected already is answered later on.
    let own = admin.as_fd().try_clone_to_owned();
    let own = own.map(std::net::TcpListener::from);
    let own = match own.and_then(TcpListener::from_std) {
        Ok(own) => own,
        Err(error) => return error,
    };
    let pages = Pages::new()
        .get("/livez", |_| ready(AdminResponse::text("alive\n")))
        .get("/readyz", move |_| {
            let why = why.borrow().clone();
            let text = format!("not ready: this sidecar waits for its first certificate: {why}\n");
            let code = StatusCode::SERVICE_UNAVAILABLE;
            ready(AdminResponse::text(text).with_status(code))
        });
    admin::serve(own, pages, pending()).await;
    pending().await
}

fn enrolment(config: &Config, joins: &Joins, node: &NodeId, folder: &Arc<DataFolder>) -> Enrolment {
    Enrolment {
        control: config.control.iter().map(ToString::to_string).collect(),
        node: node.clone(),
        identity: joins.identity.clone(),
        proofs: Proofs {
            token_file: joins.token_file.clone(),
            variable: joins.token.clone(),
            runtime: joins.runtime.clone(),
        },
        keep: joins.keep.then(|| Arc::clone(folder)),
        timing: Timing::default(),
    }
}

fn from_files(files: &Files, strict: bool) -> Result<Present, StartError> {
    let first = files.read(SystemTime::now())?;
    let id = first.svid().id().clone();
    info!(%id, serial = %first.svid().serial(), "the certificate is taken from files");
    warn!(
        "control is asked in the clear, because it does not sign this certificate: who reaches it \
         can name identities"
    );
    let (sender, source) = watch::channel(Some(Arc::new(first)));
    tokio::spawn(follow(files.clone(), sender));
    Ok(Present {
        id: Some(id),
        trust: Trust::certified(source, strict)?,
        holder: None,
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
