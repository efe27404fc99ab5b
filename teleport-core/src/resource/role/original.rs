//! Roles of the original product, to roles of ours.

use serde_json::{Map, Value, json};

use super::Verb;
use super::keys::{join, unknown};
use super::load::{DocumentProblem, InvalidDocument, LoadedRole, read};
use super::original_names::{CONDITIONS, OPTIONS, OTHER_CONDITIONS, OTHER_KINDS, OTHER_OPTIONS, RESTRICTING};
use crate::suggest::did_you_mean;

/// What whoever relies on a restriction must hear.
const NOT_ENFORCED: &str = "not enforced: sessions are less restricted than the document says";

#[derive(Default)]
struct Import {
    ignored: Vec<String>,
    problems: Vec<DocumentProblem>,
}

/// Reads a document of one of the versions v3 to v8.
pub(super) fn load(document: &Value, version: &str) -> Result<LoadedRole, InvalidDocument> {
    let mut import = Import::default();
    let mut role = json!({ "kind": "role", "version": "v1" });
    let known = ["kind", "metadata", "spec", "sub_kind", "version"];
    for (key, value) in entries(document) {
        match key.as_str() {
            "kind" | "sub_kind" | "version" => {}
            "metadata" => put(&mut role, key, import.metadata(value)),
            "spec" => put(&mut role, key, import.spec(value, version)),
            _ => import.problems.push(unknown(key, key, known)),
        }
    }
    if role.get("spec").is_none() {
        import.problems.push(DocumentProblem::new("spec", "is missing"));
    }
    if !import.problems.is_empty() {
        return Err(InvalidDocument { problems: import.problems });
    }
    Ok(LoadedRole { role: read(role)?, ignored: import.ignored })
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn put(into: &mut Value, key: &str, value: Value) {
    if let Some(object) = into.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

/// What programs write for everything that nobody has set.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty() || items.iter().all(|item| item == "default"),
        Value::Bool(value) => !value,
        Value::Null => true,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Object(entries) => entries.values().all(says_nothing),
        Value::String(text) => {
            matches!(text.as_str(), "" | "default" | "off" | "optional" | "standard" | "0s")
        }
    }
}

/// Booleans are also written as words.
fn boolean(value: &Value) -> Value {
    match value.as_str() {
        Some("yes" | "on" | "true") => Value::Bool(true),
        Some("no" | "off" | "false") => Value::Bool(false),
        _ => value.clone(),
    }
}

impl Import {
    fn ignore(&mut self, path: &str, why: &str) {
        self.ignored.push(format!("{path}: {why}"));
    }

    /// Takes note of something that does not exist here, unless it says nothing.
    fn leave_out(&mut self, name: &str, value: &Value, path: &str) {
        if says_nothing(value) {
            return;
        }
        let restricts = RESTRICTING.contains(&name);
        self.ignore(path, if restricts { NOT_ENFORCED } else { "not about SSH, or not offered" });
    }

    fn metadata(&mut self, metadata: &Value) -> Value {
        let mut ours = json!({});
        let known = ["description", "expires", "id", "labels", "name", "namespace", "revision"];
        for (key, value) in entries(metadata) {
            let path = join("metadata", key);
            match key.as_str() {
                "description" | "expires" | "labels" | "name" if !value.is_null() => {
                    put(&mut ours, key, value.clone())
                }
                "namespace" if !says_nothing(value) => self.ignore(&path, "there are no namespaces"),
                _ if known.contains(&key.as_str()) => {}
                _ => self.problems.push(unknown(&path, key, known)),
            }
        }
        ours
    }

