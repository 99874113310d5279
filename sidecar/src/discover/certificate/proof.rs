//! By what right this sidecar asks for its first certificate: a Kubernetes service account's token or a
//! join token that it was given, or the join file that a control of the same user on the same machine
//! has left. What is found says by control's roots whom to ask. An error names every place that was looked at, and nothing that stood
//! there.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use sidelane_identity::token::{JoinFile, JoinToken, TOKEN_LIMIT, TokenError, TokenText};
use sidelane_identity::{Bundle, TrustDomain, pinned};
use sidelane_process::runtime::{RuntimeError, RuntimeFolder, join_names};
use sidelane_proto::wire::control::v1::sign_request::Proof;
use zeroize::Zeroizing;

use super::account::{AccountError, ServiceAccount};

/// The variable that may hold a token.
pub(super) const TOKEN_VARIABLE: &str = "SIDELANE_TOKEN";

/// Where proofs are looked for. Has no `Debug`.
#[derive(Clone)]
pub struct Proofs {
    /// A service account's token.
    pub account: Option<ServiceAccount>,
    /// A file with a token.
    pub token_file: Option<PathBuf>,
    /// A token from the environment.
    pub variable: Option<TokenText>,
    /// The folder of join files.
    pub runtime: RuntimeFolder,
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// There is no service account's token, or no control that it could be shown to.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The token's file cannot be read.
    #[error("the token file {path} cannot be read: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing is in it.
    #[error(
        "the token file {path} is empty; a token is the output of `sidelane token --node NAME`, which \
         may have failed where this file was written",
        path = path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Others may read the token.
    #[error(
        "the token file {path} has mode {mode:03o}, so others may read it: chmod 600 {path}, and \
         make another token if they may have",
        path = path.display()
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What is there is no token.
    #[error("what {place} holds is no token: {error}")]
    Token {
        /// Where it is.
        place: String,
        /// What is wrong.
        error: TokenError,
    },
    /// The join file cannot be used.
    #[error("the join file cannot be used: {0}")]
    Runtime(#[from] RuntimeError),
    /// What is there is no join file.
    #[error("what {path} holds is no join file: {error}", path = path.display())]
    Join {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: TokenError,
    },
    /// The name of control has no address.
    #[error("control at {control} has no address: {source}")]
    Name {
        /// Its name.
        control: String,
        /// What the system says.
        source: io::Error,
    },
    /// There is nothing anywhere.
    #[error(
        "nothing proves who this node is: no --token-file was given, {TOKEN_VARIABLE} is not set, \
         and {join}; make a token with `sidelane token --node {node}` where control runs, put it \
         into a file with mode 600 and name that with --token-file, or run control and sidecars \
         with --trust disabled"
    )]
    Nothing {
        /// The node.
        node: String,
        /// What there is of join files.
        join: String,
        /// A join file may still come.
        may_come: bool,
    },
}

impl ProofError {
    /// Nothing gets better by waiting.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Read { .. }
            | Self::Empty { .. }
            | Self::Permissions { .. }
            | Self::Token { .. } => true,
            Self::Nothing { may_come, .. } => !may_come,
            // Control writes its file anew at its next start, and a cluster mounts what is missing.
            Self::Account(_) | Self::Runtime(_) | Self::Join { .. } | Self::Name { .. } => false,
        }
    }
}

/// What was found. Has no `Debug`.
pub(super) enum Right {
    Account {
        bundle: Bundle,
        token: Zeroizing<String>,
        path: PathBuf,
    },
    Token {
        token: JoinToken,
        /// Where it was.
        place: String,
    },
    Join {
        file: JoinFile,
        path: PathBuf,
    },
}

impl Right {
    /// How control is dialled, by what this says of it.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(super) fn dialled(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        match self {
            Self::Account { bundle, .. } => pinned::under(bundle),
            Self::Token { token, .. } => pinned::client(token.authority.clone()),
            Self::Join { file, .. } => pinned::client(file.authority.clone()),
        }
    }

    /// The mesh that is meant.
    pub(super) fn domain(&self) -> &TrustDomain {
        match self {
            Self::Account { bundle, .. } => bundle.trust_domain(),
            Self::Token { token, .. } => &token.authority.trust_domain,
            Self::Join { file, .. } => &file.authority.trust_domain,
        }
    }

    /// May a refusal of it be taken back, or it be another one by then?
    pub(super) fn may_change(&self) -> bool {
        !matches!(self, Self::Token { .. })
    }

    /// What may be wrong where control is not believed.
    pub(super) fn doubt(&self) -> String {
        match self {
            Self::Account { .. } => "; --control-roots may name roots that control has no more: \
                 `sidelane root show` prints what it has"
                .to_owned(),
            Self::Token { .. } => String::new(),
            // Who keeps such a file has the right root in it, unless it is of another control.
            Self::Join { .. } => {
                let name = self.name();
                format!("; {name} may be of a control that is gone: remove it then")
            }
        }
    }

    /// As control is shown it.
    pub(super) fn proof(&self) -> Proof {
        match self {
            Self::Account { token, .. } => Proof::Kubernetes(token.to_string()),
            Self::Token { token, .. } => Proof::Token(token.secret.to_vec()),
            Self::Join { file, .. } => Proof::Join(file.secret.to_vec()),
        }
    }

    /// What it is, for people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Account { path, .. } => {
                format!("the service account's token {}", path.display())
            }
            Self::Token { place, .. } => format!("the token of {place}"),
            Self::Join { path, .. } => format!("the join file {}", path.display()),
        }
    }
}

