//! Writes the committed corpus from valid objects:
//!
//! ```text
//! cargo run --manifest-path fuzz/Cargo.toml --example corpus
//! ```
//!
//! Only the X.509 certificates and what is encrypted differ from run to run.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use teleport_backend::memory::MemoryBackend;
use teleport_backend::recordings::age::{AgeKeys, EncryptedRecordingStore};
use teleport_ca::CertificateAuthority;
use teleport_ca::seal::Sealer;
use teleport_core::cert::danger::{unchecked_host_grant, unchecked_ssh_server_grant, unchecked_user_grant};
use teleport_core::cert::{CertIssuer, PublicKey, SubjectKeys, TlsPublicKey};
use teleport_core::clock::Clock;
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::id::{ClusterName, HostRole, NodeName, OsLogin, RoleName, UserName};
use teleport_core::recording::{
    Decoder, Encoder, Form, OutputStream, RecordedEvent, RecordingMeta, RecordingStore, SessionEnd,
};
use teleport_core::resource::builtin_roles;
use teleport_core::secret::SecretBytes;
use teleport_core::testing::{KnownKeySealer, ManualClock, MemoryRecordings};
use teleport_fuzz::certificate::{HOST_ID, Spec};
use teleport_fuzz::fixture::{CLUSTER, now, public_wire, trust};
use teleport_fuzz::origin;
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::client::{IdentityFile, ProxyAddresses};
use teleport_ssh::keys::{SshKeyPair, TlsKeyPair};

fn write(target: &str, name: &str, content: impl AsRef<[u8]>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    std::fs::write(folder.join(name), content).expect("the file can be written");
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("it is JSON")
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    certificates().await;
    messages();
    recordings();
    texts();
    hellos();
    first_bytes();
    origins();
    etcd_answers();
    files();
    encrypted().await;
}

/// Conversations with SFTP servers.
fn files() {
    let string = |text: &str| {
        [&u32::try_from(text.len()).expect("it is short").to_be_bytes()[..], text.as_bytes()].concat()
    };
    let packet = |kind: u8, id: u32, rest: &[&[u8]]| {
        let body = [&[kind][..], &id.to_be_bytes(), &rest.concat()].concat();
        [&u32::try_from(body.len()).expect("it is short").to_be_bytes()[..], &body].concat()
    };
    let (zero, one) = (0_u32.to_be_bytes(), 1_u32.to_be_bytes());
    let said = |client: &[Vec<u8>], server: &[Vec<u8>]| {
        let client = client.concat();
        let length = u16::try_from(client.len()).expect("it is short").to_be_bytes();
        [&[7][..], &length, &client, &server.concat()].concat()
    };
    let begin = [0, 0, 0, 5, 1, 0, 0, 0, 3].to_vec();
    let (offset, path) = ([0; 8], string("/etc/motd"));
    let open = packet(3, 1, &[&path, &one, &zero]);
    let opened = packet(102, 1, &[&string("handle")]);
    let read = packet(5, 2, &[&string("handle"), &offset, &one]);
    let data = packet(103, 2, &[&string("x")]);
    let put = packet(6, 3, &[&string("handle"), &offset, &string("some data")]);
    let set = packet(10, 4, &[&string("handle"), &4_u32.to_be_bytes(), &one]);
    let close = packet(4, 5, &[&string("handle")]);
    let good = |id| packet(101, id, &[&zero, &string(""), &string("")]);
    let bad = |id| packet(101, id, &[&3_u32.to_be_bytes(), &string("Permission denied"), &string("")]);
    let transfer = [begin.clone(), open.clone(), read, put, set, close];
    write("sftp_watch", "transfer", said(&transfer, &[opened, data, good(3), good(4), good(5)]));
    // What our client reads, without the length.
    let answer = |name: &str, packet: Vec<u8>| write("sftp_answer", name, packet[4..].to_vec());
    let attributes = [&[0, 0, 0, 4][..], &0o100_644_u32.to_be_bytes()].concat();
    let entry = [string("name"), string("-rw-r--r-- name"), attributes.clone()].concat();
    answer("names", packet(104, 1, &[&2_u32.to_be_bytes(), &entry, &entry]));
    answer("attributes", packet(105, 1, &[&attributes]));
    answer("limits", packet(201, 1, &[&[0; 32]]));
    answer("handle", packet(102, 1, &[&string("handle")]));
    answer("data", packet(103, 1, &[&string("some data")]));
    answer("denied", packet(101, 1, &[&3_u32.to_be_bytes(), &string("Permission denied"), &string("")]));
    answer("done", packet(101, 1, &[&zero]));
    for (name, line) in [
        ("sink", "scp -v -r -p -d -t -- '/tmp/a b'"),
        ("source", "scp -f ~you/*.txt \"[a]\" a\\ b"),
        ("file", "C0644 12 name"),
        ("dir", "D0755 0 name"),
        ("times", "T1000000000 0 7 0"),
    ] {
        write("scp_line", name, line.as_bytes().to_vec());
    }
    let magic = b"\xffSSH-0.0-teleport-resume-v1\n";
    write("resume", "new", [&magic[..], &[1], &[7; 32]].concat());
    write("resume", "again", [&magic[..], &[2], &[7; 16], &[8; 16], &9_u64.to_be_bytes()].concat());
    let frame = [&[0][..], &4_u32.to_be_bytes(), b"data"].concat();
    write("resume", "frames", [&[3][..], &frame, &[1], &7_u64.to_be_bytes(), &[2, 3], &frame, &[4]].concat());
    let rename = packet(18, 6, &[&string("a"), &string("b")]);
    let link = packet(200, 7, &[&string("hardlink@openssh.com"), &string("a"), &string("b")]);
    let remove = packet(13, 8, &[&path]);
    write("sftp_watch", "changes", said(&[begin.clone(), rename, link, remove], &[bad(6), good(8)]));
    write("sftp_watch", "cut", said(&[begin, open[..open.len() - 2].to_vec()], &[]));
}

