//! What control says is trusted, taken in: whole, or not at all.

use sidelane_identity::{
    Bundle, BundleError, CertificateDer, IdError, IdentityError, Revoked, RevokedError, Serial,
    SpiffeId, TrustDomain,
};
use sidelane_proto::wire::control::v1 as wire;

/// Why what control says of trust is not taken. What was trusted stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The roots.
    #[error("control's roots cannot be used: {0}")]
    Roots(#[from] BundleError),
    /// Too many revocations.
    #[error("control's revocations cannot be used: {0}")]
    Revoked(#[from] RevokedError),
    /// Somebody without a name is revoked.
    #[error("control revoked what is no identity: {0}")]
    Name(#[from] IdError),
    /// It is another mesh's.
    #[error("{0}")]
    Identity(#[from] IdentityError),
}

/// Reads it.
pub(super) fn read(
    domain: &TrustDomain,
    told: wire::Trust,
) -> Result<(Bundle, Revoked), TrustError> {
    let roots = told.roots.into_iter().map(CertificateDer::from).collect();
    let bundle = Bundle::new(domain.clone(), roots)?;
    let mut revoked = Revoked::default();
    for serial in &told.revoked_serials {
        revoked.serial(Serial::new(serial))?;
    }
    for identity in &told.revoked_identities {
        revoked.identity(SpiffeId::new(identity)?)?;
    }
    Ok((bundle, revoked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_taken_whole_or_not_at_all() {
        let domain = TrustDomain::new("mesh.example").unwrap();
        let root = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&root).unwrap().der().to_vec();
        let told = wire::Trust {
            revision: 1,
            roots: vec![root.clone()],
            revoked_serials: vec![vec![0, 7]],
            revoked_identities: vec!["spiffe://mesh.example/a".to_owned()],
        };
        let (bundle, revoked) = read(&domain, told.clone()).unwrap();
        assert_eq!((bundle.roots().len(), revoked.len()), (1, 2));
        let id = SpiffeId::new("spiffe://mesh.example/b").unwrap();
        assert!(revoked.names(&id, &Serial::new(&[7]), &[0; 32]));
        let wrong = |change: fn(&mut wire::Trust)| {
            let mut told = told.clone();
            change(&mut told);
            read(&domain, told).unwrap_err()
        };
        assert!(matches!(wrong(|it| it.roots.clear()), TrustError::Roots(_)));
        let broken = wrong(|it| it.roots[0].truncate(9));
        assert!(matches!(broken, TrustError::Roots(_)));
        let nobody = wrong(|it| it.revoked_identities.push("orders".to_owned()));
        assert!(matches!(nobody, TrustError::Name(_)));
        let many = wrong(|it| {
            let limit = u64::try_from(sidelane_identity::REVOKED_LIMIT).unwrap();
            let serials = (100..=100 + limit).map(|number| number.to_be_bytes().to_vec());
            it.revoked_serials = serials.collect();
        });
        assert!(matches!(many, TrustError::Revoked(_)));
    }
}