impl Proofs {
    /// What there is for control at `control`, `host:port`. A token that was given is used and
    /// nothing else, also where it is none.
    ///
    /// # Errors
    /// Why there is nothing.
    pub(super) async fn find(&self, control: &str, node: &str) -> Result<Right, ProofError> {
        if let Some(account) = self.account.clone() {
            return blocking(move || {
                let (bundle, token) = account.read()?;
                let path = account.token;
                Ok(Right::Account {
                    bundle,
                    token,
                    path,
                })
            })
            .await;
        }
        if let Some(path) = self.token_file.clone() {
            return blocking(move || token_file(&path)).await;
        }
        if let Some(text) = &self.variable {
            let place = TOKEN_VARIABLE.to_owned();
            return match text.parse() {
                Ok(token) => Ok(Right::Token { token, place }),
                Err(error) => Err(ProofError::Token { place, error }),
            };
        }
        let addresses = tokio::net::lookup_host(control).await;
        let addresses = addresses.map_err(|source| ProofError::Name {
            control: control.to_owned(),
            source,
        })?;
        let names: Vec<String> = addresses.flat_map(join_names).collect();
        let nothing = ProofError::Nothing {
            node: node.to_owned(),
            join: match names.first() {
                Some(name) => {
                    let beside = names.iter().find_map(|name| self.runtime.elsewhere(name));
                    let beside = beside.map(|path| {
                        format!(
                            " (one is at {}: control and sidecars must agree on XDG_RUNTIME_DIR)",
                            path.display()
                        )
                    });
                    format!(
                        "there is no join file {}, which a control of this user that is not in \
                         trust mode disabled leaves while it runs{}",
                        self.runtime.path(name).display(),
                        beside.unwrap_or_default()
                    )
                }
                None => format!(
                    "control at {control} is on another machine, so it leaves no join file here"
                ),
            },
            may_come: !names.is_empty(),
        };
        let runtime = self.runtime.clone();
        blocking(move || join_file(&runtime, &names))
            .await?
            .ok_or(nothing)
    }
}

/// Files are read where that keeps nobody waiting.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ProofError> + Send + 'static,
) -> Result<T, ProofError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it whoever waits for this.
            Err(_) => std::future::pending().await,
        },
    }
}

fn token_file(path: &Path) -> Result<Right, ProofError> {
    let unreadable = |source| ProofError::Read {
        path: path.to_owned(),
        source,
    };
    let found = std::fs::metadata(path).map_err(unreadable)?;
    if !found.is_file() {
        // To open a pipe would be to wait for whoever writes to it, and it can be read once only.
        return Err(unreadable(io::Error::other("it is no plain file")));
    }
    if found.len() == 0 {
        let path = path.to_owned();
        return Err(ProofError::Empty { path });
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(ProofError::Permissions { path, mode });
    }
    let place = path.display().to_string();
    let limit = u64::try_from(TOKEN_LIMIT).unwrap_or(u64::MAX);
    if found.len() > limit {
        let error = TokenError::Broken;
        return Err(ProofError::Token { place, error });
    }
    let bytes = Zeroizing::new(std::fs::read(path).map_err(unreadable)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| TokenError::Broken);
    match text.and_then(JoinToken::parse) {
        Ok(token) => Ok(Right::Token { token, place }),
        Err(error) => Err(ProofError::Token { place, error }),
    }
}