    fn spec(&mut self, spec: &Value, version: &str) -> Value {
        let mut ours = json!({});
        for (key, value) in entries(spec) {
            let path = join("spec", key);
            let part = match key.as_str() {
                "allow" | "deny" => self.conditions(value, &path),
                "options" => self.options(value, &path),
                _ => {
                    self.problems.push(unknown(&path, key, ["allow", "deny", "options"]));
                    continue;
                }
            };
            put(&mut ours, key, part);
        }
        // Up to v4, who could log in could join whatever ran as that login.
        if matches!(version, "v3" | "v4")
            && let Some(allow) = ours.get_mut("allow")
            && allow.get("join_sessions").is_none()
            && allow.get("logins").is_some_and(|logins| !says_nothing(logins))
        {
            let anybody = json!({
                "name": format!("default of {version}"),
                "roles": ["*"], "kinds": ["ssh"], "modes": ["*"], "with_login": true,
            });
            put(allow, "join_sessions", json!([anybody]));
        }
        // Up to v3, who could log in could do so everywhere.
        if version == "v3"
            && let Some(allow) = ours.get_mut("allow")
            && allow.get("node_labels").is_none()
            && allow.get("logins").is_some_and(|logins| !says_nothing(logins))
        {
            put(allow, "node_labels", json!({ "*": "*" }));
        }
        ours
    }

    fn options(&mut self, options: &Value, path: &str) -> Value {
        let mut ours = json!({});
        for (key, value) in entries(options) {
            let path = join(path, key);
            let name = key.as_str();
            if RESTRICTING.contains(&name) || OTHER_OPTIONS.contains(&name) {
                self.leave_out(name, value, &path);
                continue;
            }
            if value.is_null() {
                continue;
            }
            let converted = match name {
                "disconnect_expired_cert"
                | "forward_agent"
                | "permit_x11_forwarding"
                | "pin_source_ip"
                | "port_forwarding"
                | "ssh_file_copy" => boolean(value),
                "client_idle_timeout" if value == "never" => json!("0s"),
                "lock" if value == "" => continue,
                "record_session" => self.record_session(value, &path),
                "ssh_port_forwarding" => self.forwarding(value, &path),
                _ if OPTIONS.contains(&name) => value.clone(),
                _ => {
                    let known = OPTIONS.into_iter().chain(RESTRICTING).chain(OTHER_OPTIONS);
                    self.problems.push(unknown(&path, key, known));
                    continue;
                }
            };
            put(&mut ours, key, converted);
        }
        ours
    }

    fn record_session(&mut self, value: &Value, path: &str) -> Value {
        let mut ours = json!({});
        for (key, value) in entries(value) {
            match key.as_str() {
                "default" | "ssh" if !says_nothing(value) => put(&mut ours, key, value.clone()),
                "default" | "desktop" | "ssh" => {}
                _ => self.problems.push(unknown(&join(path, key), key, ["default", "desktop", "ssh"])),
            }
        }
        ours
    }

    fn forwarding(&mut self, value: &Value, path: &str) -> Value {
        let mut ours = json!({});
        for (direction, switch) in entries(value) {
            let path = join(path, direction);
            if direction != "local" && direction != "remote" {
                self.problems.push(unknown(&path, direction, ["local", "remote"]));
                continue;
            }
            for (key, value) in entries(switch) {
                match key.as_str() {
                    "enabled" if value.is_null() => {}
                    "enabled" => put(&mut ours, direction, json!({ "enabled": boolean(value) })),
                    _ => self.problems.push(unknown(&join(&path, key), key, ["enabled"])),
                }
            }
        }
        ours
    }

