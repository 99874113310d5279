//! The whole control plane: opens what it needs, starts every task, and ends them in order. All
//! wiring is here, so that no part needs to know another.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sidelane_identity::TrustDomain;
use sidelane_identity::tls::Clients;
use sidelane_process::listen::{self, ListenError};
use sidelane_process::runtime::RuntimeFolder;
use sidelane_process::settings::{Environment, Trust};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admin::{self, View};
use crate::ca::{self, Authority, OpenError};
use crate::certificates::{self, Cluster, Gate, Join, Keeper, Kubernetes, Outside, Reviewer};
use crate::claim::Claims;
use crate::config::{self, Config};
use crate::drain::Drain;
use crate::push::{self, Counters, Directory, Membership};
use crate::registry::{self, Batch, Registry, RuleBook, Snapshot, Terms};
use crate::rules::{Rules, Validations};
use crate::serve::{self, ConnectionCounters, Security};
use crate::source::fixed::{FileError, Fixed};
use crate::source::registration::Registration;
use crate::store::{Ahead, Embedded, Loaded, Secret, Store, StoreError, WriteBehind};

/// What the store may take for its last write when the grace time is over already.
const LAST_WRITE_LIMIT: Duration = Duration::from_secs(5);

/// What the control plane is told from outside.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where the admin pages are served.
    pub admin: SocketAddr,
    /// The folder of the store.
    pub data: PathBuf,
    /// The fixed file.
    pub fixed: Option<PathBuf>,
    /// The times of a lease.
    pub terms: Terms,
    /// What is demanded of every rule.
    pub validations: Validations,
    /// Who may join, and how that is proved.
    pub identity: IdentityParameters,
}

/// What control is told of identity.
#[derive(Debug, Clone)]
pub struct IdentityParameters {
    /// The trust mode; in `disabled` nothing else here matters.
    pub trust: Trust,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// How long certificates hold.
    pub leaf_life: Duration,
    /// How long after its end a certificate can still be renewed.
    pub renewal_grace: Duration,
    /// Where control's own certificate comes from, if it signs none.
    pub outside: Option<config::Outside>,
    /// The Kubernetes cluster that is asked whose its tokens are, if any is.
    pub kubernetes: Option<Kubernetes>,
    /// Where the join file is left.
    pub runtime: RuntimeFolder,
}

impl IdentityParameters {
    /// No identity: everything in the clear.
    #[must_use]
    pub fn disabled() -> Self {
        Self {
            trust: Trust::Disabled,
            trust_domain: TrustDomain::default(),
            leaf_life: Duration::from_secs(3_600),
            renewal_grace: Duration::ZERO,
            outside: None,
            kubernetes: None,
            runtime: RuntimeFolder::of(&Environment::default()),
        }
    }
}

impl From<&Config> for Parameters {
    fn from(config: &Config) -> Self {
        Self {
            listen: config.listen,
            admin: config.admin,
            data: config.data.clone(),
            fixed: config.fixed.clone(),
            terms: Terms::new(config.lease),
            validations: Validations::default(),
            identity: IdentityParameters {
                trust: config.trust,
                trust_domain: config.trust_domain.clone(),
                leaf_life: config.leaf_life,
                renewal_grace: config.renewal_grace,
                outside: config.outside.clone(),
                kubernetes: config.kubernetes.clone(),
                runtime: config.runtime.clone(),
            },
        }
    }
}