fn join_file(runtime: &RuntimeFolder, names: &[String]) -> Result<Option<Right>, ProofError> {
    for name in names {
        let Some(bytes) = runtime.read(name)?.map(Zeroizing::new) else {
            continue;
        };
        let path = runtime.path(name);
        let text = std::str::from_utf8(&bytes).map_err(|_| TokenError::Broken);
        return match text.and_then(JoinFile::parse) {
            Ok(file) => Ok(Some(Right::Join { file, path })),
            Err(error) => Err(ProofError::Join { path, error }),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use sidelane_identity::SpiffeId;
    use sidelane_identity::token::Authority;

    use super::*;

    const CONTROL: &str = "127.0.0.1:15010";

    fn token() -> Zeroizing<String> {
        let token = JoinToken {
            authority: Authority {
                root: [1; 32],
                trust_domain: TrustDomain::new("mesh.example").unwrap(),
            },
            node: "orders-1".to_owned(),
            identity: SpiffeId::new("spiffe://mesh.example/ns/shop/sa/orders").unwrap(),
            expires: 1_800_000_000,
            secret: Zeroizing::new([2; 32]),
        };
        token.to_text()
    }

    fn proofs(folder: &tempfile::TempDir) -> Proofs {
        Proofs {
            account: None,
            token_file: None,
            variable: None,
            runtime: RuntimeFolder::at(folder.path().join("run")),
        }
    }

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    async fn error(proofs: &Proofs, control: &str) -> ProofError {
        let found = proofs.find(control, "orders-1").await;
        found.err().expect("nothing to be found")
    }

    #[tokio::test]
    async fn a_file_that_others_may_read_is_refused_with_what_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders-1.token");
        let proofs = Proofs {
            token_file: Some(path.clone()),
            variable: Some(TokenText::new(token())),
            ..proofs(&folder)
        };
        let missing = error(&proofs, CONTROL).await;
        assert!(missing.is_final() && missing.to_string().contains("orders-1.token"));
        for mode in [0o640, 0o604, 0o644] {
            write(&path, &token(), mode);
            let open = error(&proofs, CONTROL).await;
            let mends = format!("chmod 600 {}", path.display());
            assert!(
                open.is_final() && open.to_string().contains(&mends),
                "{open}"
            );
        }
        write(&path, "", 0o600);
        let empty = error(&proofs, CONTROL).await;
        assert!(
            empty.is_final() && empty.to_string().contains("is empty"),
            "{empty}"
        );
        let not_a_file = Proofs {
            token_file: Some(folder.path().to_owned()),
            ..proofs.clone()
        };
        let folder = error(&not_a_file, CONTROL).await.to_string();
        assert!(folder.contains("no plain file"), "{folder}");
        let cut = &token()[..80];
        write(&path, cut, 0o600);
        let broken = error(&proofs, CONTROL).await;
        assert!(
            broken.is_final() && !broken.to_string().contains(cut),
            "{broken}"
        );
        write(&path, &"a".repeat(TOKEN_LIMIT + 1), 0o600);
        assert!(matches!(
            error(&proofs, CONTROL).await,
            ProofError::Token { .. }
        ));
        write(&path, &token(), 0o600);
        let found = proofs.find(CONTROL, "orders-1").await.ok().unwrap();
        assert_eq!(found.name(), format!("the token of {}", path.display()));
    }

    #[tokio::test]
    async fn a_token_goes_before_the_join_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut proofs = proofs(&folder);
        let file = JoinFile {
            authority: Authority {
                root: [3; 32],
                trust_domain: TrustDomain::new("other.example").unwrap(),
            },
            secret: Zeroizing::new([4; 32]),
        };
        // Control listens at all addresses, and is dialled at one.
        let name = "control-0.0.0.0:15010.join";
        proofs
            .runtime
            .write(name, file.to_text().as_bytes())
            .unwrap();
        let found = proofs.find(CONTROL, "orders-1").await.ok().unwrap();
        assert_eq!(found.domain().as_str(), "other.example");
        assert!(found.name().ends_with(name), "{}", found.name());
        proofs.variable = Some(TokenText::new(token()));
        let found = proofs.find(CONTROL, "orders-1").await.ok().unwrap();
        assert_eq!(found.name(), "the token of SIDELANE_TOKEN");
        proofs.variable = Some(TokenText::new(Zeroizing::new("hello".to_owned())));
        assert!(error(&proofs, CONTROL).await.is_final());
        proofs.variable = None;
        proofs.runtime.write(name, b"hello").unwrap();
        let broken = error(&proofs, CONTROL).await;
        assert!(matches!(broken, ProofError::Join { .. }) && !broken.is_final());
    }

    #[tokio::test]
    async fn with_nothing_the_error_says_where_it_looked_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let proofs = proofs(&folder);
        let here = error(&proofs, CONTROL).await;
        let text = here.to_string();
        for part in [
            "--token-file",
            "SIDELANE_TOKEN",
            "run/control-127.0.0.1:15010.join",
            "sidelane token --node orders-1",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!here.is_final(), "control may be about to start");
        let elsewhere = error(&proofs, "192.0.2.1:15010").await;
        assert!(elsewhere.is_final(), "{elsewhere}");
        assert!(elsewhere.to_string().contains("another machine"));
    }
}
