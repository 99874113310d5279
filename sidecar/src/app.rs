//! Puts the sidecar together, runs it, and ends it in good order: control is told first, then
//! peers, then the local app.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sidelane::routing::RouteTable;
use sidelane_process::address::{DialAddress, ListenAddress};
use sidelane_process::admin;
use sidelane_process::clock::unix_ms;
use sidelane_process::listen;
use sidelane_process::settings::Trust;
use sidelane_process::signals::Signals;
use sidelane_process::strangers::{STRANGERS_LIMIT, Strangers};
use sidelane_proto::model::endpoint::OWN_CLASSES_LIMIT;
use sidelane_proto::model::error::Problem;
use sidelane_proto::model::{
    Addresses, ConnectionClass, Identity, NodeHello, OwnClass, PeerAddress, ProtocolRange, Rule,
    ServiceName, Subscription, Validation,
};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::accept::{CONNECTIONS_LIMIT, Inbound, Known, Outbound, OutboundListener, Welcome};
use crate::admin::Admin;
use crate::balance::Strategies;
use crate::classify;
use crate::config::{Advertise, Config, Loaded, Unknown};
use crate::discover::{
    self, Change, DataFolder, Discovery, Held, NodeIdentity, Parameters, Sink, Timing, disk,
};
use crate::drain::{Drain, Phase};
use crate::edge::Edge;
use crate::health::{LocalHealth, offers};
use crate::host::{Host, Started};
use crate::identity::Own;
use crate::idle::forget_idle;
use crate::kin::RulesDigest;
use crate::local::LocalServices;
use crate::mesh::Mesh;
use crate::onward::Onward;
use crate::pipe::Acceptor;
use crate::pool::{Address, CloseCause, Key, Observer, PEER_PROTOCOL, Pool, To};
use crate::present;
use crate::repair::Repair;
use crate::rules::RuleCheck;
use crate::stack::Stack;
use crate::telemetry::trace::{Collector, Resource, Tracing};
use crate::telemetry::{AccessLog, Metrics};

/// The versions of the membership protocol that this program speaks.
const MEMBERSHIP_PROTOCOL: ProtocolRange = ProtocolRange {
    oldest: 1,
    newest: 1,
};
/// How long control may take to tell everybody that this node drains.
const CONFIRM_LIMIT: Duration = Duration::from_secs(3);
/// How long connections may take to end once nothing is open on them.
const LAST_FRAMES: Duration = Duration::from_millis(500);
/// Between two looks at what is still open.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a program was built with.
pub struct Built {
    /// Its rules.
    pub routes: RouteTable,
    /// What pushed rules must pass beside Sidelane's own checks.
    pub validations: Vec<Box<dyn Validation>>,
    /// The strategies that its rules can name beside Sidelane's.
    pub strategies: Strategies,
}

/// The sidecar could not start.
pub type StartError = Box<dyn std::error::Error>;

struct Listeners {
    outbound: Vec<OutboundListener>,
    internal: TcpListener,
    external: Option<TcpListener>,
    own: Vec<(OwnClass, TcpListener)>,
    admin: TcpListener,
}

/// Runs a sidecar until it is told to end.
///
/// # Errors
/// It could not start: an address, the data folder, or a signal handler was refused.
pub async fn run(loaded: Loaded, built: Built) -> Result<(), StartError> {
    run_in(Host::process(Signals::install()?), loaded, built).await
}