/// A control plane that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The fixed file cannot be taken in.
    #[error(transparent)]
    Fixed(#[from] FileError),
    /// The operating system refuses something.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// There is no certificate authority.
    #[error("control cannot sign certificates: {0}")]
    Authority(#[from] OpenError),
    /// There is no certificate of control's own, or no join file.
    #[error("control has no identity: {0}")]
    Identity(Box<dyn std::error::Error + Send + Sync>),
    /// A task of our own has ended while others started.
    #[error("cannot start: {0}")]
    Closed(#[from] registry::Closed),
    /// The descriptors that are served by reflection are not usable.
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A control plane that runs.
#[derive(Debug)]
pub struct App {
    listen: SocketAddr,
    admin: SocketAddr,
    view: Arc<View>,
    drain: Arc<Drain>,
    health: Health,
    grpc: JoinHandle<()>,
    pages: JoinHandle<()>,
    stop_pages: oneshot::Sender<()>,
    /// In the order in which they end.
    tasks: Vec<JoinHandle<()>>,
    store: WriteBehind,
}

/// How a control plane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Sessions that were cut, because the grace time was over.
    pub cut: usize,
    /// Everything is in the store.
    pub stored: bool,
}

impl App {
    /// Starts a control plane. When this returns, it serves, and whoever was registered before a
    /// restart is known again.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn start(parameters: Parameters) -> Result<Self, StartError> {
        let grpc = listen::tcp(parameters.listen, "listen")?;
        let pages = listen::tcp(parameters.admin, "admin")?;
        let (store, loaded) = open(parameters.data).await?;
        Self::with_store(
            grpc,
            pages,
            store,
            loaded,
            parameters.fixed,
            parameters.terms,
            parameters.validations,
            parameters.identity,
        )
        .await
    }

    /// As [`App::start`], over sockets that listen already and a store that is open.
    ///
    /// # Errors
    /// What stands in the way.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one thing that a test brings"
    )]
    pub async fn with_store(
        grpc: TcpListener,
        pages: TcpListener,
        store: Box<dyn Store>,
        loaded: Loaded,
        fixed: Option<PathBuf>,
        terms: Terms,
        validations: Validations,
        identity: IdentityParameters,
    ) -> Result<Self, StartError> {
        let (listen, admin) = (grpc.local_addr()?, pages.local_addr()?);
        let (store, mut journal) = WriteBehind::start(store, loaded.version)?;
        let rules = RuleBook::load(loaded.rules, loaded.rules_floor, loaded.version);
        // Of rules that came to the disk and no further, the version is known now.
        journal.record(Batch {
            version: loaded.version,
            rules: rules.since(loaded.version).collect(),
            rules_floor: rules.floor(),
            ..Batch::default()
        });
        let directory = Arc::new(Directory::default());
        let kubernetes = identity.kubernetes.clone();
        let identity = Identity::open(identity, listen, loaded.authority, store.ahead()).await?;
        let (registry, writer) = registry::Start {
            snapshot: Snapshot::start(loaded.store_id, loaded.version, loaded.services)
                .with_rules(rules),
            watcher: Arc::clone(&directory) as Arc<dyn registry::Watcher>,
            journal,
        }
        .spawn();
        let (claims, events) = Claims::channel();
        let mut registration = Registration::new(terms, registry.clone());
        registration
            .restore(loaded.generations, loaded.nodes)
            .await?;
        let drain = Arc::new(Drain::new());
        let mut tasks = vec![registration.spawn(events, drain.watch()), writer];
        let mut fixed_status = None;
        if let Some(path) = fixed {
            let fixed = Fixed::start(path, registry.clone()).await?;
            fixed_status = Some(fixed.status());
            tasks.insert(0, fixed.spawn(drain.watch()));
        }
        let view = Arc::new(View {
            authority: identity.authority.clone(),
            rules: Rules::new(registry.clone(), store.ahead(), validations),
            registry,
            claims,
            directory,
            counters: Arc::new(Counters::default()),
            connections: Arc::new(ConnectionCounters::default()),
            store: store.status(),
            fixed: fixed_status,
            ready: admin::Ready::default(),
        });
        let (health, routes) = routes(&view, &drain, terms, &identity.security, kubernetes).await?;
        if let Some(outside) = identity.outside {
            tasks.insert(0, tokio::spawn(outside.run(drain.watch())));
        }
        if let Some(keeper) = identity.keeper {
            let directory = Arc::clone(&view.directory);
            tasks.insert(0, tokio::spawn(keeper.run(directory, drain.watch())));
        }
        let (stop_pages, stopped) = oneshot::channel::<()>();
        let app = Self {
            listen,
            admin,
            grpc: tokio::spawn(serve::serve(
                grpc,
                routes,
                identity.security,
                Arc::clone(&view.connections),
                drain.watch(),
            )),
            pages: tokio::spawn(sidelane_process::admin::serve(
                pages,
                admin::pages(&view),
                async { drop(stopped.await) },
            )),
            view,
            drain,
            health,
            stop_pages,
            tasks,
            store,
        };
        app.view.ready.set(true);
        Ok(app)
    }

    /// Where gRPC is served.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where the admin pages are served.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The registry, for readers in this process.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.view.registry
    }

    /// Ends it: no new connections, sessions end, everything known is written, the store closes.
    /// Sessions that cannot end within `grace` are cut.
    pub async fn stop(self, grace: Duration) -> Ended {
        let until = Instant::now() + grace;
        self.view.ready.set(false);
        self.health.set(ServingStatus::NotServing).await;
        self.drain.begin();
        let Self {
            view,
            drain,
            mut grpc,
            mut pages,
            stop_pages,
            tasks,
            store,
            ..
        } = self;
        let finished = timeout_at(until, drain.finished()).await.is_ok();
        let cut = if finished { 0 } else { view.directory.count() };
        end(&mut grpc, until).await;
        // Nobody waits for this if the pages have ended already.
        let _ = stop_pages.send(());
        end(&mut pages, until).await;
        // What sources and registry still hold ends when the last who can speak to them is gone.
        drop(view);
        let until = until.max(Instant::now() + Duration::from_secs(1));
        for mut task in tasks {
            end(&mut task, until).await;
        }
        let written = tokio::task::spawn_blocking(move || store.stop());
        let written = timeout_at(Instant::now() + LAST_WRITE_LIMIT, written).await;
        let stored = matches!(written, Ok(Ok(true)));
        Ended { cut, stored }
    }
}

