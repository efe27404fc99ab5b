//! Bad logins without end, over HTTPS: what they cost the server, and whether good ones still get through.
//!
//! Once from one address, once from hundreds at the same time: every address of 127.0.0.0/8 is this machine. Each guess has a TLS
//! connection of its own, as it costs the server most. `TELEPORT_BENCH_SECONDS` is how long each flood lasts, if not five
//! minutes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use teleport_core::api::{ApiErrorKind, LoginRequest};
use teleport_core::cert::SubjectKeys;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::SystemEntropy;
use teleport_core::secret::SecretString;
use teleport_core::task::TaskScope;
use teleport_ssh::keys::{SshKeyPair, TlsKeyPair};
use teleport_ssh::proxy_web::{WebClient, WebError, WebTrust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::Scale;
use crate::cluster::{Cluster, Person};
use crate::report::{Goal, Row};

/// Guesses a minute.
const PER_MINUTE: u32 = 10_000;
/// From so many addresses, where they are many.
const ADDRESSES: u32 = 250;
/// How often somebody who means no harm logs in.
const GOOD_EVERY: Duration = Duration::from_secs(7);
/// Those who mean no harm, one after the other: nobody's code is good twice.
const PEOPLE: usize = 12;
const MIB: f64 = 1_048_576.0;

/// What became of a flood.
#[derive(Default)]
struct Outcome {
    /// How often each status was the answer; 0 is none.
    statuses: BTreeMap<u16, u64>,
}

/// Both floods.
///
/// # Errors
/// What fails beside the guesses.
pub async fn run(scale: Scale) -> Result<Vec<Row>> {
    let seconds = std::env::var("TELEPORT_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let length = Duration::from_secs(scale.of(seconds.unwrap_or(300), 2));
    let mut rows = Vec::new();
    for (addresses, from) in [(1, "one address"), (ADDRESSES, "250 addresses")] {
        rows.extend(flood(scale, length, addresses, from).await?);
    }
    Ok(rows)
}

async fn flood(scale: Scale, length: Duration, addresses: u32, from: &str) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let cluster = Cluster::start(dir.path())?;
    let mut people = Vec::new();
    for number in 0..scale.of(PEOPLE, 1) {
        people.push(cluster.person(&format!("person-{number}")).await?);
    }
    cluster.person("victim").await?;
    let guess = Arc::new(Guess::new(cluster.web)?);
    // What is made once.
    guess.send(0, "nobody").await;
    let (resident, cpu) = (cluster.server.resident()?, cluster.server.cpu()?);
    let began = Instant::now();
    let outcome = Arc::new(Mutex::new(Outcome::default()));
    let guesses = guess_all(guess, addresses, length, Arc::clone(&outcome));
    let good = good_logins(&cluster, &people, length, began);
    let watch = most_memory(&cluster, length, began);
    let ((), good, most) = tokio::join!(guesses, good, watch);
    let (good, most) = (good?, most?);
    let lasted = began.elapsed().as_secs_f64();
    let used = cluster.server.cpu()?.since(cpu).all / lasted * 100.0;
    let statuses = outcome.lock().unwrap_or_else(PoisonError::into_inner).statuses.clone();
    let sent = statuses.values().sum::<u64>() as f64;
    let of = |status: u16| statuses.get(&status).copied().unwrap_or(0) as f64;
    let slowest = good.iter().fold(0.0_f64, |most, (took, _)| most.max(*took));
    let again = good.iter().map(|(_, again)| f64::from(*again)).sum();
    let goal = |goal| if scale.smoke { Goal::Free } else { goal };
    Ok(vec![
        Row::alone(format!("bad logins from {from}"), "/min", sent / lasted * 60.0, Goal::Free),
        Row::alone("  looked at", "/min", of(403) / lasted * 60.0, Goal::Free),
        Row::alone("  without an answer", "", of(0), Goal::Free),
        Row::alone("  server CPU, of one core", "%", used, goal(Goal::AtMost(60.0))),
        Row::alone("  memory more than before", "MiB", (most - resident) / MIB, goal(Goal::AtMost(64.0))),
        Row::alone("  slowest good login meanwhile", "ms", slowest * 1e3, goal(Goal::AtMost(2000.0))),
        Row::alone("  good logins that had to ask again", "", again, Goal::Free),
    ])
}

/// Sends guesses at their pace, whether or not the earlier ones were answered.
async fn guess_all(guess: Arc<Guess>, addresses: u32, length: Duration, outcome: Arc<Mutex<Outcome>>) {
    let scope = TaskScope::new();
    let mut pace = tokio::time::interval(Duration::from_secs(60) / PER_MINUTE);
    let end = Instant::now() + length;
    for number in 0_u32.. {
        pace.tick().await;
        if Instant::now() >= end {
            break;
        }
        let (guess, outcome) = (Arc::clone(&guess), Arc::clone(&outcome));
        scope.spawn(async move {
            // A user who exists and is soon locked, and many who do not exist.
            let user = if number % 4 == 0 { "victim".to_owned() } else { format!("user-{}", number % 1000) };
            let status = guess.send(number % addresses, &user).await;
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            *outcome.statuses.entry(status).or_default() += 1;
        });
    }
    scope.join().await;
}

/// How long each good login took, in seconds, and how often it was turned away and asked again.
async fn good_logins(
    cluster: &Cluster,
    people: &[Person],
    length: Duration,
    began: Instant,
) -> Result<Vec<(f64, u32)>> {
    let clock = Arc::new(SystemClock::new());
    let web = WebClient::new(
        cluster.web.to_string(),
        WebTrust::bundle(people_trust(cluster).await?),
        clock.clone(),
    );
    let mut took = Vec::new();
    for person in people.iter().cycle() {
        let request = LoginRequest {
            user: person.name.clone(),
            password: person.password.clone(),
            code: person.code(clock.now())?,
            keys: keys()?,
            ttl: None,
            client_ip: None,
        };
        let (before, mut again) = (Instant::now(), 0);
        loop {
            match web.login(&request).await {
                Ok(_) => break,
                Err(WebError::Api(error)) if error.kind() == ApiErrorKind::TooMany => again += 1,
                Err(error) => bail!("a good login: {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        took.push((before.elapsed().as_secs_f64(), again));
        if began.elapsed() + GOOD_EVERY >= length {
            break;
        }
        tokio::time::sleep(GOOD_EVERY).await;
    }
    Ok(took)
}

async fn people_trust(cluster: &Cluster) -> Result<teleport_core::cert::TrustBundle> {
    use teleport_core::api::TrustApi as _;
    Ok(cluster.admin()?.trust().await?)
}

/// The most memory that the server had.
async fn most_memory(cluster: &Cluster, length: Duration, began: Instant) -> Result<f64> {
    let mut most = 0.0_f64;
    while began.elapsed() < length {
        most = most.max(cluster.server.resident()?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(most)
}

fn keys() -> Result<SubjectKeys> {
    let entropy = SystemEntropy::new();
    let (ssh, tls) = (SshKeyPair::generate(&entropy)?, TlsKeyPair::generate(&entropy)?);
    Ok(SubjectKeys { ssh: ssh.public(), tls: tls.public() })
}

/// Who guesses: as cheaply as it can, and without looking whom it talks to.
struct Guess {
    web: SocketAddr,
    tls: TlsConnector,
    keys: SubjectKeys,
}

impl Guess {
    fn new(web: SocketAddr) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        // A handshake of its own for each.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { web, tls: TlsConnector::from(Arc::new(config)), keys: keys()? })
    }

    /// The status of the answer, 0 without one.
    async fn send(&self, address: u32, user: &str) -> u16 {
        let sent = tokio::time::timeout(Duration::from_secs(30), self.exchange(address, user)).await;
        sent.ok().and_then(Result::ok).unwrap_or(0)
    }

    async fn exchange(&self, address: u32, user: &str) -> Result<u16> {
        let request = LoginRequest {
            user: user.to_owned(),
            password: SecretString::new("not the password at all"),
            code: SecretString::new("000000"),
            keys: self.keys.clone(),
            ttl: None,
            client_ip: None,
        };
        let body = serde_json::to_vec(&request)?;
        let socket = TcpSocket::new_v4()?;
        let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 3, 0, 1).to_bits() + address);
        socket.bind((source, 0).into())?;
        let stream = socket.connect(self.web).await?;
        stream.set_nodelay(true)?;
        let mut stream = self.tls.connect(ServerName::try_from("localhost")?, stream).await?;
        let head = format!(
            "POST /webapi/login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), &body].concat()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        answer.split(' ').nth(1).context("no answer")?.parse().context("no status")
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
