//! One attempt at a certificate: account, order, proofs, certificate.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, Error, ExternalAccountKey, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use zeroize::Zeroizing;

use super::config::AcmeConfig;
use super::error::{About, AcmeError, kind, passes};
use super::http::Http;
use super::proofs::Proofs;
use super::store::{Attempts, Kept, KeptAccount, KeptOrder, Store};
use crate::keys::TlsKeyPair;
use crate::proxy_web::CertificateError;

/// How often the authority is asked how far it is, and for how long.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(240));

pub(super) struct Attempt<'a> {
    pub(super) config: &'a AcmeConfig,
    pub(super) store: &'a Store,
    pub(super) proofs: &'a Proofs,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) entropy: &'a dyn Entropy,
}

impl Attempt<'_> {
    /// Goes on with the order of `attempts` if there is one, else begins one.
    pub(super) async fn run(&self, attempts: &mut Attempts) -> Result<Kept, AcmeError> {
        let unreachable =
            |error: rustls::Error| self.error(About::Account, Error::Other(Box::new(error)), None);
        let http = Http::new(self.config.roots.clone(), Arc::clone(self.clock)).map_err(unreachable)?;
        let wrong = |error| self.error(About::Account, error, http.after());
        let mut account = self.account(&http).await?;
        let mut order = match self.resume(&account, attempts).await {
            Ok(Some(order)) => order,
            Ok(None) => match self.begin(&account).await {
                // The authority has forgotten it.
                Err(Error::Api(problem)) if kind(&problem) == "accountDoesNotExist" => {
                    account = self.new_account(&http).await?;
                    self.begin(&account).await.map_err(wrong)?
                }
                begun => begun.map_err(wrong)?,
            },
            Err(error) => return Err(wrong(error)),
        };
        let key = match &attempts.order {
            Some(kept) => kept.key.clone(),
            None => {
                let key = Zeroizing::new(self.new_key()?);
                attempts.order = Some(KeptOrder { url: order.url().to_owned(), key: key.clone() });
                self.store.keep_attempts(attempts)?;
                key
            }
        };
        let result = self.finish(&mut order, &key).await;
        // An order that was refused is over; one that was only interrupted is gone on with.
        if let Err(Failure::Refused(_)) = &result {
            attempts.order = None;
        }
        let chain = result.map_err(|failure| {
            let error = match failure {
                Failure::Refused(problem) => Error::Api(problem),
                Failure::Interrupted(error) => error,
            };
            self.error(About::Names, error, http.after())
        })?;
        let kept = Kept { directory: self.config.directory.clone(), key, chain };
        if !self.config.covered_by(&kept.read()?) {
            return Err(
                CertificateError { reason: "it is for other names than those that were ordered" }.into()
            );
        }
        Ok(kept)
    }

    fn error(&self, about: About, error: Error, after: Option<Duration>) -> AcmeError {
        AcmeError::of(&self.config.directory, about, error, after)
    }

    async fn account(&self, http: &Http) -> Result<Account, AcmeError> {
        let Some(mut kept) = self.store.account(&self.config.directory)? else {
            return self.new_account(http).await;
        };
        let external = self.external_id();
        if external.is_some() && kept.external != external {
            return self.new_account(http).await;
        }
        let wrong = |error| self.error(About::Account, error, http.after());
        // They can be had once: they are read again for the file.
        let builder = Account::builder_with_http(Box::new(http.clone()));
        let account = builder.from_credentials(kept.credentials).await.map_err(wrong)?;
        if kept.email != self.config.email {
            let contacts = self.contacts();
            let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
            match account.update_contacts(&contacts).await {
                Err(Error::Api(problem)) if kind(&problem) == "accountDoesNotExist" => {
                    return self.new_account(http).await;
                }
                updated => updated.map_err(wrong)?,
            }
            if let Some(again) = self.store.account(&self.config.directory)? {
                kept = KeptAccount { email: self.config.email.clone(), ..again };
                self.store.keep_account(&kept)?;
            }
        }
        Ok(account)
    }

    fn contacts(&self) -> Vec<String> {
        self.config.email.iter().map(|email| format!("mailto:{email}")).collect()
    }

    /// The id of the account that ours is to belong to.
    fn external_id(&self) -> Option<String> {
        self.config.external.as_ref().map(|external| external.id.clone())
    }

    async fn new_account(&self, http: &Http) -> Result<Account, AcmeError> {
        let contacts = self.contacts();
        let contact: Vec<&str> = contacts.iter().map(String::as_str).collect();
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let directory = self.config.directory.clone();
        let builder = Account::builder_with_http(Box::new(http.clone()));
        let external = self.config.external.as_ref();
        let about = external.map_or(About::Account, |_| About::ExternalAccount);
        let external = external.map(|known| ExternalAccountKey::new(known.id.clone(), &known.key));
        let created = builder.create(&new, directory.clone(), external.as_ref()).await;
        let (account, credentials) = created.map_err(|error| self.error(about, error, http.after()))?;
        // Before it is used: each account counts at the authority.
        let (email, external) = (self.config.email.clone(), self.external_id());
        self.store.keep_account(&KeptAccount { directory, email, credentials, external })?;
        Ok(account)
    }

    /// The order that was begun, if there is one and something can still become of it.
    async fn resume(&self, account: &Account, attempts: &mut Attempts) -> Result<Option<Order>, Error> {
        let Some(kept) = &attempts.order else { return Ok(None) };
        match account.order(kept.url.clone()).await {
            Ok(mut order) => {
                if order.state().status != OrderStatus::Invalid {
                    return Ok(Some(order));
                }
            }
            // It is not known any more.
            Err(Error::Api(problem)) if !passes(&problem) => {}
            Err(error) => return Err(error),
        }
        attempts.order = None;
        Ok(None)
    }

    async fn begin(&self, account: &Account) -> Result<Order, Error> {
        let names: Vec<Identifier> = self.config.names.iter().cloned().map(Identifier::Dns).collect();
        account.new_order(&NewOrder::new(&names)).await
    }

    fn new_key(&self) -> Result<String, AcmeError> {
        let key = TlsKeyPair::generate(self.entropy)
            .map_err(|error| self.error(About::Account, Error::Other(Box::new(error)), None))?;
        Ok(key.to_pem().expose().to_owned())
    }

    async fn finish(&self, order: &mut Order, key: &str) -> Result<String, Failure> {
        if order.state().status == OrderStatus::Pending {
            self.prove(order).await?;
            match order.poll_ready(&POLL).await {
                Ok(OrderStatus::Invalid) => return Err(Failure::Refused(reason(order, None).await)),
                Ok(_) => {}
                Err(error) => {
                    return Err(match Failure::of(error) {
                        Failure::Refused(problem) => Failure::Refused(reason(order, Some(problem)).await),
                        interrupted => interrupted,
                    });
                }
            }
        }
        if order.state().status == OrderStatus::Ready {
            let request =
                self.request(key).map_err(|error| Failure::Interrupted(Error::Other(Box::new(error))))?;
            order.finalize_csr(&request).await.map_err(Failure::of)?;
        }
        order.poll_certificate(&POLL).await.map_err(Failure::of)
    }

    /// Shows the proofs that are asked for, and says that they can be looked at.
    async fn prove(&self, order: &mut Order) -> Result<(), Failure> {
        let kind = self.proofs.kind();
        let mut proofs = Vec::new();
        let mut all = order.authorizations();
        while let Some(one) = all.next().await {
            let mut one = one.map_err(Failure::of)?;
            if one.status != AuthorizationStatus::Pending {
                continue;
            }
            let name = one.identifier().to_string();
            // Nothing is proved that was not ordered, whatever the authority says.
            if !self.config.names.contains(&name) {
                return Err(Failure::Refused(problem("it asks about a name that was not ordered")));
            }
            let challenge = one.challenge(kind.clone());
            let challenge = challenge.ok_or_else(|| {
                Failure::Refused(problem(
                    "it takes no proof of this kind: choose between the web port and http_listen_addr",
                ))
            })?;
            let proof = self.proofs.of(&name, &challenge.token, &challenge.key_authorization());
            proofs.push(proof.map_err(|error| Failure::Interrupted(Error::Other(Box::new(error))))?);
        }
        self.proofs.show(proofs);
        let mut all = order.authorizations();
        while let Some(one) = all.next().await {
            let mut one = one.map_err(Failure::of)?;
            if one.status != AuthorizationStatus::Pending {
                continue;
            }
            if let Some(mut challenge) = one.challenge(kind.clone())
                && challenge.status == ChallengeStatus::Pending
            {
                challenge.set_ready().await.map_err(Failure::of)?;
            }
        }
        Ok(())
    }

    /// What asks for the certificate.
    fn request(&self, key: &str) -> Result<Vec<u8>, rcgen::Error> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        let key = KeyPair::try_from(&key)?;
        let mut params = CertificateParams::new(self.config.names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&key)?.der().to_vec())
    }
}

/// How an order has ended without a certificate.
enum Failure {
    /// The authority refuses it.
    Refused(Problem),
    /// It can be gone on with.
    Interrupted(Error),
}

impl Failure {
    fn of(error: Error) -> Self {
        match error {
            Error::Api(problem) if !passes(&problem) => Self::Refused(problem),
            error => Self::Interrupted(error),
        }
    }
}

/// Why an order was refused, which is said where its names were looked at.
async fn reason(order: &mut Order, general: Option<Problem>) -> Problem {
    let mut all = order.authorizations();
    while let Some(one) = all.next().await {
        let Ok(mut one) = one else { continue };
        let name = one.identifier().to_string();
        let Ok(state) = one.refresh().await else { continue };
        let problem: Option<Problem> = state.challenges.iter().find_map(|challenge| challenge.error.clone());
        if let Some(mut problem) = problem {
            let detail = problem.detail.take().unwrap_or_default();
            problem.detail = Some(format!("{name}: {detail}"));
            return problem;
        }
    }
    general.unwrap_or_else(|| problem("the order was refused"))
}

fn problem(text: &str) -> Problem {
    Problem { r#type: None, detail: Some(text.to_owned()), status: None, subproblems: Vec::new() }
}
