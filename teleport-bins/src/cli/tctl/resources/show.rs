//! Documents from the cluster.

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;
use teleport_core::api::ApiError;
use teleport_core::resource::{Document, Lock, authority_views, node_view};

use super::super::Context;
use super::reference::{Kind, Reference, Selection};
use crate::cli::backup::{BEGIN, end};
use crate::cli::{Format, print_json, table};

pub(super) async fn run(
    context: &Context,
    what: &[Selection],
    format: Format,
    with_secrets: bool,
) -> Result<()> {
    let backup = what.contains(&Selection::All);
    if with_secrets && !backup {
        bail!("--with-secrets belongs to a backup: tctl get all --with-secrets");
    }
    let mut documents = Vec::new();
    for selection in what {
        match selection {
            Selection::All => {
                for kind in Kind::ALL {
                    documents.extend(all(context, kind).await?);
                }
            }
            Selection::Kind(kind) => documents.extend(all(context, *kind).await?),
            Selection::One(reference) => documents.push(one(context, reference).await?),
        }
    }
    if with_secrets {
        if others_may_read_stdout() {
            eprintln!(
                "WARNING: others on this machine may read the file that this is written to: \
                 chmod 600 it, and run umask 077 before the next one"
            );
        }
        documents.push(value(&context.api.secrets().await?)?);
    }
    match format {
        Format::Json => {
            if backup {
                eprint!("{}", about(with_secrets));
            }
            print_json(&documents)
        }
        Format::Text if documents.is_empty() => Format::Text.print(&(), || none(what)),
        Format::Text => Format::Text.print(&(), || list(&documents)),
        Format::Yaml => {
            let mut text = if backup { about(with_secrets) } else { String::new() };
            for document in &documents {
                if !text.is_empty() {
                    text.push_str("---\n");
                }
                text.push_str(&serde_saphyr::to_string(document)?);
            }
            if backup {
                text.push_str(&end(documents.len()));
            }
            Format::Text.print(&(), || text)
        }
    }
}

/// What is said instead of a table without lines.
fn none(what: &[Selection]) -> String {
    match what {
        [Selection::Kind(kind)] => format!("There is no {}", kind.as_str()),
        _ => "There is nothing of it".to_owned(),
    }
}

/// Whether stdout is a file that is not for its owner alone.
fn others_may_read_stdout() -> bool {
    let file = std::io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let data = file.and_then(|file| file.metadata());
    data.is_ok_and(|data| data.is_file() && data.mode() & 0o077 != 0)
}

/// What a backup is good for.
fn about(with_secrets: bool) -> String {
    let secrets = if with_secrets {
        "# With secrets: password hashes, second factors, tokens, the keys of the authorities. Keys and second factors are sealed\n\
         # with the file master.key of the data directory, which is not in here and is needed to restore them.\n\
         # Keep this file as you keep the data directory.\n"
    } else {
        "# Without secrets: no passwords, second factors, tokens or keys of authorities (--with-secrets adds them). Restored users\n\
         # need new links (tctl users reset), and hosts must join again.\n"
    };
    format!(
        "{BEGIN} To restore it into an empty one: teleport start --bootstrap=FILE\n\
         # Nodes and authorities are here to be read; recordings and the audit log are not in it.\n\
         # It is the cluster of this moment: after a restore, remove again what was removed since.\n{secrets}"
    )
}

fn value(document: &impl Serialize) -> Result<Value> {
    Ok(serde_json::to_value(document)?)
}

async fn all(context: &Context, kind: Kind) -> Result<Vec<Value>> {
    let api = &context.api;
    match kind {
        Kind::Authority => authority_views(&api.trust().await?).iter().map(value).collect(),
        Kind::Lock => api.locks().await?.iter().map(value).collect(),
        Kind::Node => api.nodes().await?.iter().map(|node| value(&node_view(node))).collect(),
        Kind::Role => api.roles().await?.iter().map(value).collect(),
        Kind::Token => api.token_documents().await?.iter().map(value).collect(),
        Kind::User => api.user_documents().await?.iter().map(value).collect(),
    }
}

async fn one(context: &Context, reference: &Reference) -> Result<Value> {
    let api = &context.api;
    match reference.kind {
        Kind::Authority => {
            let views = authority_views(&api.trust().await?);
            let found = views.iter().find(|view| view.metadata.name == reference.name);
            value(found.ok_or_else(|| ApiError::not_found(reference))?)
        }
        Kind::Node => {
            let nodes = api.nodes().await?;
            let mut named = nodes.iter().filter(|node| {
                node.record.host_id.to_string() == reference.name
                    || node.record.name.as_str() == reference.name
            });
            match (named.next(), named.next()) {
                (Some(node), None) => value(&node_view(node)),
                (None, _) => Err(ApiError::not_found(reference).into()),
                _ => bail!("several nodes are named {:?}; say the id of the one you mean", reference.name),
            }
        }
        _ => match document(context, reference).await? {
            Document::Lock(lock) => value(&lock),
            Document::Role(role) => value(&role),
            Document::Token(token) => value(&token),
            Document::User(user) => value(&user),
            other => bail!("{} cannot be shown", other.kind()),
        },
    }
}

/// One resource that can be written.
pub(super) async fn document(context: &Context, reference: &Reference) -> Result<Document> {
    let api = &context.api;
    Ok(match reference.kind {
        Kind::Lock => Document::Lock(api.lock(reference.name.parse()?).await?),
        Kind::Role => Document::Role(api.role(reference.name.parse()?).await?),
        Kind::User => Document::User(api.user(reference.name.parse()?).await?),
        Kind::Token => {
            let tokens = api.token_documents().await?;
            let found = tokens.into_iter().find(|token| token.metadata.name == reference.name);
            Document::Token(found.ok_or_else(|| ApiError::not_found(reference))?)
        }
        Kind::Authority | Kind::Node => bail!("a {} cannot be written", reference.kind.as_str()),
    })
}

fn list(documents: &[Value]) -> String {
    let text = |document: &Value, path: &str| match document.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let labels = |document: &Value| {
        let mut line = String::new();
        for (key, value) in
            document.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten()
        {
            let comma = if line.is_empty() { "" } else { "," };
            let _ = write!(line, "{comma}{key}={}", value.as_str().unwrap_or_default());
        }
        line
    };
    if !documents.is_empty() && documents.iter().all(|document| text(document, "/kind") == "lock") {
        return table(
            ["Name", "Target", "Message", "Expires (UTC)"],
            documents.iter().map(|document| {
                let lock = serde_json::from_value::<Lock>(document.clone());
                let target = lock.ok().filter(Lock::is_readable);
                let expires = text(document, "/metadata/expires");
                [
                    text(document, "/metadata/name"),
                    target.map_or_else(|| "cannot be read".to_owned(), |lock| lock.spec.target.to_string()),
                    text(document, "/spec/message"),
                    if expires.is_empty() { "never".to_owned() } else { expires },
                ]
            }),
        );
    }
    table(
        ["Kind", "Name", "Revision", "Labels"],
        documents.iter().map(|document| {
            [
                text(document, "/kind"),
                text(document, "/metadata/name"),
                text(document, "/metadata/revision"),
                labels(document),
            ]
        }),
    )
}
