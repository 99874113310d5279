//! The sidecar's configuration: the sole reader of flags, environment and files of this program.
//! Read once, before anything else runs. What can be wrong with it is wrong here, with the flag,
//! the value and its origin named; no later stage meets a setting that it cannot follow, and none
//! is ever ignored.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidelane_identity::SpiffeId;
use sidelane_identity::files::Files;
use sidelane_identity::token::TokenText;
use sidelane_process::address::{self, DialAddress, HostPort, ListenAddress};
use sidelane_process::runtime::RuntimeFolder;
use sidelane_process::settings::{
    self, Environment, Listener, Settings, SettingsError, Start, Trust, value,
};
use sidelane_proto::model::{Locality, Network, NodeId, ServiceName};
use sidelane_spiffe::{Endpoint, Wanted};

pub use crate::discover::certificate::ServiceAccount;
use crate::edge::Limits;
use crate::edge::files::Pair;
use crate::edge::tls::Oldest;
use crate::health::Checks;
use crate::telemetry::trace::Ratio;
use crate::telemetry::{Buckets, To, Which};

mod figures;
mod read;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod traces;
mod users;

pub use table::PROGRAM;
use table::{
    ADMIN, ADVERTISE, CONTROL, DATA, EXTERNAL, GRACE, HEALTH, HEALTH_INTERVAL, HEALTH_TIMEOUT,
    HEALTHY_AFTER, INTERNAL, LINK_MAX_AGE, LISTEN, LOCALITY, NETWORK, NODE, OUTBOUND,
    REQUIRE_RULES, UNHEALTHY_AFTER, UNKNOWN, WEIGHT,
};

/// Everything that a sidecar is told from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `--node`. If absent, an id is made once and kept in `data`.
    pub node: Option<NodeId>,
    /// `--control`: at least one address.
    pub control: Vec<HostPort>,
    /// `--network`.
    pub network: Network,
    /// `--serve`: every service at most once.
    pub serve: Vec<Serve>,
    /// `--outbound`: at least one address, unless this sidecar is linked into a program.
    pub outbound: Vec<ListenAddress>,
    /// `--internal`.
    pub internal: SocketAddr,
    /// `--external`; `None` if it is off.
    pub external: Option<SocketAddr>,
    /// `--tls-cert`, `--tls-key`, `--tls-min`, and the bounds of `--external-…`.
    pub users: Users,
    /// `--listen`: classes by name, each at most once. Which classes there are is known to the
    /// rules with which the program was compiled, so the name is checked when they are.
    pub listen: Vec<(String, SocketAddr)>,
    /// `--admin`.
    pub admin: SocketAddr,
    /// `--advertise`.
    pub advertise: Option<Advertise>,
    /// `--trust`.
    pub trust: Trust,
    /// `--identity-chain`, `--identity-key`, `--identity-roots`; `None` in trust mode `disabled`, and
    /// where control signs.
    pub identity: Option<Files>,
    /// `--spiffe-socket`, `--spiffe-hint` and with them `--identity`; `None` where the certificate
    /// comes from elsewhere, or there is none.
    pub spiffe: Option<Workload>,
    /// How control is asked for certificates; `None` in trust mode `disabled`, with files, and with an
    /// agent.
    pub joins: Option<Joins>,
    /// `--data`. By default `$XDG_STATE_HOME/sidelane/NODE`, else
    /// `~/.local/state/sidelane/NODE`, else `sidelane/NODE` below `$TMPDIR` or `/tmp`. A sidecar
    /// without `--node` is known by its first outbound address there.
    pub data: PathBuf,
    /// `--locality`; empty if absent.
    pub locality: Locality,
    /// `--weight`: 1 to 10,000.
    pub weight: u32,
    /// `--label`: each key once.
    pub labels: BTreeMap<String, String>,
    /// `--health`, `--health-interval`, `--health-timeout`, `--unhealthy-after`,
    /// `--healthy-after`.
    pub checks: Checks,
    /// `--unknown`.
    pub unknown: Unknown,
    /// `--require-rules`.
    pub require_rules: bool,
    /// `--grace`.
    pub grace: Duration,
    /// `--link-max-age`: from a second to a day.
    pub link_max_age: Duration,
    /// `--duration-buckets` and `--size-buckets`.
    pub buckets: Buckets,
    /// `--access-log` and `--access-log-file`; `None`: calls are not logged.
    pub access: Option<(Which, To)>,
    /// `--otlp`, `--sampling`, `--sample-errors` and `--otlp-service`; `None`: no traces leave this sidecar.
    pub traces: Option<Traces>,
    /// `--log`, as [`sidelane_process::logs::init`] takes it.
    pub log: String,
}

