//! Authorities that refuse, and networks that break.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use teleport_core::clock::{Clock as _, SystemClock, Timestamp};

use super::by_acme::{acme, configure, kept};
use crate::support::daemon::{Machine, fixed_port};
use crate::support::pebble::{Pebble, Plan, shown, verified};
use crate::support::relay::join;
use crate::support::wait_for;

const NAME: &str = "proxy.example.com";

/// A machine whose proxy has a certificate, and is stopped.
fn with_certificate(plan: &Plan, pebble: &Pebble) -> Machine {
    let machine = Machine::new();
    configure(&machine, plan.tls_port, &acme(pebble, ""));
    let daemon = machine.start("all", &[]);
    wait_for("the certificate", || {
        daemon.logged().contains("there is a certificate for browsers").then_some(())
    });
    daemon.stop();
    machine
}

/// Makes the next attempt due at once.
fn make_due(machine: &Machine) {
    make_due_at(machine, Timestamp::EPOCH);
}

fn make_due_at(machine: &Machine, at: Timestamp) {
    let mut attempts = kept(machine, "attempts.json");
    attempts["not_before"] = serde_json::to_value(at).unwrap();
    // In place: the file keeps its mode.
    std::fs::write(machine.path("all").join("acme/attempts.json"), attempts.to_string()).unwrap();
}

#[test]
fn what_is_refused_is_told_and_not_ordered_again_by_a_restart() {
    let plan = Plan::new();
    let pebble = Pebble::start(&plan);
    let machine = Machine::new();
    let begin = SystemClock::new().now();
    // Where the authority looks there is nobody.
    let elsewhere = fixed_port();
    configure(&machine, elsewhere, &acme(&pebble, ""));
    let daemon = machine.start("all", &[]);
    let refusal = wait_for("the refusal", || {
        daemon.logged().lines().find(|line| line.contains("has refused")).map(str::to_owned)
    });
    for part in
        ["there is no new certificate", "example.com:", "must lead to this proxy", "port 443", "again="]
    {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    let root = pebble.root();
    assert!(shown(elsewhere, NAME, &[]).is_some() && !verified(elsewhere, NAME, &root), "the cluster's own");
    let failures = || kept(&machine, "attempts.json")["failures"].as_u64().unwrap_or_default();
    wait_for("the attempt to be kept", || (failures() > 0).then_some(()));
    daemon.stop();
    let (failed, orders) = (failures(), pebble.orders());
    let not_before = kept(&machine, "attempts.json")["not_before"].clone();
    let not_before: Timestamp = serde_json::from_value(not_before).unwrap();
    assert!(not_before >= begin.saturating_add(Duration::from_secs(60)), "{not_before}");
    // However long the next start takes, it is before that.
    make_due_at(&machine, SystemClock::new().now().saturating_add(Duration::from_secs(24 * 3600)));
    let daemon = machine.start("all", &[]);
    assert!(shown(elsewhere, NAME, &[]).is_some() && !verified(elsewhere, NAME, &root), "the cluster's own");
    daemon.stop();
    assert_eq!((failures(), pebble.orders()), (failed, orders), "{}", pebble.log());
    // What was wrong is corrected, and somebody does not want to wait.
    configure(&machine, plan.tls_port, &acme(&pebble, ""));
    make_due(&machine);
    let daemon = machine.start("all", &[]);
    wait_for("the certificate", || verified(plan.tls_port, NAME, &root).then_some(()));
    daemon.stop();
    assert_eq!(pebble.orders(), orders + 1, "{}", pebble.log());
}

#[test]
fn an_authority_that_was_away_and_has_forgotten_the_account_is_asked_again() {
    let plan = Plan::new();
    let pebble = Pebble::start(&plan);
    let machine = with_certificate(&plan, &pebble);
    let account = kept(&machine, "account.json");
    std::fs::copy(pebble.ca_file(), machine.path("old.pem")).unwrap();
    let old = acme(&pebble, "")
        .replace(&pebble.ca_file().display().to_string(), &machine.path("old.pem").display().to_string());
    configure(&machine, plan.tls_port, &old);
    drop(pebble);
    // Another authority at the same place, which has another certificate: nobody says anything to it.
    let pebble = Pebble::start(&plan);
    std::fs::remove_file(machine.path("all").join("acme/certificate.json")).unwrap();
    make_due(&machine);
    let daemon = machine.start("all", &[]);
    let told = wait_for("the failure", || {
        daemon.logged().lines().find(|line| line.contains("cannot ask https://")).map(str::to_owned)
    });
    assert!(told.contains("browsers see the cluster's own"), "{told}");
    assert_eq!(pebble.orders(), 0);
    daemon.stop();
    configure(&machine, plan.tls_port, &acme(&pebble, ""));
    make_due(&machine);
    let daemon = machine.start("all", &[]);
    let root = pebble.root();
    wait_for("the certificate", || verified(plan.tls_port, NAME, &root).then_some(()));
    daemon.stop();
    assert_ne!(kept(&machine, "account.json")["credentials"], account["credentials"]);
}

/// Passes on so many connections, and takes no more.
fn narrow(to: u16, most: &Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let most = Arc::clone(most);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let left = most.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if left.is_err() {
                continue;
            }
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
            join(&client, &server);
        }
    });
    port
}

