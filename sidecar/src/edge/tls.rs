//! The TLS that users meet: 1.2 or 1.3, `h2`, and the certificate that is present at each handshake.
//! They are asked for none. Whether a handshake is a user's or a peer's is told by what it offers:
//! peers offer a protocol name of ours beside `h2`, and then have to prove who they are; who makes it
//! up meets a certificate that no user believes, and is asked for one that no user has.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use serde_json::{Value, json};
use sidelane_identity::tls::{ALPN, provider};
use tokio::sync::watch;

use super::files::Pair;

/// The oldest TLS that is taken from users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oldest {
    /// 1.2 (RFC 5246).
    Tls12,
    /// 1.3 (RFC 8446).
    Tls13,
}

impl Oldest {
    /// As the setting says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// What users are shown.
pub struct Shown {
    config: Arc<ServerConfig>,
    pair: Pair,
    oldest: Oldest,
}

impl Shown {
    /// Shows what `present` holds, at each handshake.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        present: watch::Receiver<Arc<CertifiedKey>>,
        pair: Pair,
        oldest: Oldest,
    ) -> Result<Self, rustls::Error> {
        let versions: &[&SupportedProtocolVersion] = match oldest {
            Oldest::Tls12 => &[&TLS13, &TLS12],
            Oldest::Tls13 => &[&TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Present(present)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.max_early_data_size = 0;
        Ok(Self {
            config: Arc::new(config),
            pair,
            oldest,
        })
    }

    /// How handshakes are answered.
    #[must_use]
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// For `/config`: where it comes from, and never what it is.
    #[must_use]
    pub fn describe(&self) -> Value {
        json!({
            "certificate": self.pair.certificate.display().to_string(),
            "key": self.pair.key.display().to_string(),
            "oldest": self.oldest.name(),
        })
    }
}

struct Present(watch::Receiver<Arc<CertifiedKey>>);

impl ResolvesServerCert for Present {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.borrow()))
    }
}

impl fmt::Debug for Present {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Present")
    }
}
