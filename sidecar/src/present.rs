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
use sidelane_identity::{Identity, Serial, Source, SpiffeId};
use sidelane_process::admin::{self, AdminResponse, Pages};
use sidelane_process::files;
use sidelane_process::settings;
use sidelane_proto::model::NodeId;
use sidelane_spiffe::{self as spiffe, Agent, AgentError, Taken};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::app::StartError;
use crate::config::{Config, Joins, Workload};
use crate::discover::certificate::{EnrolErrors, Enrolment, Proofs, Unanswered};
use crate::discover::{DataFolder, Timing};
use crate::edge::descriptors;
use crate::edge::files::PairError;
use crate::edge::tls::Shown;
use crate::host::Stops;
use crate::origin::{Elsewhere, Origin};
use crate::trust::Trust;

/// Who this node is from its start on, and what its links ask for.
pub(crate) struct Present {
    /// `None` in trust mode `disabled`. It stays: a certificate of somebody else is not taken.
    pub(crate) id: Option<SpiffeId>,
    pub(crate) trust: Trust,
    /// By which control knows it.
    pub(crate) source: Option<Source>,
    pub(crate) origin: Origin,
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
                source: None,
                origin: Origin::Nowhere,
            }));
        }
    }
    let strict = config.trust == settings::Trust::Strict;
    if let Some(files) = &config.identity {
        return from_files(files, strict).map(Some);
    }
    if let Some(workload) = &config.spiffe {
        return Box::pin(from_agent(workload, strict, admin, stops)).await;
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
        trust: Trust::certified(source.clone(), strict)?,
        source: Some(source),
        origin: Origin::Control(holder),
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
            account: joins.account.clone(),
            token_file: joins.token_file.clone(),
            variable: joins.token.clone(),
            runtime: joins.runtime.clone(),
        },
        keep: joins.keep.then(|| Arc::clone(folder)),
        timing: Timing::default(),
        unanswered: Unanswered::default(),
    }
}

fn from_files(files: &Files, strict: bool) -> Result<Present, StartError> {
    let first = files.read(SystemTime::now())?;
    let id = first.svid().id().clone();
    info!(%id, serial = %first.svid().serial(), "the certificate is taken from files");
    let origin = Arc::new(Elsewhere::new("files", files.chain.display().to_string()));
    let (sender, source) = watch::channel(Some(Arc::new(first)));
    tokio::spawn(follow(files.clone(), sender, Arc::clone(&origin)));
    Ok(Present {
        id: Some(id),
        trust: Trust::certified(source.clone(), strict)?,
        source: Some(source),
        origin: Origin::Elsewhere(origin),
    })
}

/// Waits until the agent has said who this node is. `None` if it was told to end before.
async fn from_agent(
    workload: &Workload,
    strict: bool,
    admin: &TcpListener,
    stops: &mut Stops,
) -> Result<Option<Present>, StartError> {
    let agent = Agent {
        endpoint: workload.endpoint.clone(),
        wanted: workload.wanted.clone(),
        timing: spiffe::Timing::default(),
    };
    let place = agent.endpoint.to_string();
    info!(%place, "the certificate comes from a SPIFFE agent");
    let origin = Arc::new(Elsewhere::new("spiffe", place));
    let (sender, mut source) = watch::channel(None);
    let why = watch::Sender::new("the agent is asked".to_owned());
    let reasons = why.subscribe();
    let say = heard(Arc::clone(&origin), why);
    let mut following = tokio::spawn(agent.follow(sender, say));
    let first = tokio::select! {
        biased;
        ended = &mut following => return Err(match ended {
            Ok(Err(error)) => error.into(),
            _ => "the agent is not asked any more".into(),
        }),
        first = source.wait_for(Option::is_some) => first.ok().and_then(|first| first.clone()),
        error = meanwhile(admin, reasons) => return Err(error.into()),
        () = stops.drain() => return Ok(None),
    };
    Ok(Some(Present {
        id: first.map(|first| first.svid().id().clone()),
        trust: Trust::certified(source.clone(), strict)?,
        source: Some(source),
        origin: Origin::Elsewhere(origin),
    }))
}

/// What is said and counted of an agent's news. `why` is for those who wait for the first one.
fn heard(
    origin: Arc<Elsewhere>,
    why: watch::Sender<String>,
) -> impl FnMut(Result<Taken<'_>, &AgentError>) {
    let mut last: Option<Serial> = None;
    move |news| match news {
        Ok(Taken {
            identity,
            federated,
        }) => {
            let svid = identity.svid();
            let (id, serial) = (svid.id(), svid.serial());
            let held = last.replace(serial.clone());
            let same = held.as_ref() == Some(serial);
            match held {
                None => info!(%id, %serial, "the agent has given a certificate"),
                Some(_) if same => {
                    info!(%id, %serial, "the agent says what is held, or other roots");
                }
                Some(_) => info!(%id, %serial, "the agent has given another certificate"),
            }
            origin.taken(held.is_some() && !same);
            if federated > 0 {
                let own = svid.trust_domain();
                debug!(federated, %own, "the roots of other trust domains are left aside");
            }
        }
        Err(error) => {
            origin.failed(error);
            why.send_replace(error.to_string());
            if last.is_none() {
                warn!(%error, "this sidecar waits for its first certificate");
            } else {
                error!(%error, "the last good certificate stays, to its end");
            }
        }
    }
}

/// What users meet, and follows its files from now on; `None` where there is no certificate for them.
///
/// # Errors
/// The files make none.
pub(crate) fn shown_to_users(config: &Config) -> Result<Option<Shown>, StartError> {
    if config.external.is_some()
        && let Some(why) = descriptors::missing(config.users.limits.connections, files::most())
    {
        warn!("{why}");
    }
    let Some(pair) = &config.users.pair else {
        let in_the_clear = config.trust == settings::Trust::Disabled;
        if config.external.is_some() && in_the_clear {
            warn!("users come in the clear to --external: --tls-cert and --tls-key name none");
        }
        return Ok(None);
    };
    let first = pair.read()?;
    if let Err(error) = pair.in_time(&first, SystemTime::now()) {
        // The mesh is served all the same, and the files may be put right at any moment.
        error!(%error, "users are shown a certificate that they will not take");
    }
    let (sender, present) = watch::channel(Arc::new(first));
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
async fn follow(
    files: Files,
    sender: watch::Sender<Option<Arc<Identity>>>,
    origin: Arc<Elsewhere>,
) {
    let held = sender.borrow().clone();
    let mut last = held.map(|held| held.svid().serial().clone());
    let say = |news: Result<&Identity, &FilesError>| match news {
        Ok(identity) => {
            let svid = identity.svid();
            let (id, serial) = (svid.id(), svid.serial());
            let new = last.replace(serial.clone()).as_ref() != Some(serial);
            if new {
                info!(%id, %serial, "another certificate is taken");
            } else {
                info!(%id, %serial, "the files say what is held, or other roots");
            }
            origin.taken(new);
        }
        Err(error) => {
            origin.failed(error);
            error!(%error, "the last good certificate stays");
        }
    };
    files.follow(sender, say).await;
}
