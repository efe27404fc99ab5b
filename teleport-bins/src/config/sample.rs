//! What `teleport configure` prints.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use teleport_backend::audit::file::SyncPolicy;
use teleport_core::peering::TunnelStrategy;
use teleport_ssh::node::{GatewayPorts, MAX_FORWARDED, RESUME_FOR};
use teleport_ssh::record::TooOld;

use super::{Https, RecordingPlace, Settings, Size, format_duration, proxy_protocol};
use crate::config::{with_port, without_port};

/// A commented configuration file that says what `settings` say.
pub fn sample(settings: &Settings) -> String {
    let yes = |on: bool| if on { "yes" } else { "no" };
    let tunnels = settings.node.as_ref().is_some_and(|node| node.tunnels);
    let auth_server = match &settings.auth_servers[..] {
        [] => "  # auth_server: auth.example.com:3025\n".to_owned(),
        [server] if tunnels => format!("  proxy_server: {server}\n"),
        [server] => format!("  auth_server: {server}\n"),
        servers => format!("  auth_servers: [{}]\n", servers.join(", ")),
    };
    // Whoever writes where a node listens opens a port.
    let listens = if tunnels { "# " } else { "" };
    let pins = if settings.ca_pins.is_empty() {
        "  # ca_pin: sha256:<64 digits, as `tctl status` prints them>\n".to_owned()
    } else {
        let pins: Vec<String> = settings.ca_pins.iter().map(|pin| format!("\"{pin}\"")).collect();
        format!("  ca_pin: [{}]\n", pins.join(", "))
    };
    let token = match &settings.token {
        Some(token) => format!("  auth_token: \"{}\"\n", token.expose()),
        None => "  # auth_token: /etc/teleport.token\n".to_owned(),
    };
    let cluster = match settings.auth.as_ref().and_then(|auth| auth.cluster_name.as_ref()) {
        Some(name) => format!("  cluster_name: {name}\n"),
        None => "  # cluster_name: example.com\n".to_owned(),
    };
    let labels = match settings.node.as_ref().map(|node| &node.labels) {
        Some(labels) if !labels.is_empty() => {
            let lines: Vec<String> =
                labels.iter().map(|(key, value)| format!("    {key}: {value:?}\n")).collect();
            format!("  labels:\n{}", lines.concat())
        }
        _ => "  # labels:\n  #   env: prod\n".to_owned(),
    };
    let recording = settings.auth.as_ref().map(|auth| auth.session_recording.clone()).unwrap_or_default();
    let recording_rules = match serde_json::to_string(&recording.rules) {
        // JSON is YAML.
        Ok(rules) if !recording.rules.is_empty() => format!("  session_recording_rules: {rules}\n"),
        _ => "  # session_recording_rules: [{node_labels: {env: dev}, mode: off}]\n".to_owned(),
    };
    let spool = settings.node.as_ref().map(|node| node.recordings).unwrap_or_default();
    let displays = settings.node.as_ref().and_then(|node| node.x11.clone()).unwrap_or_default();
    let limits = settings.auth.as_ref().map(|auth| auth.recordings).unwrap_or_default();
    let password = settings.auth.as_ref().map(|auth| auth.password).unwrap_or_default();
    let audit = settings.auth.as_ref().map(|auth| auth.audit.files).unwrap_or_default();
    let sync = match audit.sync {
        SyncPolicy::Interval(interval) => format_duration(interval),
        _ => "always".to_owned(),
    };
    let retention = match audit.retention {
        Some(age) => format!("    retention: {}\n", format_duration(age)),
        None => "    # retention: 365d\n".to_owned(),
    };
    let diag = match settings.diag_addr {
        Some(address) => format!("  diag_addr: {address}\n"),
        None => "  # diag_addr: 127.0.0.1:3000\n".to_owned(),
    };
    let any = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let (web_listen, ssh_listen) = match &settings.proxy {
        Some(proxy) => (proxy.web_listen, proxy.ssh_listen),
        None => (any(3080), Some(any(3023))),
    };
    let tunnel_listen = match settings.proxy.as_ref().and_then(|proxy| proxy.tunnel_listen) {
        Some(address) => format!("tunnel_listen_addr: {address}"),
        None => "# tunnel_listen_addr: 0.0.0.0:3024".to_owned(),
    };
    let advertise = settings.advertise.as_deref().map(without_port).unwrap_or("203.0.113.7");
    format!(
        "# Every key has the default that is shown; keys after # are examples.\n\
         version: v3\n\
         teleport:\n\
         \x20 # The name of this host in lists; its host name if left out.\n\
         \x20 nodename: {nodename}\n\
         \x20 # State, keys and recordings. Nobody else may write to it; what is secret in it only its owner can read.\n\
         \x20 data_dir: {data_dir}\n\
         \x20 # Where the auth service is, unless it runs here; of several (auth_servers: [a:3025, b:3025]) any that answers. With\n\
         \x20 # `proxy_server`, a proxy's web port, the node opens no port and is reached by tunnels.\n\
         {auth_server}\
         \x20 # For the first start only: the secret of `tctl tokens add`, or a file that holds it.\n\
         {token}\
         \x20 # How this host recognises the cluster at its first start.\n\
         {pins}\
         \x20 # require_ca_pin: true\n\
         \x20 # The address that others reach this host by.\n\
         \x20 # advertise_ip: {advertise}\n\
         \x20 # Where the daemon answers /healthz, /readyz and /metrics. Nobody has to log in to read them.\n\
         {diag}\
         \x20 log:\n\
         \x20   severity: info # debug, info, warn, error\n\
         \x20   format:\n\
         \x20     output: text # text, json\n\
         \x20 storage:\n\
         \x20   type: redb # redb, etcd, postgres, memory\n\
         \x20   # Where it is, for etcd and postgres, which several auth servers can share.\n\
         \x20   # url: etcd://teleport@etcd1:2379,etcd2:2379/teleport?password-file=/etc/teleport.etcd&ca-file=/etc/etcd-ca.pem\n\
         \x20   # url: postgres://teleport@database/teleport?password-file=/etc/teleport.pg&ca-file=/etc/pg-ca.pem\n\
         \x20   # Where recordings are kept; in `recordings` of the data directory if left out. Credentials for S3 come from the\n\
         \x20   # environment (AWS_ACCESS_KEY_ID, …) or the instance.\n\
         {sessions}\
         \x20   # Where the audit log is, and where it is passed on to as well: stdout://, syslog:///dev/log, syslog+tcp://host:601.\n\
         \x20   # audit_events_uri: [\"file://{data_dir}/audit\", \"syslog:///dev/log\"]\n\
         auth_service:\n\
         \x20 enabled: {auth}\n\
         \x20 # Fixed at the first start.\n\
         {cluster}\
         \x20 listen_addr: 0.0.0.0:3025\n\
         {auth_protocol}\
         \x20 # Tokens that never expire; prefer `tctl tokens add`.\n\
         \x20 # tokens: [\"node:/etc/teleport.node-token\"]\n\
         \x20 audit:\n\
         \x20   # always: events are durable before anything is answered. An interval such as 1s: faster, and a power cut loses as much.\n\
         \x20   sync: {sync}\n\
         \x20   # How long files of the audit log are kept; for ever if left out.\n\
         {retention}\
         \x20 # node: sessions are recorded on the node's disk and delivered in the background; node-sync: what is shown was taken by the\n\
         \x20 # auth service first; off. The strictest of the rules that match a node counts instead of it; roles see `record_session`.\n\
         \x20 session_recording: {session_recording}\n\
         {recording_rules}\
         \x20 # What one node may hand in: one recording, and all of one day (UTC), half of it of one user. What is beyond stays on the node.\n\
         \x20 recordings:\n\
         \x20   max_size: {max_size}\n\
         \x20   max_size_per_day: {max_size_per_day}\n\
         \x20   max_count_per_day: {max_count_per_day}\n\
         \x20 # Older recordings are deleted, and the oldest while all are larger. Held ones stay: `tctl recordings hold`.\n\
         {recording_retention}\
         \x20 # Recordings are encrypted for these keys of `age-keygen`; the auth service shows them by the keys in these files.\n\
         {encryption}\
         \x20 authentication:\n\
         \x20   # What a login needs beside the password. `off` is for tests.\n\
         \x20   second_factor: {second_factor}\n\
         \x20   # Where it is not known for certain who is locked: best_effort goes by what is known, strict begins nothing.\n\
         \x20   locking_mode: {locking_mode}\n\
         \x20 # Argon2id. A new cost holds for each user from the next login on.\n\
         \x20 password_hashing:\n\
         \x20   memory: {memory}\n\
         \x20   passes: {passes}\n\
         \x20   lanes: {lanes}\n\
         \x20   parallel: {parallel}\n\
         \x20 # How nodes without a port are reached. agent_mesh: each has a tunnel to each proxy; proxy_peering: each has agent_connection_count\n\
         \x20 # of them, to different proxies, and the other proxies ask these. Two are recommended then.\n\
         \x20 tunnel_strategy: {tunnel_strategy}\n\
         proxy_service:\n\
         \x20 enabled: {proxy}\n\
         \x20 # HTTPS, tunnels of nodes, and SSH as well.\n\
         \x20 web_listen_addr: {web_listen}\n\
         \x20 # SSH alone. The address of the web port opens no other one, and tells clients to come there.\n\
         \x20 listen_addr: {ssh_listen}\n\
         \x20 # Tunnels alone, which the web port then does not take.\n\
         \x20 {tunnel_listen}\n\
         {proxy_protocol}\
         {public_addr}\
         \x20 # Where other proxies ask this one for nodes; opened with tunnel_strategy proxy_peering alone. They reach it by the address of\n\
         \x20 # this machine, or by another one that is its alone.\n\
         \x20 peer_listen_addr: 0.0.0.0:3021\n\
         {peer_public}\
         {https}\
         \x20 # Whether nodes may be at loopback and link-local addresses: other services of this very machine. The node below may.\n\
         \x20 local_addresses: no\n\
         ssh_service:\n\
         \x20 enabled: {node}\n\
         \x20 {listens}listen_addr: 0.0.0.0:3022\n\
         {labels}\
         \x20 # What may wait for the auth service: recordings of so many bytes, half of it of one user, and for how long. Of what waits\n\
         \x20 # longer the audit log is told, and then it is kept, or deleted.\n\
         \x20 recordings:\n\
         \x20   max_size: {spool_size}\n\
         \x20   max_age: {spool_age}\n\
         \x20   too_old: {too_old} # keep, delete\n\
         \x20 # For so long a connection of tsh that was lost is kept, with all that runs on it; or off.\n\
         \x20 resume_for: {resume_for}\n\
         \x20 # So many connections are forwarded over one SSH connection at a time (-L, -R, -D, agents, displays), in both directions together.\n\
         \x20 max_forwarded: {max_forwarded}\n\
         \x20 # Where users have this host listen (ssh -R): no is on loopback only, clientspecified is wherever they say.\n\
         \x20 gateway_ports: {gateway_ports} # no, clientspecified\n\
         \x20 # Whether users whose roles say permit_x11_forwarding may have their displays in sessions (ssh -X), as which of this host.\n\
         \x20 x11:\n\
         \x20   enabled: {x11}\n\
         \x20   display_offset: {display_offset}\n\
         \x20   max_display: {max_display}\n\
         \x20 # Whether the modules `account` and `session` of a service of PAM are asked about each session. Variables may be templates.\n\
         {pam}",
        nodename = settings.nodename,
        sessions = sessions(settings),
        recording_retention = recording_retention(settings),
        encryption = encryption(settings),
        data_dir = settings.data_dir.display(),
        auth = yes(settings.auth.is_some()),
        session_recording = recording.mode,
        max_size = Size(limits.recording_bytes),
        max_size_per_day = Size(limits.host_day_bytes),
        max_count_per_day = limits.host_day_recordings,
        second_factor = settings.auth.as_ref().map(|auth| auth.second_factor).unwrap_or_default().as_str(),
        locking_mode = settings.auth.as_ref().map(|auth| auth.lock_mode).unwrap_or_default().as_str(),
        memory = Size(u64::from(password.memory) << 10),
        passes = password.passes,
        lanes = password.lanes,
        parallel = password.parallel,
        tunnel_strategy = match settings.auth.as_ref().map(|auth| auth.tunnel_strategy).unwrap_or_default() {
            TunnelStrategy::AgentMesh => "{type: agent_mesh}".to_owned(),
            TunnelStrategy::ProxyPeering { agent_connection_count } => {
                format!("{{type: proxy_peering, agent_connection_count: {agent_connection_count}}}")
            }
        },
        peer_public = match settings.proxy.as_ref().and_then(|proxy| proxy.peer_public.as_ref()) {
            Some(address) => format!("  peer_public_addr: \"{address}\"\n"),
            None => "  # peer_public_addr: proxy-1.example.com:3021\n".to_owned(),
        },
        proxy = yes(settings.proxy.is_some()),
        ssh_listen = ssh_listen.unwrap_or(web_listen),
        proxy_protocol = proxy_protocol::lines(
            &settings.proxy.as_ref().map_or_else(Default::default, |proxy| proxy.protocol.clone())
        ),
        auth_protocol = proxy_protocol::lines(
            &settings.auth.as_ref().map_or_else(Default::default, |auth| auth.protocol.clone())
        ),
        node = yes(settings.node.is_some()),
        pam = pam(settings),
        public_addr = public_addr(settings),
        https = https(settings),
        x11 = yes(settings.node.as_ref().is_some_and(|node| node.x11.is_some())),
        display_offset = displays.first(),
        max_display = displays.last(),
        spool_size = Size(spool.max_bytes),
        spool_age = format_duration(spool.max_age),
        resume_for = match settings.node.as_ref().map_or(RESUME_FOR, |node| node.resume_for) {
            Duration::ZERO => "off".to_owned(),
            time => format_duration(time),
        },
        max_forwarded = settings.node.as_ref().map_or(MAX_FORWARDED, |node| node.max_forwarded),
        gateway_ports = match settings.node.as_ref().map(|node| node.gateway_ports) {
            Some(GatewayPorts::ClientSpecified) => "clientspecified",
            _ => "no",
        },
        too_old = if spool.too_old == TooOld::Delete { "delete" } else { "keep" },
    )
}

