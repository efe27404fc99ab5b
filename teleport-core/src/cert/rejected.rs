//! Why a certificate is not accepted. For logs and audit, never for the peer.

/// Why a certificate is not accepted.
///
/// The texts are for the log and the audit event. The peer hears that access was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum CertRejected {
    /// It was not signed by an authority of the right kind.
    #[error("the signing key is not a trusted authority of this kind")]
    Authority,
    /// An algorithm that is not accepted, for the key or the signature.
    #[error("the algorithm of the key or of the signature is not accepted")]
    Algorithm,
    /// It is over.
    #[error("the certificate has expired")]
    Expired,
    /// A text in it has a forbidden form: key id, role, trait, cluster.
    #[error("a field of the certificate has a forbidden form")]
    Field,
    /// It is a host certificate where a user's is asked, or the reverse.
    #[error("the certificate is of the wrong kind")]
    Kind,
    /// It lasts longer than any certificate may.
    #[error("the certificate's life is longer than allowed")]
    Lifetime,
    /// The requested login is not among the principals.
    #[error("the login is not among the certificate's principals")]
    Login,
    /// It is not a well-formed certificate, is too large, or nests another one.
    #[error("the certificate is malformed")]
    Malformed,
    /// It is not valid yet: the clocks differ, or it was made for later.
    #[error("the certificate is not yet valid (check the clocks)")]
    NotYetValid,
    /// It does not name the host, role or cluster that was expected.
    #[error("the certificate names another host, role or cluster")]
    Name,
    /// A critical option that is not known, or has no valid value.
    #[error("the certificate has a critical option that is unknown or invalid")]
    Option,
    /// Principals: none, too many, or with forbidden characters.
    #[error("the certificate's principals are empty, too many or malformed")]
    Principals,
    /// The signature does not verify.
    #[error("the certificate's signature is wrong")]
    Signature,
    /// The peer's address is not one of those the certificate is bound to.
    #[error("the certificate is bound to another source address")]
    SourceAddress,
}
