//! Why there is no certificate.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use instant_acme::{Error, Problem};

use super::plan::Class;
use crate::proxy_web::CertificateError;

/// The longest text of an authority that is repeated.
const MAX_TEXT: usize = 600;

/// Why there is no certificate of an authority.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeError {
    /// The authority has issued something that cannot be used.
    #[error("what the authority has issued cannot be used")]
    Certificate(#[from] CertificateError),
    /// A file cannot be used.
    #[error("{} cannot be used", path.display())]
    Files {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The authority says that it was asked too often.
    #[error("{directory} was asked too often: {said}")]
    Limited {
        /// The authority's directory.
        directory: String,
        /// What it said.
        said: String,
        /// When to come back, if it said so.
        after: Option<Duration>,
    },
    /// The authority has refused.
    #[error("{directory} has refused: {said}{advice}")]
    Refused {
        /// The authority's directory.
        directory: String,
        /// What it said.
        said: String,
        /// What can be done about it; empty or begins with a semicolon.
        advice: &'static str,
    },
    /// An order took too long. It is gone on with.
    #[error("{directory} has not finished the order in time")]
    TooSlow {
        /// The authority's directory.
        directory: String,
    },
    /// The authority cannot be asked.
    #[error("cannot ask {directory}")]
    Unreachable {
        /// The authority's directory.
        directory: String,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The account, or what it may order.
    Account,
    /// A new account that belongs to one of another kind.
    ExternalAccount,
    /// The names of an order.
    Names,
}

impl AcmeError {
    pub(super) fn class(&self) -> Class {
        match self {
            Self::Limited { after, .. } => Class::Limited(*after),
            Self::Certificate(_) | Self::Files { .. } | Self::Refused { .. } => Class::Refused,
            Self::TooSlow { .. } | Self::Unreachable { .. } => Class::Unreachable,
        }
    }

    /// What went wrong with a request about this; `after` is what the last answer said about coming back.
    pub(super) fn of(directory: &str, about: About, error: Error, after: Option<Duration>) -> Self {
        let directory = directory.to_owned();
        match error {
            Error::Api(problem) => Self::problem(directory, about, &problem, after),
            Error::Timeout(_) => Self::TooSlow { directory },
            error => match after {
                Some(_) => Self::Limited { directory, said: one_line(&error.to_string()), after },
                None => Self::Unreachable { directory, source: error.into() },
            },
        }
    }

    /// What the authority said.
    fn problem(directory: String, about: About, problem: &Problem, after: Option<Duration>) -> Self {
        let mut said = problem.detail.clone().unwrap_or_else(|| "it gave no reason".to_owned());
        for part in &problem.subproblems {
            said.push_str("; ");
            said.push_str(&part.to_string());
        }
        let said = one_line(&said);
        let advice = match kind(problem) {
            "rateLimited" => return Self::Limited { directory, said, after },
            "badNonce" | "serverInternal" => return Self::Unreachable { directory, source: said.into() },
            "userActionRequired" => {
                "; somebody must agree to its new terms: do what it says, or stop the proxy and remove acme/account.json, for a new account, which agrees"
            }
            "invalidContact" | "unsupportedContact" => "; correct the email",
            "externalAccountRequired" => {
                "; its accounts belong to those that it has made itself: write eab_kid and eab_hmac_file, as it gives them"
            }
            "unauthorized" | "malformed" | "badSignatureAlgorithm" if about == About::ExternalAccount => {
                "; check eab_kid and eab_hmac_file"
            }
            "unauthorized" if about != About::Names => {
                "; it does not let this account order: ask it why, or stop the proxy and remove acme/account.json, for a new account"
            }
            "rejectedIdentifier" | "unsupportedIdentifier" => "; correct the public_addr",
            "connection" | "dns" | "tls" | "unauthorized" | "incorrectResponse" => {
                "; every name must lead to this proxy, for TLS-ALPN-01 at port 443 and for HTTP-01 at port 80"
            }
            "caa" => "; a CAA record in the DNS forbids it",
            _ => "",
        };
        Self::Refused { directory, said, advice }
    }
}

/// Whether a problem is one of the moment, which says nothing about what was asked for.
pub(super) fn passes(problem: &Problem) -> bool {
    matches!(kind(problem), "badNonce" | "rateLimited" | "serverInternal")
}

/// The kind of a problem, as RFC 8555 names them.
pub(super) fn kind(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or_default()
}

/// Text of others in one line, and not too long.
fn one_line(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn of(kind: &str, detail: &str, after: Option<Duration>) -> AcmeError {
        about(About::Names, kind, detail, after)
    }

    fn about(about: About, kind: &str, detail: &str, after: Option<Duration>) -> AcmeError {
        let problem =
            serde_json::json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail });
        let problem: Problem = serde_json::from_value(problem).unwrap();
        AcmeError::of("https://ca.example.com/dir", about, Error::Api(problem), after)
    }

    #[test]
    fn problems_are_told_in_one_line_with_what_to_do() {
        for (kind, part) in [
            ("rejectedIdentifier", "correct the public_addr"),
            ("invalidContact", "correct the email"),
            ("userActionRequired", "agree"),
            ("connection", "port 443"),
            ("somethingNew", "has refused: because"),
        ] {
            let error = of(kind, "because\nof", None);
            let text = error.to_string();
            assert!(text.contains(part) && !text.contains('\n'), "{text}");
            assert_eq!(error.class(), Class::Refused);
        }
        assert!(of("connection", &"x".repeat(100_000), None).to_string().len() < 1000);
    }

    #[test]
    fn what_can_be_done_depends_on_what_was_asked_for() {
        for (what, kind, part) in [
            (About::Names, "unauthorized", "port 443"),
            (About::Account, "unauthorized", "remove acme/account.json"),
            (About::ExternalAccount, "unauthorized", "check eab_kid"),
            (About::ExternalAccount, "malformed", "check eab_kid"),
            (About::Account, "userActionRequired", "remove acme/account.json"),
            (About::Account, "externalAccountRequired", "write eab_kid and eab_hmac_file"),
        ] {
            let text = about(what, kind, "because", None).to_string();
            assert!(text.contains(part), "{what:?} {kind}: {text}");
        }
        assert!(!about(About::Account, "malformed", "because", None).to_string().contains("eab"));
    }

    #[test]
    fn the_authority_says_when_to_come_back() {
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(of("rateLimited", "too many", hour).class(), Class::Limited(hour));
        assert_eq!(of("rateLimited", "too many", None).class(), Class::Limited(None));
        assert_eq!(of("serverInternal", "busy", None).class(), Class::Unreachable);
        let busy = AcmeError::of("https://ca.example.com/dir", About::Names, Error::Str("HTTP 503"), hour);
        assert_eq!(busy.class(), Class::Limited(hour));
        let gone = AcmeError::of("https://ca.example.com/dir", About::Names, Error::Str("gone"), None);
        assert_eq!(gone.class(), Class::Unreachable);
    }
}