fn sessions(settings: &Settings) -> String {
    match settings.auth.as_ref().map(|auth| &auth.recording_store) {
        Some(RecordingPlace::Directory(path)) if *path != settings.data_dir.join("recordings") => {
            format!("    audit_sessions_uri: \"file://{}\"\n", path.display())
        }
        Some(RecordingPlace::S3(config)) => format!("    audit_sessions_uri: \"{config}\"\n"),
        _ => "    # audit_sessions_uri: \"s3://bucket/prefix?region=eu-west-1\"\n".to_owned(),
    }
}

fn public_addr(settings: &Settings) -> String {
    let Some(proxy) = settings.proxy.as_ref().filter(|proxy| !proxy.public_addresses.is_empty()) else {
        return "  # public_addr: proxy.example.com:3080\n".to_owned();
    };
    let mut port = proxy.public_port;
    let all = proxy.public_addresses.iter().map(|host| match port.take() {
        Some(port) => with_port(host, port),
        None => host.clone(),
    });
    let all: Vec<String> = all.map(|address| format!("{address:?}")).collect();
    format!("  public_addr: [{}]\n", all.join(", "))
}

fn https(settings: &Settings) -> String {
    // JSON is YAML.
    let text = |path: &Path| serde_json::Value::from(path.display().to_string());
    let files = |pairs: &[(PathBuf, PathBuf)]| {
        let pairs = pairs
            .iter()
            .map(|(key, chain)| serde_json::json!({"key_file": text(key), "cert_file": text(chain)}));
        serde_json::Value::from(pairs.collect::<Vec<_>>())
    };
    let mut lines = String::from(
        "  # What browsers are shown, instead of the cluster's own: files, or a certificate by ACME for the names in public_addr.\n",
    );
    let (pairs, acme) = match settings.proxy.as_ref().map(|proxy| &proxy.https) {
        Some(Https::Files { pairs, reload }) => {
            let reload = reload.map_or_else(|| "off".to_owned(), format_duration);
            (
                format!("  https_keypairs: {}\n  https_keypairs_reload_interval: {reload}\n", files(pairs)),
                None,
            )
        }
        Some(Https::Acme { config, ca_file, http_listen, external }) => {
            let fields = [
                ("enabled", Some(true.into())),
                ("uri", Some(config.directory_url().into())),
                ("email", config.contact().map(Into::into)),
                ("ca_file", ca_file.as_deref().map(text)),
                ("http_listen_addr", http_listen.map(|address| address.to_string().into())),
                ("eab_kid", external.as_ref().map(|(id, _)| id.as_str().into())),
                ("eab_hmac_file", external.as_ref().map(|(_, file)| text(file))),
            ];
            let fields = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
            let acme = serde_json::Value::Object(fields.collect());
            (String::new(), Some(format!("  acme: {acme}\n")))
        }
        _ => (
            "  # https_keypairs: [{key_file: /etc/ssl/proxy.key, cert_file: /etc/ssl/proxy.pem}]\n"
                .to_owned(),
            None,
        ),
    };
    lines.push_str(&pairs);
    lines
        .push_str(&acme.unwrap_or_else(|| "  # acme: {enabled: yes, email: admin@example.com}\n".to_owned()));
    lines
}