/// A part of a recording as it is stored, for the key of the target. Other files and keys there are by `age` and `age-keygen`.
async fn encrypted() {
    let recipient = "age154dqw4shzca7sw7tcreymkm032qzmaxcuezchmz6c54aeh820gjqh7394s".parse().expect("a key");
    let keys = AgeKeys { recipients: vec![recipient], identities: Vec::new() };
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let (sealer, entropy) = (Arc::new(KnownKeySealer), Arc::new(SystemEntropy::new()));
    let store = EncryptedRecordingStore::new(Arc::clone(&base), keys, sealer, entropy).expect("a store");
    let meta = RecordingMeta {
        session: "6f0e1a3c-7d1f-4b5e-9a53-5d5a1f9f3f01".parse().expect("an id"),
        cluster: ClusterName::new(CLUSTER).expect("a name"),
        host_id: HOST_ID.parse().expect("an id"),
        host_name: NodeName::new("web-1").expect("a name"),
        user: UserName::new("alice").expect("a name"),
        login: OsLogin::new("root").expect("a name"),
        started: now(),
        command: None,
        terminal: None,
    };
    store.create(&meta, &Form::PLAIN).await.expect("it is new");
    store.put_part(meta.session, 0, "what was shown".into()).await.expect("it fits");
    let part = base.part(meta.session, 0).await.expect("it is there").expect("it is there");
    write("age_file", "ours", part);
}

/// What proxies say of their clients.
fn origins() {
    let good = origin::header("192.0.2.7:4711");
    write("origin_header", "ipv4", &good);
    write("origin_header", "ipv6", origin::header("[2001:db8::7]:4711"));
    write("origin_header", "behind", [&good[..], b"SSH-2.0-OpenSSH_9.2\r\n"].concat());
    write("origin_header", "cut", &good[..good.len() - 64]);
    write("origin_header", "proxy_v1", "PROXY TCP4 192.0.2.7 192.0.2.8 4711 22\r\n");
}