/// Waits for a task to end, and cuts it if it does not.
async fn end(task: &mut JoinHandle<()>, until: Instant) {
    match timeout_at(until, &mut *task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "a task failed"),
        Err(_) => {
            task.abort();
            // Aborted, as it should be.
            let _ = task.await;
        }
    }
}

async fn open(folder: PathBuf) -> Result<(Box<dyn Store>, Loaded), StoreError> {
    let path = folder.join(Embedded::FILE);
    let opening = tokio::task::spawn_blocking(move || Embedded::open(&folder));
    match opening.await {
        Ok(Ok((store, loaded))) => Ok((Box::new(store), loaded)),
        Ok(Err(error)) => Err(error),
        // The database gives up by panicking on some kinds of damage.
        Err(_) => Err(StoreError::Damaged {
            path,
            reason: "the database cannot make sense of it".to_owned(),
        }),
    }
}

async fn routes(
    view: &Arc<View>,
    drain: &Arc<Drain>,
    terms: Terms,
    security: &Security,
    kubernetes: Option<Kubernetes>,
) -> Result<(Health, Routes), StartError> {
    let membership = push::service(
        Membership::new(
            view.registry.clone(),
            view.claims.clone(),
            Arc::clone(&view.directory),
            Arc::clone(&view.counters),
            Arc::clone(drain),
            terms,
            view.authority.as_ref().map(|authority| authority.trust()),
        )
        .certified_elsewhere(view.authority.is_none() && security.tls.is_some()),
    );
    let gate = security.gate.clone();
    let reviewer = kubernetes.map(|it| Arc::new(Cluster::new(it)) as Arc<dyn Reviewer>);
    let certificates = certificates::service(view.authority.clone(), gate, reviewer);
    let mesh = admin::service(view);
    let (reporter, server) = tonic_health::server::health_reporter();
    let health = Health {
        reporter,
        services: vec![name_of(&membership), name_of(&certificates), name_of(&mesh)],
    };
    health.set(ServingStatus::Serving).await;
    let routes = Routes::new(membership)
        .add_service(certificates)
        .add_service(mesh)
        .add_service(server)
        .add_service(admin::reflection()?)
        .prepare();
    Ok((health, routes))
}

