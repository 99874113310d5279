//! The call to control that has a key signed, and what may be wrong with it. A key is made for each
//! certificate, so that its life bounds its key's; a call whose answer was lost is made again with the
//! same one, because control signs once for a token, and then for that key alone.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::ClientConfig;
use sidelane_identity::verify::Expected;
use sidelane_identity::{
    CertificateDer, Identity, IdentityError, Refusal, Request, RequestError, Source, SpiffeId,
    Svid, SvidError, TrustDomain, pinned, tls,
};
use sidelane_proto::model::NodeId;
use sidelane_proto::wire::control::v1::certificates_client::CertificatesClient;
use sidelane_proto::wire::control::v1::{SignRequest, SignResponse, sign_request::Proof};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::super::connect::{ControlError, connect};
use super::super::{DataFolder, Timing};
use super::kept;
use super::proof::{ProofError, Proofs};
use super::trusted::{self, TrustError};

/// The header by which a refusal carries its reason.
const REASON_HEADER: &str = "sidelane-error";

/// How this sidecar comes to certificates.
pub struct Enrolment {
    /// Where control listens, `host:port`, in the order in which they are tried.
    pub control: Vec<String>,
    /// This node.
    pub node: NodeId,
    /// Who it asks to be; what its proof gives, if absent.
    pub identity: Option<SpiffeId>,
    /// Its right to the first one.
    pub proofs: Proofs,
    /// Where key and certificate are kept, if they are.
    pub keep: Option<Arc<DataFolder>>,
    /// How long things may take.
    pub timing: Timing,
    /// The key that was not answered.
    pub unanswered: Unanswered,
}

/// A key that control was asked to sign, and did not answer. Has no `Debug`.
#[derive(Default)]
pub struct Unanswered(Mutex<Option<Arc<Request>>>);

impl Unanswered {
    fn request(&self) -> Result<Arc<Request>, RequestError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(request) = &*kept {
            return Ok(Arc::clone(request));
        }
        let request = Arc::new(Request::make()?);
        *kept = Some(Arc::clone(&request));
        Ok(request)
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Why control has not signed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is nothing to show.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// There is no way to control.
    #[error("{0}")]
    Control(String),
    /// TLS does not come about: one of the two does not believe the other.
    #[error("{0}")]
    Stranger(String),
    /// Control does not want to.
    #[error("control at {address} does not sign by {right}: {reason}{text}")]
    Refused {
        /// Who.
        address: String,
        /// What it was shown.
        right: String,
        /// Its reason for programs, with what separates it from the text, or nothing.
        reason: String,
        /// Its reason for people.
        text: String,
        /// It will say the same the next time.
        is_final: bool,
    },
    /// What it signed cannot be used.
    #[error("what control at {address} signed cannot be used: {why}")]
    Unusable {
        /// Who.
        address: String,
        /// What is wrong.
        why: Unusable,
    },
    /// No key.
    #[error(transparent)]
    Key(#[from] RequestError),
    /// No TLS.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// What is wrong with a certificate that was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Another mesh's.
    #[error("it is of trust domain {found}, and {wanted} was meant")]
    Domain {
        /// Which it is.
        found: String,
        /// Which was meant.
        wanted: TrustDomain,
    },
    /// Somebody else's.
    #[error("it is of {found}, and {wanted} was asked for")]
    Id {
        /// Whose it is.
        found: SpiffeId,
        /// Who was meant.
        wanted: SpiffeId,
    },
    /// The certificate.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// What is trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Both.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No peer would take it.
    #[error("no peer would take it: {0}")]
    Unsound(#[from] Refusal),
}

/// Everything that was tried, and what happened there.
#[derive(Debug)]
pub struct EnrolErrors(Vec<EnrolError>);

impl EnrolError {
    fn is_final(&self) -> bool {
        match self {
            Self::Proof(error) => error.is_final(),
            Self::Refused { is_final, .. } => *is_final,
            Self::Key(_) | Self::Tls(_) => true,
            Self::Control(_) | Self::Stranger(_) | Self::Unusable { .. } => false,
        }
    }
}

impl EnrolError {
    /// Control, or whoever is there, does not go by this certificate; it is not merely away.
    fn is_meant(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Stranger(_))
    }
}

impl EnrolErrors {
    /// Nothing gets better by trying again, anywhere.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.0.iter().all(EnrolError::is_final)
    }
}