/// The same, in a process of its own or linked into a program.
pub(crate) async fn run_in(mut host: Host, loaded: Loaded, built: Built) -> Result<(), StartError> {
    let Built {
        routes,
        mut validations,
        strategies,
    } = built;
    let Loaded {
        config,
        settings,
        warnings,
    } = loaded;
    for warning in warnings {
        warn!("{warning}");
    }
    compiled_services(routes)?;
    for rule in routes.rules() {
        // What rustc cannot check of a rule that was written by hand.
        rule.check()
            .map_err(|error| format!("{} ({}): {error}", rule.service, rule.origin))?;
        strategies
            .check(rule)
            .map_err(|error| format!("{} ({}): {error}", rule.service, rule.origin))?;
    }
    validations.insert(0, Box::new(strategies.clone()));
    let folder = Arc::new(DataFolder::open(&config.data)?);
    let (identity, warnings) = NodeIdentity::take(Some(&folder), config.node.clone(), unix_ms())?;
    for warning in warnings {
        warn!("{warning}");
    }
    // Before anything else listens: who waits for a certificate can serve nobody, and refuses
    // connections instead of letting them wait.
    let admin = listen::tcp(config.admin, "admin")?;
    let present = present::start(&config, &identity.node, &folder, &admin, &mut host.stops);
    let Some(present) = Box::pin(present).await? else {
        return Ok(());
    };
    let listeners = bind(&config, admin, host.calls.take())?;
    let bound = bound(&listeners)?;
    info!(node = %identity.node, generation = %identity.generation, listeners = %bound, "starting");
    let edge = Arc::new(Edge::new(
        config.users.limits.clone(),
        present::shown_to_users(&config)?,
    ));
    let metrics = Metrics::new(config.buckets.clone()).logging(logged(&config)?);
    let metrics = Arc::new(metrics);
    let (tracing, collector) = traced(&config, &identity, &metrics)?;
    let given = local_addresses(&config, &host)?;
    let beside = given.iter().map(|(service, _)| service.clone());
    let mesh = Mesh::with_strategies(routes, beside.collect(), strategies, Arc::clone(&metrics));
    let mesh = Arc::new(mesh.standing_at(config.locality.clone()));
    let rule_of = |service: &ServiceName| compiled(routes, service);
    let local = LocalServices::new(given, rule_of)
        .with_weight(config.weight)
        .labelled(config.labels.clone());
    let local = Arc::new(local);
    let health = Arc::new(LocalHealth::new(&local, config.checks));
    let rules = RulesDigest::new(Rule::digest(routes.rules()));
    let own = Own::new(identity.node.clone(), identity.generation).compiled_with(rules);
    let own = own
        .identified(present.id.clone())
        .signed_by_control(present.origin.holder().is_some())
        .leaving_unmarked(tracing.leaves_unmarked());
    let repair = Repair::new(Arc::clone(&mesh));
    let onward = Arc::new(Onward::new(addresses(&listeners)?));
    let lost = Lost {
        repair: Arc::clone(&repair),
        health: Arc::clone(&health),
    };
    let pool = Pool::new(
        own.clone(),
        Arc::new(lost),
        Arc::clone(&onward),
        Arc::clone(&metrics),
        present.trust.clone(),
        config.link_max_age,
    );
    repair.dial_with(&pool);

    health.look(&onward).await;
    let initial = stored(&folder, &config);
    let hello = hello(&config, (&identity, &own), routes, &local, &health)?;
    let advertise = advertise(&config, &listeners)?;
    let sink = Arc::new(MeshSink {
        mesh: Arc::clone(&mesh),
        pool: Arc::clone(&pool),
    });
    let check = RuleCheck::new(routes, validations);
    let parameters = Parameters {
        control: config.control.iter().map(ToString::to_string).collect(),
        hello,
        advertise,
        judge: Arc::new(move |pushed| check.check(pushed)),
        certificate: present.source.clone(),
        holder: present.origin.holder().cloned(),
        data: Some(Arc::clone(&folder)),
        timing: Timing::default(),
    };
    let (discovery, discovering) = discover::start(parameters, sink, initial);
    for service in compiled_services(routes)? {
        // What does not fit is asked for when it is first called.
        let _ = discovery.want(&service);
    }
    let mut tasks = JoinSet::new();
    let discovering = tokio::spawn(discovering);
    let stack = Arc::new(Stack {
        own,
        mesh,
        local: Arc::clone(&local),
        pool: Arc::clone(&pool),
        trust: present.trust,
        discovery: discovery.clone(),
        health: Arc::clone(&health),
        repair,
        policy: classify::Policy {
            require_rules: config.require_rules,
            passthrough: config.unknown == Unknown::Passthrough,
            secure: config.trust != Trust::Disabled,
        },
        edge,
        metrics: Arc::clone(&metrics),
        tracing,
    });
    let drain = Drain::default();
    let asked = Arc::new(Notify::new());
    let apps = Arc::new(Semaphore::new(CONNECTIONS_LIMIT));
    let pages = Arc::new(Admin {
        stack: Arc::clone(&stack),
        health: Arc::clone(&health),
        origin: present.origin,
        settings: settings.describe(),
        bound: bound.clone(),
        draining: drain.subscribe(),
        drain: Arc::clone(&asked),
    })
    .pages();
    let served = serve(listeners, &stack, &drain, (&apps, &onward), pages);
    {
        let (health, local) = (Arc::clone(&health), Arc::clone(&local));
        let (discovery, onward) = (discovery.clone(), Arc::clone(&onward));
        let mut draining = drain.subscribe();
        tasks.spawn(async move {
            // An app that ends is no news, and one that drains need not be asked any more.
            tokio::select! {
                () = health.watch(local, discovery, &onward) => {}
                () = draining.reached(Phase::Inbound) => {}
            }
        });
    }
    tasks.spawn(Arc::clone(&pool).sweep());
    tasks.spawn(announce(discovery.clone()));
    tasks.spawn(follow_generation(stack.own.clone(), discovery.clone()));
    tasks.spawn(forget_idle(Arc::clone(&stack.mesh), discovery.clone()));

    if let Some(started) = host.started.take() {
        // A program that does not wait for it any more has dropped the mesh, which ends it.
        let _ = started.send(Started {
            stack: Arc::clone(&stack),
            draining: drain.subscribe(),
            bound,
        });
    }
    tokio::select! {
        () = host.stops.drain() => {}
        () = asked.notified() => info!("ending: asked to on the admin port"),
    }
    let orderly = end_in_order(&drain, &discovery, &stack, &apps, config.grace);
    tokio::select! {
        () = orderly => {}
        () = host.stops.force() => warn!("told to end at once"),
    }
    let cut = metrics.open_calls();
    drain.advance(Phase::Forced);
    discovery.goodbye("drained").await;
    let _ = tokio::time::timeout(LAST_FRAMES, served).await;
    pool.close().await;
    let _ = tokio::time::timeout(Duration::from_secs(2), discovering).await;
    metrics.access.flush().await;
    if let Some(collector) = collector {
        collector.flush().await;
    }
    info!(cut, "ended; {cut} calls were cut");
    Ok(())
}