    fn conditions(&mut self, conditions: &Value, path: &str) -> Value {
        let mut ours = json!({});
        for (key, value) in entries(conditions) {
            let path = join(path, key);
            match key.as_str() {
                "rules" => {
                    let rules = value.as_array().into_iter().flatten().enumerate();
                    let rules: Vec<Value> = rules
                        .filter_map(|(index, rule)| self.rule(rule, &format!("{path}[{index}]")))
                        .collect();
                    put(&mut ours, key, Value::Array(rules));
                }
                "join_sessions" => {
                    let entries = value.as_array().into_iter().flatten().enumerate();
                    let entries: Vec<Value> = entries
                        .filter_map(|(index, entry)| self.join(entry, &format!("{path}[{index}]")))
                        .collect();
                    put(&mut ours, key, Value::Array(entries));
                }
                name if CONDITIONS.contains(&name) => {
                    let empty = value.is_null() || value == "";
                    if !empty {
                        put(&mut ours, key, value.clone());
                    }
                }
                name if RESTRICTING.contains(&name) || OTHER_CONDITIONS.contains(&name) => {
                    self.leave_out(name, value, &path);
                }
                "commands" => {
                    let message = "only roles of version v1, ours, restrict commands: write `version: v1`";
                    self.problems.push(DocumentProblem::new(&path, message));
                }
                _ => {
                    let known = CONDITIONS.into_iter().chain(OTHER_CONDITIONS).chain(["join_sessions"]);
                    self.problems.push(unknown(&path, key, known));
                }
            }
        }
        ours
    }

    /// `None` for an entry that is only about sessions of other kinds.
    fn join(&mut self, entry: &Value, path: &str) -> Option<Value> {
        const OTHER_SESSIONS: [&str; 4] = ["app", "db", "desktop", "k8s"];
        let mut ours = Map::new();
        for (key, value) in entries(entry) {
            let path = join(path, key);
            match key.as_str() {
                "kinds" => {
                    let other =
                        |kind: &&Value| kind.as_str().is_some_and(|kind| OTHER_SESSIONS.contains(&kind));
                    let (other, kinds): (Vec<&Value>, Vec<&Value>) =
                        value.as_array().into_iter().flatten().partition(other);
                    for kind in other {
                        self.ignore(&path, &format!("there are no sessions of the kind {kind}"));
                    }
                    if kinds.is_empty() {
                        return None;
                    }
                    ours.insert(key.clone(), kinds.into_iter().cloned().collect());
                }
                "modes" | "name" | "roles" => {
                    ours.insert(key.clone(), value.clone());
                }
                _ => self.problems.push(unknown(&path, key, ["kinds", "modes", "name", "roles"])),
            }
        }
        Some(Value::Object(ours))
    }

    /// `None` for a rule that is only about kinds that do not exist here.
    fn rule(&mut self, rule: &Value, path: &str) -> Option<Value> {
        let mut ours = Map::new();
        for (key, value) in entries(rule) {
            let path = join(path, key);
            match key.as_str() {
                "resources" => {
                    let kinds = value.as_array().into_iter().flatten().filter(|kind| self.kind(kind, &path));
                    let kinds: Vec<Value> = kinds.cloned().collect();
                    if kinds.is_empty() {
                        return None;
                    }
                    ours.insert(key.clone(), Value::Array(kinds));
                }
                "verbs" => {
                    for verb in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
                        let known = || Verb::EACH.iter().map(|verb| verb.as_str()).chain(["*"]);
                        if !known().any(|name| name == verb) {
                            let near = did_you_mean(verb, known());
                            self.problems.push(DocumentProblem::new(
                                &path,
                                format!("there is no verb {verb:?}{near}"),
                            ));
                        }
                    }
                    ours.insert(key.clone(), value.clone());
                }
                "where" => {
                    if !says_nothing(value) {
                        ours.insert(key.clone(), value.clone());
                    }
                }
                "actions" => {
                    if !says_nothing(value) {
                        self.ignore(&path, "not offered");
                    }
                }
                _ => self.problems.push(unknown(&path, key, ["actions", "resources", "verbs", "where"])),
            }
        }
        Some(Value::Object(ours))
    }

    /// Whether rules can be about it here.
    fn kind(&mut self, kind: &Value, path: &str) -> bool {
        let Some(kind) = kind.as_str() else { return true };
        if OTHER_KINDS.contains(&kind) {
            self.ignore(path, &format!("there are no resources of the kind {kind:?}"));
            return false;
        }
        // A wrong one is found when the role is compiled.
        true
    }
}