impl fmt::Display for EnrolErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for EnrolErrors {}

/// What control is shown.
struct Shown {
    config: Arc<ClientConfig>,
    domain: TrustDomain,
    proof: Option<Proof>,
    /// Who is asked for.
    identity: Option<SpiffeId>,
    /// For people.
    name: String,
    /// A refusal of it may be taken back, or it may be another one by then.
    may_change: bool,
    /// What is said where control is not believed.
    doubt: String,
}

impl Enrolment {
    /// Asks each control in turn. The certificate that is held is the right to the next one; without
    /// one, and beside one that has ended, the proofs are.
    pub(super) async fn round(&self, held: Option<&Source>) -> Result<Identity, EnrolErrors> {
        let mut errors = Vec::new();
        for control in &self.control {
            match self.attempt(control, held).await {
                Ok(identity) => return Ok(identity),
                Err(EnrolErrors(more)) => errors.extend(more),
            }
        }
        Err(EnrolErrors(errors))
    }

    async fn attempt(&self, control: &str, held: Option<&Source>) -> Result<Identity, EnrolErrors> {
        let one = |error| EnrolErrors(vec![error]);
        let present = held.and_then(|source| Some((source, source.borrow().clone()?)));
        let Some((source, present)) = present else {
            let signed = self.by_proof(control, self.identity.clone()).await;
            return signed.map_err(one);
        };
        let refused = match self.by_certificate(control, source, present.svid()).await {
            Ok(identity) => return Ok(identity),
            Err(refused) => refused,
        };
        // A control that takes this certificate no more (revoked, another root) will not later on, so
        // another proof is shown at once.
        if SystemTime::now() <= present.svid().not_after() && !refused.is_meant() {
            return Err(one(refused));
        }
        // A token may have come meanwhile, and control's own user needs none.
        let id = present.svid().id().clone();
        match self.by_proof(control, Some(id)).await {
            Ok(identity) => Ok(identity),
            Err(EnrolError::Proof(ProofError::Nothing { .. })) => Err(one(refused)),
            Err(error) => Err(EnrolErrors(vec![refused, error])),
        }
    }

    async fn by_certificate(
        &self,
        control: &str,
        source: &Source,
        svid: &Svid,
    ) -> Result<Identity, EnrolError> {
        let domain = svid.trust_domain();
        let meant = Expected::One(pinned::control(&domain));
        let shown = Shown {
            config: tls::client(source.clone(), meant)?,
            domain,
            proof: None,
            identity: Some(svid.id().clone()),
            name: format!("certificate {}", svid.serial()),
            may_change: false,
            doubt: String::new(),
        };
        self.ask(control, shown).await
    }

    async fn by_proof(
        &self,
        control: &str,
        identity: Option<SpiffeId>,
    ) -> Result<Identity, EnrolError> {
        let right = self.proofs.find(control, self.node.as_str()).await?;
        let shown = Shown {
            config: right.dialled()?,
            domain: right.domain().clone(),
            proof: Some(right.proof()),
            identity,
            name: right.name(),
            may_change: right.may_change(),
            doubt: right.doubt(),
        };
        self.ask(control, shown).await
    }

    async fn ask(&self, control: &str, shown: Shown) -> Result<Identity, EnrolError> {
        let request = self.unanswered.request()?;
        let answer = self.ask_for(&request, control, shown).await;
        if !matches!(answer, Err(EnrolError::Control(_))) {
            self.unanswered.forget();
        }
        answer
    }

