//! The control plane's configuration: the sole reader of flags, environment and files of this
//! program. (The fixed source's file is data, not configuration: the source reads it.) Read once,
//! before anything else runs; a setting that cannot be followed is refused, never ignored.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidelane_identity::TrustDomain;
use sidelane_identity::files::Files;
use sidelane_process::address::{self, HostPort};
use sidelane_process::runtime::RuntimeFolder;
use sidelane_process::settings::{
    self, Environment, Flag, LOG, Listener, Origin, Program, Settings, SettingsError, Start, TRUST,
    Trust, value,
};
use sidelane_spiffe::Endpoint;

pub use crate::ca::RENEWAL_GRACE_MAXIMUM;
use crate::ca::{LEAF_LIFE_MAXIMUM, LEAF_LIFE_MINIMUM};
use crate::certificates::Kubernetes;

#[cfg(test)]
mod tests;

/// The shortest lease. Below it, a pause that every machine has now and then (a page fault storm,
/// a stopped virtual machine) would remove healthy nodes.
pub const LEASE_MINIMUM: Duration = Duration::from_secs(1);
/// The longest lease. Above it, nodes that died stay in everybody's hubs for no use.
pub const LEASE_MAXIMUM: Duration = Duration::from_secs(60 * 60);

const LISTEN: Flag =
    Flag::single("listen", "ADDRESS", "gRPC: membership and admin").or("127.0.0.1:15010");
const ADMIN: Flag = Flag::single("admin", "ADDRESS", "Admin pages over HTTP").or("127.0.0.1:15014");
const DATA: Flag = Flag::single(
    "data",
    "FOLDER",
    "What must survive a restart; for one control only",
)
.or("./state");
const FIXED: Flag = Flag::single(
    "fixed",
    "FILE",
    "A YAML file with endpoints that always exist; read again when it changes",
);
const LEASE: Flag = Flag::single(
    "lease",
    "DURATION",
    "A node not heard of for so long is removed",
)
.or("10s");
const TRUST_DOMAIN: Flag = Flag::single(
    "trust-domain",
    "NAME",
    "The mesh's name in every identity, spiffe://NAME/…",
)
.or(sidelane_identity::DEFAULT_TRUST_DOMAIN);
const LEAF_LIFE: Flag = Flag::single(
    "leaf-life",
    "DURATION",
    "How long a certificate holds; it is renewed after two thirds",
)
.or("1h");
const RENEWAL_GRACE: Flag = Flag::single(
    "renewal-grace",
    "DURATION",
    "How long after its end a certificate can still be renewed, and nothing else; 0s for never",
)
.or("24h");
const IDENTITY_CHAIN: Flag = Flag::single(
    "identity-chain",
    "FILE",
    "Control's own certificate (PEM), where another authority signs; then control signs nothing",
);
const IDENTITY_KEY: Flag = Flag::single(
    "identity-key",
    "FILE",
    "Its private key (PEM), for its owner alone: mode 600",
);
const IDENTITY_ROOTS: Flag = Flag::single(
    "identity-roots",
    "FILE",
    "The roots by which sidecars' certificates are judged (PEM)",
);
const SPIFFE_SOCKET: Flag = Flag::single(
    "spiffe-socket",
    "ADDRESS",
    "A SPIFFE agent that gives control's certificate: unix:///path; then control signs nothing",
);
const KUBERNETES: Flag = Flag::single(
    "kubernetes",
    "in-cluster|HOST:PORT",
    "The API server that is asked whose a service account's token is; if absent, none counts",
);
const KUBERNETES_CA: Flag = Flag::single("kubernetes-ca", "FILE", "The cluster's authority (PEM)")
    .or("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt");
const KUBERNETES_TOKEN: Flag = Flag::single(
    "kubernetes-token",
    "FILE",
    "Control's own token there, of a service account that may review others",
)
.or("/var/run/secrets/kubernetes.io/serviceaccount/token");
const GRACE: Flag = Flag::single(
    "grace",
    "DURATION",
    "How long streams may take when it ends",
)
.or("10s");

/// The table of all flags, and what `--help` says of the program.
pub const PROGRAM: Program = Program {
    name: "sidelane-control",
    version: env!("CARGO_PKG_VERSION"),
    about: "Sidelane's control plane: knows the nodes of the mesh and tells the sidecars.",
    flags: &[
        LISTEN,
        ADMIN,
        DATA,
        FIXED,
        LEASE,
        TRUST,
        TRUST_DOMAIN,
        LEAF_LIFE,
        RENEWAL_GRACE,
        IDENTITY_CHAIN,
        IDENTITY_KEY,
        IDENTITY_ROOTS,
        SPIFFE_SOCKET,
        KUBERNETES,
        KUBERNETES_CA,
        KUBERNETES_TOKEN,
        GRACE,
        settings::CONFIG,
        LOG,
    ],
};