fn pam(settings: &Settings) -> String {
    match settings.node.as_ref().and_then(|node| node.pam.as_ref()) {
        None => "  # pam: {enabled: yes, service_name: sshd, environment: {TEAM: \"{{external.team}}\"}}\n"
            .to_owned(),
        Some(config) => {
            let variables: serde_json::Map<String, serde_json::Value> =
                config.variables().map(|(name, value)| (name.to_owned(), value.into())).collect();
            // JSON is YAML.
            let variables = serde_json::Value::Object(variables);
            format!(
                "  pam: {{enabled: yes, service_name: {}, environment: {variables}}}\n",
                config.service().name()
            )
        }
    }
}

fn recording_retention(settings: &Settings) -> String {
    let retention = settings.auth.as_ref().map(|auth| auth.retention).unwrap_or_default();
    let age = retention.max_age.map(|age| format!("    max_age: {}s\n", age.as_secs()));
    let size = retention.max_size.map(|size| format!("    max_size: {}\n", Size(size)));
    match (age, size) {
        (None, None) => "  # recording_retention: {max_age: 365d, max_size: 1TiB}\n".to_owned(),
        (age, size) => {
            format!("  recording_retention:\n{}{}", age.unwrap_or_default(), size.unwrap_or_default())
        }
    }
}