/// An identity of alice with keys that nobody uses.
async fn identity_file(ca: &CertificateAuthority, entropy: Arc<SystemEntropy>) {
    let (ssh, tls) = (SshKeyPair::generate(&*entropy), TlsKeyPair::generate(&*entropy));
    let (ssh, tls) = (ssh.expect("a key"), tls.expect("a key"));
    let user = UserName::new("alice").expect("a name");
    let mut grant = unchecked_user_grant(user.clone(), Duration::from_secs(3600));
    grant.logins = vec![OsLogin::new("root").expect("a name")];
    grant.roles = vec![RoleName::new("access").expect("a name")];
    let (roles, logins) = (grant.roles.clone(), grant.logins.clone());
    let keys = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
    let certificates = ca.issue_user(grant, &keys).await.expect("a certificate");
    let address = |text| ProxyAddress::parse(text).expect("an address");
    let proxy = Some(ProxyAddresses { web: address("proxy:3080"), ssh: address("proxy:3023") });
    let trust = ca.trust_bundle();
    let identity = IdentityFile { user, roles, logins, ssh, tls, certificates, trust, proxy };
    write("identity_file", "whole", identity.to_text().as_bytes());
}

/// `bytes` with their length before them, in `len` bytes.
fn counted(len: usize, bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_be_bytes()[8 - len..], bytes].concat()
}

/// The beginnings of TLS clients.
fn hellos() {
    let extension = |kind: u8, content: &[u8]| [&[0, kind][..], &counted(2, content)].concat();
    let hello = |protocols: &[&[u8]]| {
        let names: Vec<u8> = protocols.iter().flat_map(|name| counted(1, name)).collect();
        let server = counted(2, &[&[0][..], &counted(2, b"teleport.cluster.local")].concat());
        let mut extensions = vec![
            extension(0, &server),
            extension(10, &counted(2, &[0, 0x1d])),
            extension(13, &counted(2, &[4, 3])),
            extension(43, &counted(1, &[3, 4])),
            extension(51, &counted(2, &[&[0, 0x1d][..], &counted(2, &[9; 32])].concat())),
        ];
        if !names.is_empty() {
            extensions.push(extension(16, &counted(2, &names)));
        }
        let body = [
            &[3, 3][..],
            &[7; 32],
            &counted(1, &[]),
            &counted(2, &[0x13, 1]),
            &counted(1, &[0]),
            &counted(2, &extensions.concat()),
        ];
        [&[1][..], &counted(3, &body.concat())].concat()
    };
    let record = |content: &[u8]| [&[0x16, 3, 1][..], &counted(2, content)].concat();
    let ours = hello(&[b"teleport-auth@example.com", b"h2"]);
    write("client_hello", "ours", record(&ours));
    write("client_hello", "browser", record(&hello(&[b"h2", b"http/1.1"])));
    write("client_hello", "plain", record(&hello(&[])));
    let (first, second) = ours.split_at(40);
    write("client_hello", "two_records", [record(first), record(second)].concat());
    write("client_hello", "cut", &record(&ours)[..60]);
    write("client_hello", "ssh", "SSH-2.0-OpenSSH_9.2\r\n");
}