/// By what right control is asked for certificates, and for whose.
#[derive(Debug, Clone, PartialEq)]
pub struct Joins {
    /// `--service-account-token` and `--control-roots`.
    pub account: Option<ServiceAccount>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
    /// `SIDELANE_TOKEN`: a variable and no flag, since other users see what a command line says.
    pub token: Option<TokenText>,
    /// Where join files are.
    pub runtime: RuntimeFolder,
    /// `--identity`.
    pub identity: Option<SpiffeId>,
    /// `--keep-identity`.
    pub keep: bool,
}

/// An agent that gives this node's certificate, and which one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Where the agent is.
    pub endpoint: Endpoint,
    /// Which of its identities is meant.
    pub wanted: Wanted,
}

/// Local services that listen at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serve {
    /// At least one.
    pub services: Vec<ServiceName>,
    /// Where they listen.
    pub address: DialAddress,
}

/// What users meet on the external listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Users {
    /// The certificate that they are shown; `None`: there is none.
    pub pair: Option<Pair>,
    /// The oldest TLS that is taken from them.
    pub oldest: Oldest,
    /// What they are allowed.
    pub limits: Limits,
}

/// Which traces go where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// The collector's, `http://HOST:PORT`.
    pub url: String,
    /// How many of those that begin here are recorded.
    pub share: Ratio,
    /// Are calls that fail recorded in any case?
    pub errors: bool,
    /// As what their readers find this sidecar's spans; `None`: by its node.
    pub service: Option<String>,
}

/// What peers are told to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    /// A name or an IP address, IPv6 without brackets.
    pub host: String,
    /// If absent, the port that the listener got.
    pub port: Option<u16>,
}