/// Begins the log of calls, where there is to be one.
fn logged(config: &Config) -> Result<AccessLog, StartError> {
    let Some((which, to)) = config.access.clone() else {
        return Ok(AccessLog::default());
    };
    let place = format!("{to:?}");
    AccessLog::start(which, to).map_err(|error| {
        format!("--access-log-file: {place}: {error}; name a file that can be written").into()
    })
}

/// Begins spans, and sends them where they are to go.
fn traced(
    config: &Config,
    identity: &NodeIdentity,
    metrics: &Metrics,
) -> Result<(Tracing, Option<Collector>), StartError> {
    let Some(traces) = &config.traces else {
        return Ok((Tracing::off(), None));
    };
    let service = traces.service.as_deref();
    let resource = Resource {
        service: service.unwrap_or(identity.node.as_str()),
        node: identity.node.as_str(),
        network: config.network.as_str(),
    };
    let collector = Collector::start(&traces.url, resource, Arc::clone(&metrics.spans))?;
    let mut tracing = Tracing::to(&collector, traces.share, traces.errors);
    if config.access.is_some() {
        tracing = tracing.keeping_ids();
    }
    Ok((tracing, Some(collector)))
}

/// Graceful first; the grace is the deadline; force is the caller's.
async fn end_in_order(
    drain: &Drain,
    discovery: &Discovery,
    stack: &Stack,
    apps: &Semaphore,
    grace: Duration,
) {
    let deadline = Instant::now() + grace;
    // Before the first GOAWAY, so that nobody picks this node any more.
    let told = discovery.drain(CONFIRM_LIMIT.min(grace)).await;
    info!(?told, "control was told");
    drain.advance(Phase::Inbound);
    let over = |now: Instant| now >= deadline;
    let quiet = || stack.metrics.open_calls() == 0;
    let apps_gone = || apps.available_permits() == CONNECTIONS_LIMIT;
    // The local app may still call until it is gone itself.
    while !(over(Instant::now()) || (quiet() && apps_gone())) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    drain.advance(Phase::Outbound);
    let last = Instant::now() + LAST_FRAMES;
    while Instant::now() < last && !(quiet() && apps_gone()) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Says once when traffic can flow.
async fn announce(discovery: Discovery) {
    let mut status = discovery.status();
    if let Ok(status) = status.wait_for(|status| status.version.is_some()).await {
        info!(picture_from = status.source.name(), "ready");
    }
}

/// Control may know a higher generation than this process began with; peers must hear that one.
async fn follow_generation(own: Own, discovery: Discovery) {
    let mut status = discovery.status();
    while status.changed().await.is_ok() {
        own.raise(status.borrow_and_update().generation);
    }
}

/// Hears of links that ended: those to peers are repaired, and a local service whose connection
/// broke may be gone.
struct Lost {
    repair: Arc<Repair>,
    health: Arc<LocalHealth>,
}

impl Observer for Lost {
    fn closed(&self, key: &Key, cause: &CloseCause) {
        match &key.to {
            To::Local(address) => self.health.doubted(address),
            To::Peer { .. } | To::Destination(_) => self.repair.closed(key, cause),
        }
    }
}

/// Hands what control says to the mesh, and ends links that nobody means any more.
struct MeshSink {
    mesh: Arc<Mesh>,
    pool: Arc<Pool>,
}

impl Sink for MeshSink {
    fn replace(&self, change: &Change) {
        let states = change.services.iter().map(AsRef::as_ref);
        let rules = (&*change.rules, &*change.rules_dropped);
        let departed = self
            .mesh
            .take(states, &change.dropped, rules, Instant::now());
        for (node, generation) in departed {
            self.pool.retire(&node, generation);
        }
    }
}

fn bind(
    config: &Config,
    admin: TcpListener,
    calls: Option<Acceptor>,
) -> Result<Listeners, StartError> {
    let mut outbound: Vec<_> = calls.map(OutboundListener::Pipe).into_iter().collect();
    for address in &config.outbound {
        match address {
            ListenAddress::Tcp(address) => {
                outbound.push(OutboundListener::Tcp(listen::tcp(*address, "outbound")?));
            }
            ListenAddress::Unix(path) => {
                outbound.push(OutboundListener::Unix(listen::unix(path, "outbound")?));
            }
        }
    }
    Ok(Listeners {
        outbound,
        internal: listen::tcp(config.internal, "internal")?,
        external: config
            .external
            .map(|address| listen::tcp(address, "external"))
            .transpose()?,
        own: own_listeners(config)?,
        admin,
    })
}

/// The listeners of the project's own classes. Every class must be one that is compiled in.
fn own_listeners(config: &Config) -> Result<Vec<(OwnClass, TcpListener)>, StartError> {
    if config.listen.len() > OWN_CLASSES_LIMIT {
        let count = config.listen.len();
        return Err(format!("--listen names {count} classes; at most {OWN_CLASSES_LIMIT}").into());
    }
    let known = ConnectionClass::known();
    let mut listeners = Vec::new();
    for (name, address) in &config.listen {
        let own = known.iter().find_map(|class| match class {
            ConnectionClass::Own(own) if own.definition().name == name => Some(*own),
            _ => None,
        });
        let own = own.ok_or_else(|| {
            let names = known.iter().map(|class| class.name());
            let problem = Problem::unknown_name(name, "connection class", names);
            format!("--listen: {problem}; a class is declared beside the rules that this program is compiled with")
        })?;
        listeners.push((own, listen::tcp(*address, "listen")?));
    }
    Ok(listeners)
}

/// All TCP listeners, of every kind.
fn addresses(listeners: &Listeners) -> Result<Vec<SocketAddr>, std::io::Error> {
    let outbound = listeners.outbound.iter().filter_map(|it| match it {
        OutboundListener::Tcp(listener) => Some(listener),
        OutboundListener::Unix(_) | OutboundListener::Pipe(_) => None,
    });
    let own = listeners.own.iter().map(|(_, listener)| listener);
    outbound
        .chain([&listeners.internal, &listeners.admin])
        .chain(&listeners.external)
        .chain(own)
        .map(TcpListener::local_addr)
        .collect()
}

fn bound(listeners: &Listeners) -> Result<Value, std::io::Error> {
    let outbound: Vec<String> = listeners
        .outbound
        .iter()
        .map(|listener| {
            Ok(match listener {
                OutboundListener::Tcp(listener) => listener.local_addr()?.to_string(),
                OutboundListener::Unix(socket) => format!("unix:{}", socket.path().display()),
                OutboundListener::Pipe(_) => "this process".to_owned(),
            })
        })
        .collect::<Result<_, std::io::Error>>()?;
    let external = match &listeners.external {
        Some(listener) => Some(listener.local_addr()?.to_string()),
        None => None,
    };
    let mut own = serde_json::Map::new();
    for (class, listener) in &listeners.own {
        let address = listener.local_addr()?.to_string();
        own.insert(class.definition().name.to_owned(), address.into());
    }
    Ok(json!({
        "outbound": outbound,
        "internal": listeners.internal.local_addr()?.to_string(),
        "external": external,
        "listen": own,
        "admin": listeners.admin.local_addr()?.to_string(),
    }))
}

fn serve(
    listeners: Listeners,
    stack: &Arc<Stack>,
    drain: &Drain,
    (apps, onward): (&Arc<Semaphore>, &Arc<Onward>),
    pages: admin::Pages,
) -> impl Future<Output = ()> {
    let mut served = JoinSet::new();
    let outbound = Outbound {
        calls: Arc::clone(stack),
        metrics: Arc::clone(&stack.metrics),
        draining: drain.subscribe(),
        connections: Arc::clone(apps),
        onward: Arc::clone(onward),
    };
    for listener in listeners.outbound {
        let mut outbound = outbound.clone();
        if matches!(listener, OutboundListener::Pipe(_)) {
            // Not among the apps: a program that ends its mesh has said itself that it calls no
            // more, and the connections of channels that it still holds mean nothing.
            outbound.connections = Arc::new(Semaphore::new(CONNECTIONS_LIMIT));
        }
        served.spawn(outbound.run(listener));
    }
    let inbound = |class| Inbound {
        class,
        welcome: Welcome {
            own: stack.own.clone(),
            protocol: PEER_PROTOCOL,
            known: known(&stack.mesh),
        },
        trust: stack.trust.clone(),
        calls: Arc::clone(stack),
        metrics: Arc::clone(&stack.metrics),
        draining: drain.subscribe(),
        edge: (class == ConnectionClass::External).then(|| Arc::clone(&stack.edge)),
        lines: Arc::default(),
        strangers: Strangers::new(STRANGERS_LIMIT),
    };
    served.spawn(inbound(ConnectionClass::Internal).run(listeners.internal));
    if let Some(external) = listeners.external {
        served.spawn(inbound(ConnectionClass::External).run(external));
    }
    for (class, listener) in listeners.own {
        served.spawn(inbound(ConnectionClass::Own(class)).run(listener));
    }
    let mut ended = drain.subscribe();
    let shutdown = async move { ended.reached(Phase::Forced).await };
    served.spawn(admin::serve(listeners.admin, pages, shutdown));
    async move { while served.join_next().await.is_some() {} }
}

/// Where each service beside this sidecar is, or in the same process.
fn local_addresses(
    config: &Config,
    host: &Host,
) -> Result<Vec<(ServiceName, Address)>, StartError> {
    let mut given: Vec<(ServiceName, Address)> = Vec::new();
    for serve in &config.serve {
        let address = match &serve.address {
            DialAddress::Tcp(address) => Address::Tcp(PeerAddress::new(&address.to_string())?),
            DialAddress::Unix(path) => Address::Unix(path.clone()),
        };
        for service in &serve.services {
            given.push((service.clone(), address.clone()));
        }
    }
    for (service, opener) in &host.services {
        if let Some((_, address)) = given.iter().find(|(known, _)| known == service) {
            return Err(format!(
                "{service} is served in this process, and --serve says at {address}; keep one"
            )
            .into());
        }
        given.push((service.clone(), Address::Pipe(opener.clone())));
    }
    Ok(given)
}

/// The services that rules name, each well-formed and named once: a rule that could never hold
/// must not look as if it did.
fn compiled_services(routes: RouteTable) -> Result<Vec<ServiceName>, StartError> {
    let mut seen: Vec<ServiceName> = Vec::new();
    for rule in routes.rules() {
        let name = ServiceName::new(&rule.service)
            .map_err(|error| format!("the compiled rule at {}: {error}", rule.origin))?;
        if seen.contains(&name) {
            return Err(format!("two compiled rules name {name}, one at {}", rule.origin).into());
        }
        seen.push(name);
    }
    Ok(seen)
}

fn compiled(routes: RouteTable, service: &ServiceName) -> Option<Arc<Rule>> {
    let rule = routes
        .rules()
        .find(|rule| rule.service == service.as_str())?;
    Some(Arc::new(rule.clone()))
}

fn stored(folder: &DataFolder, config: &Config) -> Option<Held> {
    match disk::load(folder, &config.network) {
        Ok(held) => held,
        Err(error) => {
            warn!(%error, "the stored picture of the mesh is ignored");
            None
        }
    }
}

fn hello(
    config: &Config,
    (identity, own): (&NodeIdentity, &Own),
    routes: RouteTable,
    local: &LocalServices,
    health: &LocalHealth,
) -> Result<NodeHello, StartError> {
    let id = own.identity.as_ref();
    let id = id.map(|id| Identity::new(id.as_str())).transpose()?;
    Ok(NodeHello {
        node: identity.node.clone(),
        generation: identity.generation,
        instance: identity.instance.clone(),
        identity: id,
        protocol: MEMBERSHIP_PROTOCOL,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        rules_digest: Rule::digest(routes.rules()).to_vec(),
        locality: config.locality.clone(),
        network: config.network.clone(),
        addresses: Addresses::default(),
        offers: offers(local, health),
        held: None,
        subscription: Subscription::default(),
        draining: false,
    })
}

/// Which identity control names for a node, as far as this sidecar knows it.
fn known(mesh: &Arc<Mesh>) -> Known {
    let mesh = Arc::clone(mesh);
    Known(Arc::new(move |node| {
        let view = mesh.view();
        view.targets()
            .find_map(|target| target.hub().get(node.as_str())?.identity.clone())
    }))
}

/// What peers dial: what was said, or the bound address, or, where that is unspecified, the local
/// address of the connection to control.
fn advertise(
    config: &Config,
    listeners: &Listeners,
) -> Result<discover::Advertise, std::io::Error> {
    let internal = listeners.internal.local_addr()?;
    let external = match &listeners.external {
        Some(listener) => Some(listener.local_addr()?),
        None => None,
    };
    let own = listeners
        .own
        .iter()
        .map(|(class, listener)| Ok((*class, listener.local_addr()?)))
        .collect::<Result<Vec<_>, std::io::Error>>()?;
    let said = config.advertise.clone();
    Ok(Box::new(move |local| Addresses {
        internal: dialled(internal, said.as_ref(), local, true),
        external: external.and_then(|bound| dialled(bound, said.as_ref(), local, false)),
        own: own
            .iter()
            .filter_map(|(class, bound)| {
                let address = dialled(*bound, said.as_ref(), local, false)?;
                Some((*class, address))
            })
            .collect(),
    }))
}

fn dialled(
    bound: SocketAddr,
    said: Option<&Advertise>,
    local: IpAddr,
    with_port: bool,
) -> Option<PeerAddress> {
    let text = match said {
        Some(Advertise { host, port }) => {
            // A port that was said is the internal listener's; the other keeps its own.
            let port = port.filter(|_| with_port).unwrap_or(bound.port());
            if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            }
        }
        None if bound.ip().is_unspecified() => SocketAddr::new(local, bound.port()).to_string(),
        None => bound.to_string(),
    };
    PeerAddress::new(&text)
        .inspect_err(|error| error!(%error, "cannot be advertised"))
        .ok()
}