/// What there is of identity; nothing in trust mode `disabled`.
struct Identity {
    authority: Option<Arc<Authority>>,
    keeper: Option<Keeper>,
    outside: Option<Outside>,
    security: Security,
}

impl Identity {
    async fn open(
        parameters: IdentityParameters,
        listen: SocketAddr,
        kept: Vec<(String, Secret)>,
        ahead: Ahead,
    ) -> Result<Self, StartError> {
        let IdentityParameters {
            trust,
            trust_domain: domain,
            leaf_life,
            renewal_grace,
            outside,
            runtime,
            kubernetes: _,
        } = parameters;
        // One of an earlier run would send people to a control that is gone.
        Join::remove_stale(&runtime, listen);
        if trust == Trust::Disabled {
            return Ok(Self {
                authority: None,
                keeper: None,
                outside: None,
                security: Security::disabled(),
            });
        }
        if let Some(outside) = outside {
            return Self::from_outside(outside, trust, runtime, listen).await;
        }
        let terms = ca::Terms {
            trust_domain: domain.as_str().to_owned(),
            leaf_life,
            renewal_grace,
        };
        let authority = Arc::new(Authority::open(terms, kept, ahead, ca::unix_now()).await?);
        let secret = ca::random().map_err(OpenError::from)?;
        let join = Join::new(runtime, listen, domain.clone(), secret);
        let gate = Gate::new(trust, Some(join.hash())).judging(authority.trust());
        let keeper = Keeper::start(Arc::clone(&authority), domain, join).await;
        let keeper = keeper.map_err(StartError::Identity)?;
        let tls = sidelane_identity::tls::server(keeper.source(), Clients::Late(renewal_grace));
        let tls = tls.map_err(|error| StartError::Identity(error.into()))?;
        Ok(Self {
            authority: Some(authority),
            keeper: Some(keeper),
            outside: None,
            security: Security {
                tls: Some(tls),
                plain: trust == Trust::Permissive,
                gate,
            },
        })
    }

    /// Where another authority signs. Renewals are its matter, so nobody comes late.
    async fn from_outside(
        outside: config::Outside,
        trust: Trust,
        runtime: RuntimeFolder,
        listen: SocketAddr,
    ) -> Result<Self, StartError> {
        let outside = Outside::start(outside).await;
        let outside = outside.map_err(StartError::Identity)?;
        let secret = ca::random().map_err(OpenError::from)?;
        let join = Join::new(runtime, listen, outside.domain().clone(), secret);
        let gate = Gate::new(trust, Some(join.hash()));
        let outside = outside.leaving(join).map_err(StartError::Identity)?;
        let tls = sidelane_identity::tls::server(outside.source(), Clients::Anybody);
        let tls = tls.map_err(|error| StartError::Identity(error.into()))?;
        Ok(Self {
            authority: None,
            keeper: None,
            outside: Some(outside),
            security: Security {
                tls: Some(tls),
                plain: trust == Trust::Permissive,
                gate,
            },
        })
    }
}

/// What `grpc.health.v1` says of our services.
#[derive(Debug)]
struct Health {
    reporter: HealthReporter,
    services: Vec<&'static str>,
}

impl Health {
    /// Of each service, and of the whole, whose name is empty.
    async fn set(&self, status: ServingStatus) {
        self.reporter.set_service_status("", status).await;
        for service in &self.services {
            self.reporter.set_service_status(*service, status).await;
        }
    }
}

fn name_of<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}
