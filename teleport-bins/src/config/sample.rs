//! What `teleport configure` prints.

use teleport_backend::audit::file::SyncPolicy;
use teleport_ssh::record::TooOld;

use super::{RecordingPlace, Settings, Size, format_duration};
use crate::config::settings::without_port;

/// A commented configuration file that says what `settings` say.
pub fn sample(settings: &Settings) -> String {
    let yes = |on: bool| if on { "yes" } else { "no" };
    let auth_server = match settings.auth_servers.first() {
        Some(server) => format!("  auth_server: {server}\n"),
        None => "  # auth_server: auth.example.com:3025\n".to_owned(),
    };
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
    let advertise = settings.advertise.as_deref().map(without_port).unwrap_or("203.0.113.7");
    format!(
        "# Every key has the default that is shown; keys after # are examples.\n\
         version: v3\n\
         teleport:\n\
         \x20 # The name of this host in lists; its host name if left out.\n\
         \x20 nodename: {nodename}\n\
         \x20 # State, keys and recordings. Nobody else may write to it; what is secret in it only its owner can read.\n\
         \x20 data_dir: {data_dir}\n\
         \x20 # Where the auth service is, unless it runs here.\n\
         {auth_server}\
         \x20 # For the first start only: the secret of `tctl tokens add`, or a file that holds it.\n\
         {token}\
         \x20 # How this host recognises the cluster at its first start.\n\
         {pins}\
         \x20 # require_ca_pin: true\n\
         \x20 # The address that others reach this host by.\n\
         \x20 # advertise_ip: {advertise}\n\
         \x20 log:\n\
         \x20   severity: info # debug, info, warn, error\n\
         \x20   format:\n\
         \x20     output: text # text, json\n\
         \x20 storage:\n\
         \x20   type: redb # redb, memory\n\
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
         proxy_service:\n\
         \x20 enabled: {proxy}\n\
         \x20 web_listen_addr: 0.0.0.0:3080\n\
         \x20 listen_addr: 0.0.0.0:3023\n\
         \x20 # public_addr: proxy.example.com:3080\n\
         \x20 # https_keypairs: [{{key_file: /etc/ssl/proxy.key, cert_file: /etc/ssl/proxy.pem}}]\n\
         ssh_service:\n\
         \x20 enabled: {node}\n\
         \x20 listen_addr: 0.0.0.0:3022\n\
         {labels}\
         \x20 # What may wait for the auth service: recordings of so many bytes, half of it of one user, and for how long. Of what waits\n\
         \x20 # longer the audit log is told, and then it is kept, or deleted.\n\
         \x20 recordings:\n\
         \x20   max_size: {spool_size}\n\
         \x20   max_age: {spool_age}\n\
         \x20   too_old: {too_old} # keep, delete\n",
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
        proxy = yes(settings.proxy.is_some()),
        node = yes(settings.node.is_some()),
        spool_size = Size(spool.max_bytes),
        spool_age = format_duration(spool.max_age),
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
