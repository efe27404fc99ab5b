//! Keys and certificates in files, which somebody else renews.

use std::path::Path;

use crate::support::daemon::{Machine, fixed_port};
use crate::support::pebble::{self_signed, shown};
use crate::support::wait_for;

fn configure(machine: &Machine, web: u16) {
    let path = |name: &str| machine.path(name).display().to_string();
    let services = format!(
        "auth_service:\n  enabled: yes\n  cluster_name: test.local\n  listen_addr: 127.0.0.1:0\n\
         proxy_service:\n  enabled: yes\n  web_listen_addr: 127.0.0.1:{web}\n  listen_addr: 127.0.0.1:0\n  \
         https_keypairs: [{{key_file: {}, cert_file: {}}}, {{key_file: {}, cert_file: {}}}]\n  \
         https_keypairs_reload_interval: 1s\n\
         ssh_service:\n  enabled: no\n",
        path("a.key"),
        path("a.pem"),
        path("b.key"),
        path("b.pem"),
    );
    machine.configure("all", "", &services);
}

fn certificate(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("-----END").next().unwrap().to_owned()
}

#[test]
fn each_name_is_shown_its_own_and_new_ones_are_taken_over() {
    let machine = Machine::new();
    let file = |name: &str| machine.path(name);
    self_signed(&file("a.key"), &file("a.pem"), "DNS:a.example.com");
    self_signed(&file("b.key"), &file("b.pem"), "DNS:b.example.com,DNS:*.b.example.com");
    let web = fixed_port();
    configure(&machine, web);
    let daemon = machine.start("all", &[]);
    let [a, b] = [certificate(&file("a.pem")), certificate(&file("b.pem"))];
    for (name, expected) in [
        ("a.example.com", &a),
        ("A.Example.com", &a),
        ("b.example.com", &b),
        ("x.b.example.com", &b),
        ("x.y.b.example.com", &a),
        ("other.example.com", &a),
    ] {
        assert_eq!(shown(web, name, &[]).unwrap(), *expected, "{name}");
    }
    // A new one, written over the old one in two steps: for a moment the two files do not belong together.
    self_signed(&file("new.key"), &file("new.pem"), "DNS:b.example.com");
    std::fs::rename(file("new.key"), file("b.key")).unwrap();
    let told = wait_for("the warning", || {
        daemon.logged().lines().find(|line| line.contains("cannot be used")).map(str::to_owned)
    });
    assert!(told.contains("the key does not belong to the certificate") && told.contains("b.pem"), "{told}");
    assert_eq!(shown(web, "b.example.com", &[]).unwrap(), b, "the old one is still shown");
    let new = certificate(&file("new.pem"));
    std::fs::rename(file("new.pem"), file("b.pem")).unwrap();
    wait_for("the new one", || (shown(web, "b.example.com", &[])? == new).then_some(()));
    assert_eq!(shown(web, "a.example.com", &[]).unwrap(), a);
    // One that is gone changes nothing.
    std::fs::remove_file(file("b.pem")).unwrap();
    wait_for("the warning", || (daemon.logged().matches("cannot be used").count() == 2).then_some(()));
    assert_eq!(shown(web, "b.example.com", &[]).unwrap(), new);
    daemon.stop();
    // At a start it does.
    let refusal = machine.cannot_start("all", &[]);
    assert!(refusal.contains("https_keypairs") && refusal.contains("b.pem"), "{refusal}");
    std::fs::copy(file("a.pem"), file("b.pem")).unwrap();
    let refusal = machine.cannot_start("all", &[]);
    assert!(refusal.contains("b.key") && refusal.contains("does not belong"), "{refusal}");
}