/// What happens to calls to services that no rule and no endpoint knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// They fail with `UNKNOWN_SERVICE`.
    Refuse,
    /// They go on to where they were meant to go, where they came by a tunnel or a redirect; the
    /// others fail.
    Passthrough,
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

    /// Reads the configuration of a sidecar that is linked into a program. What differs: it listens
    /// for apps only where `--outbound` says so, its name or folder must therefore be given, and
    /// what is logged is the program's to say.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_embedded(
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        environment: &Environment,
        read_file: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Start<Loaded>, SettingsError> {
        settings::load(&PROGRAM, arguments, environment, read_file)?.and_then(|loaded| {
            let mut settings = loaded.settings;
            read::refuse_log(&settings)?;
            settings.without_default(&OUTBOUND);
            if settings.item(&OUTBOUND).is_none() && settings.item(&DATA).is_none() {
                // Nothing else would tell its folder from that of the next mesh.
                settings.value(&NODE, read::node)?;
            }
            Self::read(settings, loaded.warnings, environment)
        })
    }

    fn read(
        mut settings: Settings,
        mut warnings: Vec<String>,
        environment: &Environment,
    ) -> Result<Loaded, SettingsError> {
        let trust = settings::trust(&settings)?;
        let node = settings.optional(&NODE, read::node)?;
        let outbound = read::outbound(&settings)?;
        warnings.extend(read::derive_data(
            &mut settings,
            environment,
            node.as_ref(),
            &outbound,
        )?);
        source::ambient(&mut settings, trust, environment);
        warnings.extend(source::overruled(&settings, trust, environment));
        let config = Self {
            node,
            outbound,
            control: settings.list(&CONTROL, read::control)?,
            network: settings.value(&NETWORK, read::network)?,
            serve: read::serve(&settings)?,
            internal: settings.value(&INTERNAL, address::listen_tcp)?,
            external: settings.value(&EXTERNAL, read::external)?,
            users: users::read(&settings)?,
            listen: read::listen(&settings)?,
            admin: settings.value(&ADMIN, address::listen_tcp)?,
            advertise: settings.optional(&ADVERTISE, read::advertise)?,
            trust,
            identity: source::files(&settings, trust)?,
            spiffe: source::spiffe(&settings, trust)?,
            joins: source::joins(&settings, trust, environment)?,
            data: settings.value(&DATA, str::parse::<PathBuf>)?,
            locality: settings
                .optional(&LOCALITY, read::locality)?
                .unwrap_or_default(),
            weight: settings.value(&WEIGHT, read::weight)?,
            labels: read::labels(&settings)?,
            checks: Checks {
                by: settings.value(&HEALTH, read::check_by)?,
                interval: settings.value(&HEALTH_INTERVAL, read::between_looks)?,
                timeout: settings.value(&HEALTH_TIMEOUT, read::look_timeout)?,
                unhealthy_after: settings.value(&UNHEALTHY_AFTER, read::looks)?,
                healthy_after: settings.value(&HEALTHY_AFTER, read::looks)?,
            },
            unknown: settings.value(&UNKNOWN, read::unknown)?,
            require_rules: settings.switch(&REQUIRE_RULES)?,
            grace: settings.value(&GRACE, value::duration)?,
            link_max_age: settings.value(&LINK_MAX_AGE, read::link_age)?,
            buckets: figures::buckets(&settings)?,
            access: figures::access(&settings)?,
            traces: traces::read(&settings)?,
            log: settings::log(&settings)?,
        };
        let listeners = config.listeners(&settings);
        settings::apart(&listeners)?;
        read::refuse_loops(&settings, &config, &listeners)?;
        if trust == Trust::Strict {
            warnings.extend(config.unguarded(&listeners));
        } else {
            warnings.extend(settings::open_to_others(&listeners));
        }
        Ok(Loaded {
            config,
            settings,
            warnings,
        })
    }

    /// A sentence for each listener that other machines can reach and that asks nobody for a
    /// certificate, also in trust mode `strict`: local apps have none.
    fn unguarded(&self, listeners: &[Listener<'_>]) -> Vec<String> {
        let local = |it: &&Listener<'_>| {
            let outbound = ListenAddress::Tcp(it.address);
            it.address == self.admin || self.outbound.contains(&outbound)
        };
        let open = listeners
            .iter()
            .filter(local)
            .filter(|it| !it.address.ip().is_loopback());
        open.map(|it| {
            format!(
                "{} is not loopback, and no certificate is asked for there: whoever reaches it can \
                 {}",
                it.item, it.allows
            )
        })
        .collect()
    }

    /// The TCP listeners, each with the setting that names it.
    fn listeners<'a>(&self, settings: &'a Settings) -> Vec<Listener<'a>> {
        let outbound = settings.items(&OUTBOUND).iter().zip(&self.outbound);
        let outbound = outbound.filter_map(|(item, address)| match address {
            ListenAddress::Tcp(address) => Some(Listener {
                item,
                address: *address,
                allows: "call in this node's name",
            }),
            ListenAddress::Unix(_) => None,
        });
        let single = |flag, address: Option<SocketAddr>, allows| {
            Some(Listener {
                item: settings.item(flag)?,
                address: address?,
                allows,
            })
        };
        let others = [
            single(
                &INTERNAL,
                Some(self.internal),
                "call its services, as any node",
            ),
            single(
                &EXTERNAL,
                self.external,
                "call its external services, as any node",
            ),
            single(
                &ADMIN,
                Some(self.admin),
                "see its figures, settings and calls, and change nothing",
            ),
        ];
        let own = settings.items(&LISTEN).iter().zip(&self.listen);
        let own = own.map(|(item, (_, address))| Listener {
            item,
            address: *address,
            allows: "call its services of this class, as any node",
        });
        outbound
            .chain(others.into_iter().flatten())
            .chain(own)
            .collect()
    }
}