/// Everything that a control plane is told from outside. Networks are no setting: nodes name
/// theirs, and control keeps them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `--listen`.
    pub listen: SocketAddr,
    /// `--admin`.
    pub admin: SocketAddr,
    /// `--data`.
    pub data: PathBuf,
    /// `--fixed`, if there is one. That it exists is for the source to find out.
    pub fixed: Option<PathBuf>,
    /// `--lease`, from [`LEASE_MINIMUM`] to [`LEASE_MAXIMUM`].
    pub lease: Duration,
    /// `--trust`.
    pub trust: Trust,
    /// `--trust-domain`.
    pub trust_domain: TrustDomain,
    /// `--leaf-life`, from [`LEAF_LIFE_MINIMUM`] to [`LEAF_LIFE_MAXIMUM`].
    pub leaf_life: Duration,
    /// `--renewal-grace`, at most [`RENEWAL_GRACE_MAXIMUM`].
    pub renewal_grace: Duration,
    /// `--identity-…` or `--spiffe-socket`; `None` where control signs itself.
    pub outside: Option<Outside>,
    /// `--kubernetes`, `--kubernetes-ca` and `--kubernetes-token`, if the first is given.
    pub kubernetes: Option<Kubernetes>,
    /// Where the join file is left.
    pub runtime: RuntimeFolder,
    /// `--grace`.
    pub grace: Duration,
    /// `--log`, as [`sidelane_process::logs::init`] takes it.
    pub log: String,
}

/// Where control's own certificate comes from, if it signs none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// From files.
    Files(Files),
    /// From an agent.
    Agent(Endpoint),
}

/// A configuration, how it came about, and what should be logged about it once there is a log.
pub type Loaded = settings::Loaded<Config>;

impl Config {
    /// Reads the configuration. `arguments` come without the program's name; `read_file` is
    /// [`settings::read_file`] outside tests.
    ///
    /// # Errors
    /// The first setting that cannot be followed.
    pub fn load(
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        environment: &Environment,
        read_file: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Start<Loaded>, SettingsError> {
        settings::load(&PROGRAM, arguments, environment, read_file)?
            .and_then(|loaded| Self::read(loaded.settings, loaded.warnings, environment))
    }

    fn read(
        settings: Settings,
        mut warnings: Vec<String>,
        environment: &Environment,
    ) -> Result<Loaded, SettingsError> {
        let config = Self {
            listen: settings.value(&LISTEN, address::listen_tcp)?,
            admin: settings.value(&ADMIN, address::listen_tcp)?,
            data: settings.value(&DATA, str::parse::<PathBuf>)?,
            fixed: settings.optional(&FIXED, str::parse::<PathBuf>)?,
            lease: settings.value(&LEASE, lease)?,
            trust: settings::trust(&settings)?,
            trust_domain: settings.value(&TRUST_DOMAIN, str::parse::<TrustDomain>)?,
            leaf_life: settings.value(&LEAF_LIFE, leaf_life)?,
            renewal_grace: settings.value(&RENEWAL_GRACE, renewal_grace)?,
            outside: outside(&settings)?,
            kubernetes: kubernetes(&settings, environment)?,
            runtime: RuntimeFolder::of(environment),
            grace: settings.value(&GRACE, value::duration)?,
            log: settings::log(&settings)?,
        };
        let listeners = config.listeners(&settings);
        settings::apart(&listeners)?;
        if config.trust == Trust::Strict {
            warnings.extend(open_pages(&listeners, config.admin));
        } else {
            warnings.extend(settings::open_to_others(&listeners));
        }
        Ok(Loaded {
            config,
            settings,
            warnings,
        })
    }

    fn listeners<'a>(&self, settings: &'a Settings) -> Vec<Listener<'a>> {
        let listener = |flag, address, allows| {
            Some(Listener {
                item: settings.item(flag)?,
                address,
                allows,
            })
        };
        let all = [
            listener(&LISTEN, self.listen, "join the mesh as any node"),
            listener(&ADMIN, self.admin, "see the whole mesh"),
        ];
        all.into_iter().flatten().collect()
    }
}

