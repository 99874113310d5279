//! The control plane's configuration: the sole reader of flags, environment and files of this
//! program. (The fixed source's file is data, not configuration: the source reads it.) Read once,
//! before anything else runs; a setting that cannot be followed is refused, never ignored.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidelane_identity::TrustDomain;
use sidelane_process::address;
use sidelane_process::runtime::RuntimeFolder;
use sidelane_process::settings::{
    self, Environment, Flag, LOG, Listener, Program, Settings, SettingsError, Start, TRUST, Trust,
    value,
};

use crate::ca::{LEAF_LIFE_MAXIMUM, LEAF_LIFE_MINIMUM};

#[cfg(test)]
mod tests;

/// The shortest lease. Below it, a pause that every machine has now and then (a page fault storm,
/// a stopped virtual machine) would remove healthy nodes.
pub const LEASE_MINIMUM: Duration = Duration::from_secs(1);
/// The longest lease. Above it, nodes that died stay in everybody's hubs for no use.
pub const LEASE_MAXIMUM: Duration = Duration::from_secs(60 * 60);

/// The longest time after its end in which a certificate can be renewed: a revocation is known for
/// no longer than the longest certificate lives.
pub const RENEWAL_GRACE_MAXIMUM: Duration = LEAF_LIFE_MAXIMUM;

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
    /// Where the join file is left.
    pub runtime: RuntimeFolder,
    /// `--grace`.
    pub grace: Duration,
    /// `--log`, as [`sidelane_process::logs::init`] takes it.
    pub log: String,
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