fn encryption(settings: &Settings) -> String {
    let (recipients, files) = match &settings.auth {
        Some(auth) => (&auth.recording_keys.0[..], &auth.recording_keys.1[..]),
        None => (&[][..], &[][..]),
    };
    let example = if recipients.is_empty() && files.is_empty() { "# " } else { "" };
    let recipients: Vec<String> = match recipients {
        [] if !example.is_empty() => vec!["age1…".to_owned()],
        keys => keys.iter().map(ToString::to_string).collect(),
    };
    let files: Vec<String> = match files {
        [] if !example.is_empty() => vec!["\"/etc/teleport.age\"".to_owned()],
        files => files.iter().map(|file| format!("{:?}", file.display().to_string())).collect(),
    };
    format!(
        "  {example}session_recording_encryption:\n  {example}  recipients: [{}]\n  {example}  identity_files: [{}]\n",
        recipients.join(", "),
        files.join(", ")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use teleport_core::access::RecordAt;

    use super::*;
    use crate::config::{FileConfig, Overrides, load, parse};

    #[test]
    fn the_sample_can_be_loaded_and_says_the_same() {
        let flags = Overrides {
            data_dir: Some("/tmp/x".into()),
            labels: Some("env=prod,team=a b".into()),
            nodename: Some("web-1".into()),
            ..Overrides::default()
        };
        let settings = Settings::resolve(FileConfig::default(), flags).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), sample(&settings)).unwrap();
        let again = Settings::resolve(load(file.path()).unwrap(), Overrides::default()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{settings:?}"));
    }

    #[test]
    fn modes_of_recording_come_from_the_file_and_go_back_into_it() {
        let resolve = |text: &str| {
            let file = parse(text).map_err(anyhow::Error::msg)?;
            Settings::resolve(file, Overrides::default())
        };
        let text = "auth_service:\n  session_recording: off\n  session_recording_rules:\n  - node_labels: {env: [prod, qa]}\n    mode: node-sync\n";
        let settings = resolve(text).unwrap();
        let recording = settings.auth.as_ref().unwrap().session_recording.clone();
        assert_eq!((recording.mode, recording.rules.len()), (RecordAt::Off, 1));
        assert!(recording.rules.iter().all(|rule| rule.mode == RecordAt::NodeSync));
        let again = resolve(&sample(&settings)).unwrap();
        assert_eq!(again.auth.unwrap().session_recording, recording);
        // One of the original that comes later, a word that is none, and rules for nobody.
        for (text, says) in [
            ("session_recording: proxy", "later version"),
            ("session_recording: sync", "node, node-sync or off"),
            ("session_recording_rules: [{node_labels: {}, mode: off}]", "matches no node"),
            ("session_recording_rules: [{node_labels: {a: \"{{internal.b}}\"}, mode: off}]", "template"),
            ("session_recording_rules: [{labels: {a: b}, mode: off}]", "node_labels"),
        ] {
            let error = format!("{:#}", resolve(&format!("auth_service:\n  {text}\n")).unwrap_err());
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn limits_of_the_spool_come_from_the_file_and_go_back_into_it() {
        let resolve = |text: &str| Settings::resolve(parse(text).unwrap(), Overrides::default());
        let settings =
            resolve("ssh_service:\n  recordings: {max_size: 64MiB, max_age: 36h, too_old: delete}\n")
                .unwrap();
        let limits = settings.node.as_ref().unwrap().recordings;
        assert_eq!((limits.max_bytes, limits.max_age.as_secs()), (64 << 20, 36 * 3600));
        assert_eq!(limits.too_old, TooOld::Delete);
        assert_eq!(resolve(&sample(&settings)).unwrap().node.unwrap().recordings, limits);
        for (text, says) in [("max_size: 1MiB", "at least 16MiB"), ("max_age: long", "like 90s")] {
            let error = resolve(&format!("ssh_service:\n  recordings: {{{text}}}\n")).unwrap_err();
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
    }

    #[test]
    fn how_long_connections_are_kept_comes_from_the_file_and_goes_back_into_it() {
        let resolve = |text: &str| Settings::resolve(parse(text).unwrap(), Overrides::default());
        for (text, time) in [("resume_for: 90s", 90), ("resume_for: off", 0), ("enabled: yes", 600)] {
            let settings = resolve(&format!("ssh_service:\n  {text}\n")).unwrap();
            assert_eq!(settings.node.as_ref().unwrap().resume_for.as_secs(), time, "{text}");
            assert_eq!(resolve(&sample(&settings)).unwrap().node.unwrap().resume_for.as_secs(), time);
        }
        for text in ["0s", "25h", "long"] {
            assert!(resolve(&format!("ssh_service:\n  resume_for: {text}\n")).is_err(), "{text}");
        }
    }

    #[test]
    fn how_much_is_forwarded_and_where_comes_from_the_file_and_goes_back_into_it() {
        let resolve = |text: &str| {
            let file = parse(&format!("ssh_service: {{{text}}}\n")).map_err(anyhow::Error::msg)?;
            Settings::resolve(file, Overrides::default())
        };
        for (text, most, ports) in [
            ("", 4096, GatewayPorts::No),
            ("max_forwarded: 1, gateway_ports: no", 1, GatewayPorts::No),
            ("max_forwarded: 65536, gateway_ports: \"no\"", 65_536, GatewayPorts::No),
            ("gateway_ports: clientspecified", 4096, GatewayPorts::ClientSpecified),
        ] {
            let settings = resolve(text).unwrap();
            let again = Settings::resolve(parse(&sample(&settings)).unwrap(), Overrides::default()).unwrap();
            for node in [settings.node.unwrap(), again.node.unwrap()] {
                assert_eq!((node.max_forwarded, node.gateway_ports), (most, ports), "{text}");
            }
        }
        for (text, says) in [
            ("max_forwarded: 0", "ssh_service.max_forwarded"),
            ("max_forwarded: 65537", "ssh_service.max_forwarded"),
            ("max_forwarded: -1", "line 1"),
            ("max_forwarded: many", "line 1"),
            ("gateway_ports: yes", "no or clientspecified"),
            ("gateway_ports: everywhere", "no or clientspecified"),
        ] {
            let error = format!("{:#}", resolve(text).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn displays_come_from_the_file_and_go_back_into_it() {
        let resolve = |text: &str| {
            let file = parse(&format!("ssh_service:\n  x11: {text}\n")).map_err(anyhow::Error::msg)?;
            Ok::<_, anyhow::Error>(Settings::resolve(file, Overrides::default())?.node.unwrap().x11)
        };
        assert_eq!(resolve("{}").unwrap(), None);
        assert_eq!(resolve("{display_offset: 20}").unwrap(), None);
        assert_eq!(resolve("{enabled: no}").unwrap(), None);
        let displays = resolve("{enabled: yes}").unwrap().unwrap();
        assert_eq!((displays.first(), displays.last()), (10, 1010));
        let text = "ssh_service:\n  x11: {enabled: yes, display_offset: 50, max_display: 60}\n";
        let settings = Settings::resolve(parse(text).unwrap(), Overrides::default()).unwrap();
        let again = Settings::resolve(parse(&sample(&settings)).unwrap(), Overrides::default()).unwrap();
        let displays = again.node.unwrap().x11.unwrap();
        assert_eq!((displays.first(), displays.last()), (50, 60));
        for bad in ["display_offset: 0", "display_offset: 9, max_display: 8", "max_display: 60000"] {
            let error = format!("{:#}", resolve(&format!("{{enabled: yes, {bad}}}")).unwrap_err());
            assert!(error.contains("ssh_service.x11") && error.contains("59535"), "{error}");
        }
        assert!(resolve("{enabled: perhaps}").is_err());
    }

    #[test]
    fn what_pam_is_asked_comes_from_the_file_and_goes_back_into_it() {
        let resolve = |text: &str| {
            let file = parse(&format!("ssh_service:\n  pam: {text}\n")).map_err(anyhow::Error::msg)?;
            Settings::resolve(file, Overrides::default())
        };
        for none in ["{}", "{enabled: no, use_pam_auth: no}", "{service_name: x}"] {
            assert!(resolve(none).unwrap().node.unwrap().pam.is_none(), "{none}");
        }
        let text = "{enabled: yes, service_name: teleport, environment: {TEAM: \"{{external.team}} \\\"x\\\"\", B: c}}";
        let settings = resolve(text).unwrap();
        let again = Settings::resolve(parse(&sample(&settings)).unwrap(), Overrides::default()).unwrap();
        let config = again.node.unwrap().pam.unwrap();
        assert_eq!(config.service().name(), "teleport");
        let variables: Vec<_> = config.variables().collect();
        assert_eq!(variables, [("B", "c"), ("TEAM", "{{external.team}} \"x\"")]);
        for (text, says) in [
            ("{enabled: yes, use_pam_auth: yes}", "use_pam_auth: users log in by certificates only"),
            ("{service_name: ../x}", "ssh_service.pam.service_name"),
            ("{environment: {\"A B\": c}}", "ssh_service.pam.environment"),
            ("{environment: {A: \"{{external\"}}", "ssh_service.pam.environment"),
            ("{use_pam_auth: perhaps}", "yes or no"),
        ] {
            let error = format!("{:#}", resolve(text).unwrap_err());
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn limits_of_recordings_come_from_the_file_and_go_back_into_it() {
        let text = "auth_service:\n  recordings:\n    max_size: 1536MiB\n    max_count_per_day: 7\n";
        let settings = Settings::resolve(parse(text).unwrap(), Overrides::default()).unwrap();
        let limits = settings.auth.as_ref().unwrap().recordings;
        let default = teleport_core::auth::RecordingLimits::default();
        assert_eq!((limits.recording_bytes, limits.host_day_recordings), (1536 << 20, 7));
        assert_eq!(limits.host_day_bytes, default.host_day_bytes);
        let printed = sample(&settings);
        assert!(
            printed.contains("max_size: 1536MiB") && printed.contains("max_size_per_day: 20GiB"),
            "{printed}"
        );
        let again = Settings::resolve(parse(&printed).unwrap(), Overrides::default()).unwrap();
        assert_eq!(again.auth.unwrap().recordings, limits);
        let short = parse("auth_service:\n  recordings: {max_size: 1B}\n").unwrap();
        let error = Settings::resolve(short, Overrides::default()).unwrap_err();
        assert!(error.to_string().contains("at least 1MiB"), "{error}");
        let none = parse("auth_service:\n  recordings: {max_count_per_day: 0}\n").unwrap();
        assert!(Settings::resolve(none, Overrides::default()).is_err());
    }
}