/// What clients and load balancers begin with.
fn first_bytes() {
    let binary = |command: u8, family: u8, rest: &[u8]| {
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &counted(2, rest), b"SSH-2.0-x\r\n"].concat()
    };
    let four = [203, 0, 113, 9, 192, 0, 2, 1, 220, 4, 1, 187];
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 30], &[1, 187]].concat();
    let id = [5, 0, 4, 1, 2, 3, 4];
    write("first_bytes", "ssh", "SSH-2.0-OpenSSH_9.2\r\n");
    write("first_bytes", "tls", [0x16, 3, 1, 0, 4, 1, 0, 0, 0]);
    write("first_bytes", "http", "GET / HTTP/1.1\r\n\r\n");
    write("first_bytes", "v1_ipv4", "PROXY TCP4 203.0.113.9 192.0.2.1 56324 443\r\nSSH-2.0-x\r\n");
    write("first_bytes", "v1_ipv6", "PROXY TCP6 2001:db8::1 2001:db8::2 1 443\r\nSSH-2.0-x\r\n");
    write("first_bytes", "v1_unknown", "PROXY UNKNOWN\r\n");
    write("first_bytes", "v2_ipv4", binary(0x21, 0x11, &[&four[..], &id].concat()));
    write("first_bytes", "v2_ipv6", binary(0x21, 0x21, &six));
    write("first_bytes", "v2_unix", binary(0x21, 0x31, &[b'x'; 216]));
    write("first_bytes", "v2_local", binary(0x20, 0, &[]));
}