#[test]
fn an_order_that_was_interrupted_is_gone_on_with_after_a_restart() {
    let plan = Plan::new();
    let pebble = Pebble::start(&plan);
    let machine = Machine::new();
    // A connection each: the directory, a nonce and an account, a nonce and an order. Then the network is gone.
    let most = Arc::new(AtomicUsize::new(5));
    let port = narrow(plan.port, &most);
    let config = acme(&pebble, "").replace(&format!(":{}/", plan.port), &format!(":{port}/"));
    configure(&machine, plan.tls_port, &config);
    let daemon = machine.start("all", &[]);
    wait_for("the failure", || daemon.logged().contains("cannot ask https://").then_some(()));
    let order = kept(&machine, "attempts.json")["order"]["url"].clone();
    assert!(order.is_string(), "{}", daemon.logged());
    daemon.kill();
    most.store(10_000, Ordering::Relaxed);
    make_due(&machine);
    let daemon = machine.start("all", &[]);
    let root = pebble.root();
    wait_for("the certificate", || verified(plan.tls_port, NAME, &root).then_some(()));
    daemon.stop();
    assert_eq!(pebble.orders(), 1, "{}", pebble.log());
    assert!(kept(&machine, "attempts.json")["order"].is_null());
}

#[test]
fn an_account_belongs_to_one_that_the_authority_has_made_if_it_wants_that() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let plan = Plan { external: Some(("kid-1", key)), ..Plan::new() };
    let pebble = Pebble::start(&plan);
    let machine = Machine::new();
    let file = machine.path("hmac");
    let with = format!(", eab_kid: kid-1, eab_hmac_file: {}", file.display());
    let refused = |more: &str, says: &str| {
        configure(&machine, plan.tls_port, &acme(&pebble, more));
        let daemon = machine.start("all", &[]);
        let line = wait_for("the refusal", || {
            daemon.logged().lines().find(|line| line.contains("has refused")).map(str::to_owned)
        });
        assert!(line.contains(says) && !line.contains(key), "{line}");
        wait_for("the attempt to be kept", || {
            (kept(&machine, "attempts.json")["failures"].as_u64() > Some(0)).then_some(())
        });
        daemon.stop();
        make_due(&machine);
    };
    refused("", "write eab_kid and eab_hmac_file");
    std::fs::write(&file, key.replace('z', "y")).unwrap();
    refused(&with, "check eab_kid and eab_hmac_file");
    std::fs::write(&file, "too short").unwrap();
    let line = machine.cannot_start("all", &[]);
    assert!(line.contains("eab_hmac_file") && line.contains("as the authority gives them"), "{line}");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let daemon = machine.start("all", &[]);
    let root = pebble.root();
    wait_for("the certificate", || verified(plan.tls_port, NAME, &root).then_some(()));
    assert!(!daemon.logged().contains(key), "{}", daemon.logged());
    daemon.stop();
    assert_eq!(kept(&machine, "account.json")["external"], "kid-1");
}

#[test]
fn files_that_others_can_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let plan = Plan::new();
    let pebble = Pebble::start(&plan);
    let machine = with_certificate(&plan, &pebble);
    let file = machine.path("all").join("acme/certificate.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refusal = machine.cannot_start("all", &[]);
    assert!(refusal.contains("certificate.json") && refusal.contains("others can read it"), "{refusal}");
}