/// The gRPC port asks for certificates; the pages do not.
fn open_pages(listeners: &[Listener<'_>], admin: SocketAddr) -> Option<String> {
    let pages = listeners
        .iter()
        .find(|listener| listener.address == admin)?;
    let told = || {
        format!(
            "{} is not loopback, and its pages ask for no certificate: whoever reaches it can {}",
            pages.item, pages.allows
        )
    };
    (!admin.ip().is_loopback()).then(told)
}

fn outside(settings: &Settings) -> Result<Option<Outside>, SettingsError> {
    const FILES: [&Flag; 3] = [&IDENTITY_CHAIN, &IDENTITY_KEY, &IDENTITY_ROOTS];
    let files = FILES.map(|flag| settings.item(flag));
    let socket = settings.item(&SPIFFE_SOCKET);
    let Some(given) = files.into_iter().flatten().next().or(socket) else {
        return Ok(None);
    };
    if settings::trust(settings)? == Trust::Disabled {
        let text = "no certificate is shown in trust mode disabled; remove this setting, or say \
                    --trust strict";
        return Err(given.refuse(text).into());
    }
    for flag in [&TRUST_DOMAIN, &LEAF_LIFE, &RENEWAL_GRACE, &KUBERNETES] {
        let item = settings.item(flag);
        if let Some(item) = item.filter(|item| *item.origin() != Origin::Default) {
            let text = format!("control signs nothing with {given}; remove one of the two");
            return Err(item.refuse(text).into());
        }
    }
    match (files, socket) {
        ([None, None, None], Some(socket)) => {
            Ok(Some(Outside::Agent(socket.parse(str::parse::<Endpoint>)?)))
        }
        (_, Some(socket)) => Err(socket
            .refuse("control's certificate comes from files; remove one of the two")
            .into()),
        ([Some(chain), Some(key), Some(roots)], None) => Ok(Some(Outside::Files(Files {
            chain: chain.text().into(),
            key: key.text().into(),
            roots: roots.text().into(),
        }))),
        _ => Err(given
            .refuse("--identity-chain, --identity-key and --identity-roots come together; name all three")
            .into()),
    }
}

/// The cluster, if one is to be asked.
fn kubernetes(
    settings: &Settings,
    environment: &Environment,
) -> Result<Option<Kubernetes>, SettingsError> {
    let server = settings.optional(&KUBERNETES, |text| match text {
        "in-cluster" => in_cluster(environment),
        text => text.parse::<HostPort>().map_err(|error| error.to_string()),
    })?;
    let files = [&KUBERNETES_CA, &KUBERNETES_TOKEN];
    let given = files.into_iter().filter_map(|flag| settings.item(flag));
    let mut given = given.filter(|item| *item.origin() != Origin::Default);
    if server.is_none()
        && let Some(item) = given.next()
    {
        let text = "no cluster is asked without --kubernetes; give that, or remove this setting";
        return Err(item.refuse(text).into());
    }
    let (ca, token) = (
        settings.value(&KUBERNETES_CA, str::parse::<PathBuf>)?,
        settings.value(&KUBERNETES_TOKEN, str::parse::<PathBuf>)?,
    );
    Ok(server.map(|server| Kubernetes { server, ca, token }))
}

/// What Kubernetes tells each container.
fn in_cluster(environment: &Environment) -> Result<HostPort, String> {
    let variable = |name| {
        let value = environment.get(name).and_then(|value| value.to_str());
        value.ok_or_else(|| format!("{name} is not set, so this is no pod; name the API server"))
    };
    let (host, port) = (
        variable("KUBERNETES_SERVICE_HOST")?,
        variable("KUBERNETES_SERVICE_PORT")?,
    );
    let server = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    server
        .parse()
        .map_err(|error: address::AddressError| error.to_string())
}

fn leaf_life(text: &str) -> Result<Duration, String> {
    let life = value::duration(text).map_err(|error| error.to_string())?;
    if (LEAF_LIFE_MINIMUM..=LEAF_LIFE_MAXIMUM).contains(&life) {
        return Ok(life);
    }
    Err("a certificate holds for 2s to 168h; 1h is usual".to_owned())
}

fn renewal_grace(text: &str) -> Result<Duration, String> {
    let grace = value::duration(text).map_err(|error| error.to_string())?;
    if grace <= RENEWAL_GRACE_MAXIMUM {
        return Ok(grace);
    }
    Err("at most 168h, since revocations are remembered no longer; 24h is usual".to_owned())
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = value::duration(text).map_err(|error| error.to_string())?;
    if lease < LEASE_MINIMUM {
        return Err("too short; the least is 1s, or healthy nodes would be removed".to_owned());
    }
    if lease > LEASE_MAXIMUM {
        return Err("too long; the most is 1h, or dead nodes would stay for ever".to_owned());
    }
    Ok(lease)
}