    async fn ask_for(
        &self,
        request: &Request,
        control: &str,
        shown: Shown,
    ) -> Result<Identity, EnrolError> {
        let Shown {
            config,
            domain,
            proof,
            identity: wanted,
            name,
            may_change,
            doubt,
        } = shown;
        let text = wanted.as_ref().map(|id| id.as_str().to_owned());
        let asked = SignRequest {
            csr: request.csr().to_vec(),
            node_id: self.node.as_str().to_owned(),
            identity: text.unwrap_or_default(),
            proof,
        };
        let lost = |error: ControlError| match error {
            ControlError::NotControl { .. } => EnrolError::Stranger(format!("{error}{doubt}")),
            _ => EnrolError::Control(error.to_string()),
        };
        let connected = connect(control, Some(config), &self.timing).await;
        let (channel, _) = connected.map_err(lost)?;
        let mut client = CertificatesClient::new(channel);
        let answer = timeout(self.timing.sign, client.sign(asked)).await;
        let answer = answer.map_err(|_| {
            lost(ControlError::Unsigned {
                address: control.to_owned(),
                waited: self.timing.sign,
            })
        })?;
        let signed = answer.map_err(|status| refused(control, name, may_change, &status))?;
        let identity = taken(request, signed.into_inner(), &domain, wanted.as_ref());
        let identity = identity.map_err(|why| EnrolError::Unusable {
            address: control.to_owned(),
            why,
        })?;
        self.keep(&identity, request);
        Ok(identity)
    }

    /// What was kept at an earlier run, if that was asked for and it is who is asked for now.
    pub(super) fn kept(&self) -> Option<Identity> {
        let folder = self.keep.as_ref()?;
        let kept = kept::load(folder, &self.node).unwrap_or_else(|error| {
            tracing::warn!(%error, "the kept certificate is left alone");
            None
        })?;
        let wanted = self.identity.as_ref();
        if let Some(wanted) = wanted.filter(|wanted| *wanted != kept.svid().id()) {
            let id = kept.svid().id();
            tracing::warn!(%id, %wanted, "the kept certificate is left alone: it is somebody else's");
            return None;
        }
        Some(kept)
    }

    /// What is trusted has changed: what is kept must say so, too.
    pub(super) fn retrust(&self, identity: &Identity) {
        if let Some(folder) = &self.keep
            && let Err(error) = kept::retrust(folder, &self.node, identity)
        {
            tracing::warn!(%error, "what is trusted now is not kept");
        }
    }

    fn keep(&self, identity: &Identity, request: &Request) {
        if let Some(folder) = &self.keep {
            // A kilobyte, once in a certificate's life.
            if let Err(error) = kept::store(folder, &self.node, identity, request.key()) {
                tracing::warn!(%error, "the certificate is not kept; a restart needs another proof");
            }
        }
    }
}

/// What control signed, as links take it.
fn taken(
    request: &Request,
    signed: SignResponse,
    domain: &TrustDomain,
    wanted: Option<&SpiffeId>,
) -> Result<Identity, Unusable> {
    if signed.trust_domain != domain.as_str() {
        return Err(Unusable::Domain {
            found: signed.trust_domain,
            wanted: domain.clone(),
        });
    }
    let (bundle, revoked) = trusted::read(domain, signed.trust.unwrap_or_default())?;
    let chain = signed.chain.into_iter().map(CertificateDer::from);
    let svid = request.signed(chain.collect())?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted != svid.id()) {
        return Err(Unusable::Id {
            found: svid.id().clone(),
            wanted: wanted.clone(),
        });
    }
    let identity = Identity::new(svid, bundle, revoked)?;
    identity.is_sound(SystemTime::now())?;
    Ok(identity)
}

/// Did TLS end the call?
fn is_tls(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        let inner = io.and_then(std::io::Error::get_ref);
        let within = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if within.is_some() || error.is::<rustls::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn refused(control: &str, right: String, may_change: bool, status: &Status) -> EnrolError {
    let reason = status.metadata().get(REASON_HEADER);
    let reason = reason.and_then(|reason| reason.to_str().ok());
    let meant = matches!(
        status.code(),
        Code::PermissionDenied
            | Code::Unauthenticated
            | Code::InvalidArgument
            | Code::FailedPrecondition
    );
    if !meant && reason.is_none() {
        let text = ControlError::failed(control, status).to_string();
        // In TLS 1.3 a client hears only after the handshake that it was not believed.
        return match is_tls(status) {
            true => EnrolError::Stranger(text),
            false => EnrolError::Control(text),
        };
    }
    EnrolError::Refused {
        address: control.to_owned(),
        right,
        reason: reason
            .map(|reason| format!("{reason}: "))
            .unwrap_or_default(),
        text: status.message().to_owned(),
        is_final: meant && !may_change,
    }
}
