//! A certificate that is ordered, kept and renewed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::cert::SERVICE_DNS_NAME;
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::acme::{Acme, AcmeConfig};
use teleport_ssh::proxy_web::WebCertificates;

use crate::diagnostics::{diagnostics, figure, get};
use crate::support::daemon::{Machine, fixed_port, mode};
use crate::support::pebble::{Pebble, Plan, shown, verified};
use crate::support::{LIMIT, wait_for};

const NAME: &str = "proxy.example.com";

/// A cluster on one machine whose proxy has a certificate by ACME.
pub(super) fn configure(machine: &Machine, web: u16, acme: &str) {
    let services = format!(
        "auth_service:\n  enabled: yes\n  cluster_name: test.local\n  listen_addr: 127.0.0.1:0\n\
         proxy_service:\n  enabled: yes\n  web_listen_addr: 127.0.0.1:{web}\n  listen_addr: 127.0.0.1:0\n  \
         public_addr: [{NAME}, second.example.com]\n  acme: {acme}\n\
         ssh_service:\n  enabled: no\n"
    );
    machine.configure("all", "", &services);
}

pub(super) fn acme(pebble: &Pebble, more: &str) -> String {
    let file = pebble.ca_file();
    format!(
        "{{enabled: yes, email: admin@example.com, uri: '{}', ca_file: {}{more}}}",
        pebble.directory(),
        file.display()
    )
}

pub(super) fn kept(machine: &Machine, name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(machine.path("all").join("acme").join(name)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

#[test]
fn a_proxy_orders_one_for_its_names_and_keeps_it() {
    let plan = Plan::new();
    let pebble = Pebble::start_with(&plan, &[("PEBBLE_WFE_NONCEREJECT", "5")]);
    let machine = Machine::new();
    configure(&machine, plan.tls_port, &acme(&pebble, ""));
    let daemon = machine.start("all", &["--diag-addr=127.0.0.1:0"]);
    let root = pebble.root();
    for name in [NAME, "second.example.com"] {
        wait_for("the certificate", || verified(plan.tls_port, name, &root).then_some(()));
    }
    let left = figure(diagnostics(&daemon), "teleport_web_certificate_left_seconds", "proxy-web");
    assert!((89.0 * 86_400.0..=90.0 * 86_400.0).contains(&left), "{left}");
    assert!(get(diagnostics(&daemon), "/readyz").0.contains("200"));
    // Names that a client sends are not ordered, and nothing is proved that is not asked for.
    let first = shown(plan.tls_port, NAME, &[]).unwrap();
    assert_eq!(shown(plan.tls_port, "evil.example.com", &[]).unwrap(), first);
    // Who knows the cluster asks for its own name and sees its own certificate.
    assert_ne!(shown(plan.tls_port, SERVICE_DNS_NAME, &[]).unwrap(), first);
    for name in [NAME, "evil.example.com"] {
        assert_eq!(shown(plan.tls_port, name, &["-alpn", "acme-tls/1"]), None, "{name}");
    }
    assert_eq!(shown(plan.tls_port, NAME, &["-alpn", "acme-tls/1,h2"]).unwrap(), first);
    assert!(!pebble.log().contains("evil.example.com"), "{}", pebble.log());
    let dir = machine.path("all").join("acme");
    assert_eq!(mode(&dir), 0o700);
    for file in ["account.json", "certificate.json", "attempts.json"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    assert!(!daemon.logged().contains("PRIVATE KEY"), "{}", daemon.logged());
    daemon.stop();
    let daemon = machine.start("all", &[]);
    assert_eq!(shown(plan.tls_port, NAME, &[]).unwrap(), first, "from the first connection on");
    daemon.stop();
    assert_eq!(pebble.orders(), 1, "{}", pebble.log());
}

#[test]
fn names_can_be_proved_by_http() {
    let plan = Plan::new();
    let pebble = Pebble::start(&plan);
    let machine = Machine::new();
    let web = fixed_port();
    configure(&machine, web, &acme(&pebble, &format!(", http_listen_addr: '127.0.0.1:{}'", plan.http_port)));
    let daemon = machine.start("all", &[]);
    let root = pebble.root();
    wait_for("the certificate", || verified(web, NAME, &root).then_some(()));
    let port = (std::net::Ipv4Addr::LOCALHOST, plan.http_port).into();
    for path in ["/", "/.well-known/acme-challenge/", "/.well-known/acme-challenge/unknown", "/v1/ping"] {
        let (head, body) = get(port, path);
        assert!(head.starts_with("HTTP/1.1 404") && body.is_empty(), "{path}: {head}");
    }
    daemon.stop();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", plan.http_port)).unwrap();
    let refusal = machine.cannot_start("all", &[]);
    assert!(refusal.contains("http_listen_addr"), "{refusal}");
}

/// The clock of this machine, so much later.
#[derive(Debug)]
struct Later(Duration);

impl Clock for Later {
    fn now(&self) -> Timestamp {
        SystemClock::new().now().saturating_add(self.0)
    }
}

/// Looks after a certificate until there is one that is not `before`, which is the one that is kept.
async fn keep(pebble: &Pebble, dir: &Path, plan: &Plan, later: Duration, before: &str) -> String {
    let root = roots(&pebble.ca_file());
    let config = AcmeConfig::new([NAME]).unwrap().directory(&pebble.directory()).unwrap().roots(root);
    let certificates = WebCertificates::default();
    let acme =
        Acme::open(config, dir, certificates.clone(), Arc::new(Later(later)), Arc::new(SystemEntropy::new()))
            .unwrap();
    let acme = acme.prove_by_http(([127, 0, 0, 1], plan.http_port).into()).unwrap();
    assert_eq!(certificates.first_end().is_some(), !before.is_empty());
    let (tasks, shutdown) = (TaskScope::new(), Shutdown::new());
    tasks.spawn(acme.run(shutdown.clone()));
    let new = async {
        loop {
            let kept = std::fs::read_to_string(dir.join("certificate.json")).unwrap_or_default();
            if kept != before && certificates.first_end().is_some() {
                return kept;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let kept = tokio::time::timeout(LIMIT, new).await.expect("a new certificate");
    shutdown.drain();
    tokio::time::timeout(LIMIT, tasks.join()).await.expect("the end");
    kept
}

fn roots(file: &Path) -> Vec<Vec<u8>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    vec![CertificateDer::from_pem_file(file).unwrap().to_vec()]
}

#[tokio::test]
async fn it_is_renewed_at_two_thirds_of_its_life_and_not_again_and_again() {
    let plan = Plan::new();
    // The second order finds its names proved.
    let pebble = Pebble::start_with(&plan, &[("PEBBLE_AUTHZREUSE", "100")]);
    let dir = tempfile::tempdir().unwrap();
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let first = keep(&pebble, dir.path(), &plan, Duration::ZERO, "").await;
    assert_eq!(pebble.orders(), 1);
    keep(&pebble, dir.path(), &plan, days(61), &first).await;
    assert_eq!(pebble.orders(), 2, "{}", pebble.log());
    // By that clock the new one is as old as the other was, and it is let be for a week all the same.
    let attempts = std::fs::read_to_string(dir.path().join("attempts.json")).unwrap();
    let attempts: serde_json::Value = serde_json::from_str(&attempts).unwrap();
    let next: Timestamp = serde_json::from_value(attempts["not_before"].clone()).unwrap();
    let rests = next.saturating_since(Later(days(61)).now());
    assert!((days(7)..days(8)).contains(&rests), "{rests:?}");
}