async fn certificates() {
    write("ssh_certificate", "user", Spec::good_user().encode());
    write("ssh_certificate", "host", Spec::good_host().encode());
    write("ssh_certificate_model", "user", [0; 4]);
    write("ssh_certificate_model", "host", [1, 1, 2, 3, 4, 5, 6, 7, 8]);
    write("public_key", "wire", public_wire(1));
    write("public_key", "text", trust().user_ca[0].to_string());
    write("public_key", "pin", format!("sha256:{}", "0a".repeat(32)));

    let (clock, entropy) = (Arc::new(ManualClock::new(now())), Arc::new(SystemEntropy::new()));
    let sealer = Sealer::new(
        &SecretBytes::new(std::array::from_fn::<u8, 32, _>(|at| at as u8)),
        Arc::<SystemEntropy>::clone(&entropy) as Arc<dyn Entropy>,
    );
    let storage = Arc::new(MemoryBackend::new(Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>));
    let cluster = ClusterName::new(CLUSTER).expect("a name");
    let sealer = Arc::new(sealer.expect("a key of 32 bytes"));
    let random = Arc::clone(&entropy);
    let ca = CertificateAuthority::open_or_create(cluster.clone(), storage, sealer, clock, entropy)
        .await
        .expect("an authority");
    // Any point will do: the authority does not ask for the private half.
    let mut spki = ca.trust_bundle().user_tls_ca[0].as_der().to_vec();
    let at = spki.windows(4).position(|bytes| bytes == [0x03, 0x42, 0x00, 0x04]).expect("a P-256 key");
    spki = spki[at - 23..at + 68].to_vec();
    write("public_key", "spki", &spki);
    spki[40] ^= 1;
    let tls = TlsPublicKey::from_spki(&spki).expect("the same form");
    let ssh = PublicKey::from_wire(&public_wire(4)).expect("a key");
    let keys = SubjectKeys { ssh, tls };
    let mut grant = unchecked_user_grant(UserName::new("alice").expect("a name"), Duration::from_secs(3600));
    grant.logins = vec![OsLogin::new("root").expect("a name")];
    grant.roles = vec![RoleName::new("access").expect("a name")];
    grant.permits.pty = true;
    let user = ca.issue_user(grant, &keys).await.expect("a certificate");
    identity_file(&ca, Arc::clone(&random)).await;
    let host_id = HOST_ID.parse().expect("an id");
    let name = NodeName::new("web-1").expect("a name");
    let grant =
        unchecked_host_grant(host_id, name, cluster.clone(), HostRole::Node, Duration::from_secs(3600));
    let host = ca.issue_host(grant, &keys).await.expect("a certificate");
    write("x509_identity", "user", &user.tls);
    write("x509_identity", "host", &host.tls);
    write("x509_identity", "authority", ca.trust_bundle().host_tls_ca[0].as_der());
    let subject = r#"{"user":{"cluster":"example.com","logins":["root"],"login_ip":null,"permits":{"agent_forwarding":false,"port_forwarding":true,"pty":true,"x11_forwarding":false},"roles":["access"],"source_addresses":[],"traits":{}}}"#;
    write("x509_identity", "user_subject", format!("alice\n{subject}"));
    let host_subject = r#"{"host":{"cluster":"example.com","name":"web-1","role":"node"}}"#;
    write("x509_identity", "host_subject", format!("{HOST_ID}\n{host_subject}"));

    let message =
        |letter: char, text: String| write("api_messages", &letter.to_string(), format!("{letter}{text}"));
    message('B', json(&ca.trust_bundle()));
    message('F', json(&user));
    // Some file systems do not tell `f` from `F`.
    let small = |letter: char, text: String| {
        write("api_messages", &format!("{letter}_"), format!("{letter}{text}"));
    };
    small('f', format!(r#"{{"user":"alice","keys":{},"ttl":3600}}"#, json(&keys)));
    small('g', format!(r#"{{"names":["db.example.com","10.0.0.1"],"key":{},"ttl":3600}}"#, json(&keys.ssh)));
    let names = vec!["db.example.com".to_owned()];
    let grant = unchecked_ssh_server_grant(names, cluster.clone(), Duration::from_secs(3600));
    let server = ca.issue_ssh_server(grant, &keys.ssh).await.expect("a certificate");
    small('h', format!(r#"{{"certificate":{},"trust":{}}}"#, json(&server), json(&ca.trust_bundle())));
    message('H', format!(r#"{{"certificates":{},"trust":{}}}"#, json(&host), json(&ca.trust_bundle())));
    message(
        'J',
        format!(
            r#"{{"token":"secret-0123456789","host_id":"{HOST_ID}","name":"web-1","role":"node","keys":{},"addresses":["10.0.0.1"]}}"#,
            json(&keys)
        ),
    );
    message(
        'L',
        format!(
            r#"{{"user":"alice","password":"correct horse battery","code":"123456","keys":{},"ttl":3600,"client_ip":"::1"}}"#,
            json(&keys)
        ),
    );
    message('R', format!(r#"{{"keys":{},"addresses":[]}}"#, json(&keys)));
    message('S', subject.to_owned());
    message('V', format!(r#"{{"trust":{},"roles":{}}}"#, json(&ca.trust_bundle()), json(&builtin_roles())));
    message('X', format!(r#"{{"keys":{},"ttl":60}}"#, json(&keys)));
}

fn messages() {
    let message =
        |letter: char, text: &str| write("api_messages", &letter.to_string(), format!("{letter}{text}"));
    let node = format!(
        r#""host_id":"{HOST_ID}","name":"web-1","address":"10.0.0.1:3022","labels":{{"env":"prod"}},"version":"0.1.0""#
    );
    message(
        'A',
        r#"{"token":"secret-0123456789","password":"correct horse battery","code":"123456","client_ip":"::1"}"#,
    );
    message(
        'C',
        r#"{"roles":["node","proxy"],"ttl":1800,"uses":1,"labels":{"env":"prod"},"value":"secret-0123456789"}"#,
    );
    message('E', &format!(r#"{{"snapshot":[{{{node},"last_seen":"2027-01-15T08:00:00.000Z"}}]}}"#));
    message(
        'G',
        r#"{"cluster_name":"example.com","server_version":"0.1.0","second_factor":"otp","proxy_ssh_address":"localhost:3023"}"#,
    );
    message(
        'K',
        r#"{"id":"0123456789abcdef","roles":["node"],"expires":"2027-01-15T08:00:00.000Z","uses_left":1,"labels":{},"is_static":false}"#,
    );
    message('M', include_str!("../src/meta.json"));
    message('N', &format!("{{{node}}}"));
    message(
        'P',
        &format!(
            r#"{{"host_id":"{HOST_ID}","name":"proxy","web_address":"proxy:3080","ssh_address":"proxy:3023","version":"0.1.0"}}"#
        ),
    );
    message('Q', r#"{"from":"2027-01-15T08:00:00.000Z","to":null,"limit":50}"#);
    message('U', r#"{"name":"alice","roles":["access"],"logins":["root","alice"]}"#);
    message('W', r#"{"name":"alice","roles":["access"],"logins":["root"],"locked_until":null}"#);
    message('0', r#"{"password":"correct horse battery","code":"123456","new_password":"another sentence"}"#);
    message(
        '1',
        r#"{"id":"0f8fad5b-d9cb-469f-a165-70867728950e","name":"phone","added":"2027-01-15T08:00:00.000Z","last_used":null}"#,
    );
    message(
        '3',
        r#"{"ticket":"phone:AAAA","new_code":"123456","password":"correct horse battery","code":"654321"}"#,
    );
    message('4', r#"{"name":"phone","password":"correct horse battery","code":"123456"}"#);
    message('5', r#"{"roles":["access"],"logins":["root"],"traits":{"team":["db","web"]}}"#);
    message('6', r#"{"ttl":28800}"#);
    for role in builtin_roles() {
        write("role", &role.metadata.name, json(&role));
    }
    write(
        "role",
        "deny",
        r#"{"kind":"role","version":"v1","metadata":{"name":"r"},"spec":{"allow":{"logins":["root","{{external.logins}}"],"node_labels":{"env":["prod","^te.t$","a*b"]},"rules":[{"resources":["*"],"verbs":["*"]}]},"deny":{"logins":["root"],"node_labels":{"env":"prod"}},"options":{"max_session_ttl":60}}}"#,
    );
    write(
        "role",
        "all",
        r#"{"kind":"role","version":"v1","metadata":{"name":"r"},"spec":{"allow":{"logins":["{{email.local(external.email)}}"],"node_labels":{"team":"{{external.team}}"},"node_labels_expression":"labels.env == \"prod\"","permit_open":["*.example.com:443","10.0.0.0/8:1-9"],"commands":["id","cat *"],"rules":[{"resources":["user"],"verbs":["read"],"where":"user.metadata.name == \"alice\""}]},"options":{"max_session_ttl":"8h0m0s","ssh_port_forwarding":{"local":{"enabled":true}},"record_session":{"ssh":"strict"},"cert_extensions":[{"name":"a@b","value":"{{internal.logins}}"}],"lock":"strict"}}}"#,
    );
    write(
        "role",
        "original",
        r#"{"kind":"role","version":"v3","metadata":{"name":"r","namespace":"default"},"spec":{"allow":{"logins":["{{internal.logins}}"],"kubernetes_groups":["view"],"rules":[{"resources":["session","app"],"verbs":["list"],"where":"contains(session.participants, user.metadata.name)"}]},"options":{"forward_agent":"yes","client_idle_timeout":"never","require_session_mfa":true}}}"#,
    );
    write(
        "role",
        "user",
        r#"{"kind":"user","version":"v1","metadata":{"name":"alice","labels":{"a":"b"}},"spec":{"roles":["access"],"traits":{"logins":["root"]}}}"#,
    );
    let event = r#"{"event":"session.start","code":"T2000I","uid":"0f8fad5b-d9cb-469f-a165-70867728950e","time":"2027-01-15T08:00:00.000Z","cluster_name":"example.com","user":"alice","login":"root","server_hostname":"web-1","addr.remote":"127.0.0.1:4711","success":true,"command":"uname -a","size":1.5}"#;
    write("audit_event", "event", event);
    write("audit_event", "list", format!("[{event}]"));
    write("audit_event", "page", format!(r#"{{"events":[{event}],"next":"7"}}"#));
    write(
        "audit_event",
        "query",
        r#"{"from":"2027-01-15T08:00:00Z","events":["session.start"],"limit":10,"newest_first":true}"#,
    );
}

fn recordings() {
    let meta = serde_json::from_str(include_str!("../src/meta.json")).expect("a recording's first event");
    let mut encoder = Encoder::new(&meta).expect("a writer");
    let at = Duration::from_millis;
    encoder.output(at(5), OutputStream::Stdout, b"$ ls\r\n").expect("memory");
    let first = encoder.take(true).expect("memory");
    encoder.event(&RecordedEvent::Resize { at: at(300), columns: 120, rows: 40 }).expect("memory");
    encoder.output(at(900), OutputStream::Stderr, "é\x1b[0m".as_bytes()).expect("memory");
    encoder.event(&RecordedEvent::Gap { at: at(1000), lost: 77 }).expect("memory");
    encoder
        .event(&RecordedEvent::End { at: at(2000), end: SessionEnd::Signaled("TERM".into()) })
        .expect("memory");
    let second = encoder.take(true).expect("memory");
    write("recording", "whole", [&[0xff][..], &first, &second].concat());
    write("recording", "bytes", [&[0][..], &first, &second].concat());
    write("recording", "cut", [&[9][..], &first, &second[..second.len() - 3]].concat());
    // Several segments; one of them damaged, so that the index leads on; and what a node makes of one that was cut.
    let mut encoder = Encoder::new(&meta).expect("a writer");
    for second in 0..6 {
        let line = format!("{second}").repeat(128 << 10);
        encoder.output(Duration::from_secs(second), OutputStream::Stdout, line.as_bytes()).expect("memory");
    }
    encoder
        .event(&RecordedEvent::End { at: Duration::from_secs(9), end: SessionEnd::Exited(3) })
        .expect("memory");
    let mut segments = encoder.take(true).expect("memory");
    write("recording", "segments", [&[0xff][..], &segments].concat());
    let mut decoder = Decoder::new().expect("a reader");
    decoder.feed(&segments[..segments.len() / 2]);
    while let Ok(Some(_)) = decoder.next_event() {}
    let intact = usize::try_from(decoder.intact()).expect("memory");
    let interruption = Encoder::interruption(&decoder).expect("memory");
    write("recording", "interrupted", [&[0xff][..], &segments[..intact], &interruption].concat());
    let second = segments.windows(4).enumerate().filter(|(_, four)| four == b"TPSG").nth(1);
    let (second, _) = second.expect("several segments");
    segments[second + 40] ^= 1;
    write("recording", "damaged", [&[0xff][..], &segments].concat());
    write(
        "recording_frame",
        "events",
        [&[0][..], b"\x01\x05\x03abc\x03\x0a\x50\x18\x02\x00\x02\xc3\xa9\x04\x01\x05\x05\x01\x00"].concat(),
    );
    write("recording_frame", "frames", [&[2][..], b"\x01\x05\x03abc\n\x06\x01\x04TERM\n\x07\x00"].concat());
    write("recording_roundtrip", "steps", b"\x05\x00\x05\x01\x03abc\x00\x02\x10\x00\x05\x00\x02de");
    write("pty_modes", "openssh", [128, 0, 0, 0x96, 0, 1, 0, 0, 0, 3, 53, 0, 0, 0, 1, 0]);
}

fn texts() {
    write("label", "text", "{\"env\":[\"prod\",\"^te.t$\",\"a*b\"],\"*\":\"*\"}\nenv=prod,team=a b");
    write("label", "json", "{\"*\":\"*\"}\n{\"env\":\"prod\"}");
    for (index, text) in
        ["alice", "svc$", "example.com", HOST_ID, "node", "2027-01-15T08:00:00.000Z", "users/alice"]
            .into_iter()
            .enumerate()
    {
        write("name", &index.to_string(), text);
    }
    let targets = [
        "root@web-1:3022@example.com",
        "[2001:db8::1]:22",
        "proxy:env=prod,team=a:0@default@example.com",
        "10.0.0.1:3022",
        HOST_ID,
        "2001:db8::1 22",
    ];
    for (index, text) in targets.into_iter().enumerate() {
        write("target", &index.to_string(), text);
    }
    let conditions = [
        r#"Nlabels["env"] == "prod" && !(labels.team != "a")"#,
        r#"Ncontains(user.spec.traits["teams"], labels["team"]) || exists(labels["x"])"#,
        r#"Nregexp.match(labels_matching("e*"), "^(prod|te.t)$")"#,
        r#"Ncontains_any(email.local(user.spec.traits.teams), set("b", strings.upper("a")))"#,
        r#"Ncontains(regexp.replace(user.spec.traits["teams"], `^(.)@.*$`, "$1"), "b")"#,
        r#"Rcontains(session.participants, user.metadata.name)"#,
        r#"Rresource.metadata.labels["env"] == "prod" || has_prefix(resource.metadata.name, "web-")"#,
        r#"Requals(user.spec.roles, set("access")) && session.login == "root""#,
        r#"T{{internal.logins}}"#,
        r#"Qname == "web-1" && contains(split(labels["teams"], ","), "ops")"#,
        r#"Tdev-{{email.local(external["email"])}}-x"#,
        r#"T{{regexp.replace(strings.lower(external.email), "^(.*)@.*$", "$1")}}"#,
        r#"Q!search("web", "PROD") || regexp.match(name, "^web-(1|2)$")"#,
    ];
    for (index, text) in conditions.into_iter().enumerate() {
        write("predicate", &index.to_string(), text);
    }
    write("token", "static", "node,proxy:secret-0123456789");
    write("token", "file", "auth:/etc/token");
    write("token", "secret", "0123456789abcdef0123456789abcdef");
    write(
        "token",
        "record",
        format!(
            r#"{{"id":"0123456789abcdef","hash":"{}","roles":["node"],"expires":"2027-01-15T08:00:00.000Z","uses_left":0,"labels":{{"a":"b"}},"is_static":false}}"#,
            "0a".repeat(32)
        ),
    );
    write("environment", "locale", "LANG=C.UTF-8\nLC_ALL=de_DE\nLD_PRELOAD=/tmp/x\n?LC_*\n?LANG\n?GIT*");
    let config = "version: v3\nteleport:\n  nodename: web-1\n  data_dir: /var/lib/teleport\n  auth_token: secret-0123456789\n  auth_server: auth.example.com:3025\n  ca_pin: [\"sha256:00\"]\n  log:\n    severity: INFO\n    format:\n      output: json\nauth_service:\n  enabled: no\nproxy_service:\n  enabled: \"yes\"\n  web_listen_addr: 0.0.0.0:3080\n  public_addr: proxy.example.com:443\n  https_keypairs:\n  - key_file: /k\n    cert_file: /c\nssh_service:\n  labels:\n    env: prod\n";
    write("config", "all", config);
    write("config", "typo", "teleport:\n  nodname: web-1\n");
    write("config", "duration", "1h30m");
}

/// Answers of etcd, put together by hand: a message is tags, lengths and what they are about.
fn etcd_answers() {
    let field = |number: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("short enough");
        [&[number << 3 | 2, length], content].concat()
    };
    let frame = |message: &[u8]| {
        let length = u32::try_from(message.len()).expect("short enough");
        [&[0][..], &length.to_be_bytes(), message].concat()
    };
    let header = field(1, b"\x08\x07\x18\x2a");
    let item = |name: &[u8]| [field(1, name), b"\x18\x2a".to_vec(), field(5, b"\xff\xff\xff\xff\xff\xff\xff\xffvalue")].concat();
    let range = [header.clone(), field(2, &item(b"/t/items/a")), field(2, &item(b"/t/format")), b"\x18\x01".to_vec()].concat();
    let event = |kind: &[u8]| field(11, &[kind, &field(2, &item(b"/t/items/users/alice"))].concat());
    let watch = [header.clone(), event(b""), event(b"\x08\x01")].concat();
    let txn = [header.clone(), b"\x10\x01".to_vec(), field(3, &field(1, &range))].concat();
    write("etcd_answer", "range", &frame(&range));
    write("etcd_answer", "txn", &frame(&txn));
    write("etcd_answer", "watch", &[frame(&watch), frame(&header)].concat());
    write("etcd_answer", "lease", &frame(&[header, b"\x10\x05\x18\x0a".to_vec()].concat()));
}
