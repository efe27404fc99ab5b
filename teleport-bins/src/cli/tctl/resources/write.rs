//! Documents to the cluster.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use teleport_core::api::{ApiError, ApiErrorKind, CreateToken};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{EntropyExt, SystemEntropy};
use teleport_core::id::HostId;
use teleport_core::label::Labels;
use teleport_core::resource::{Document, Lock, Role, Token, User};
use teleport_core::secret::SecretString;

use super::super::{Context, nodes};
use super::input::Documents;
use super::reference::{Kind, Reference};
use super::show;

/// What may be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It may be there.
    Either,
    /// It must be there.
    Existing,
    /// It must not be there.
    New,
}

/// What became of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Created,
    Updated,
}

/// Writes all documents in their order; the first that cannot be written ends it, and those before it are written.
pub(super) async fn run(context: &Context, input: Documents, how: How) -> Result<()> {
    for document in input.documents {
        let place = format!("{}: line {}", input.source, document.line);
        let line = write(context, document.loaded.document, how).await.with_context(|| place)?;
        println!("{line}");
    }
    Ok(())
}

/// Writes one document; says what became of it.
pub(super) async fn write(context: &Context, document: Document, how: How) -> Result<String> {
    let (what, done) = match document {
        Document::Role(role) => {
            (format!("role {:?}", role.metadata.name), write_role(context, role, how).await?)
        }
        Document::User(user) => {
            let name = user.metadata.name.clone();
            let done = write_user(context, user, how).await?;
            let what = format!("user {name:?}");
            if done == Done::Created {
                return Ok(format!(
                    "{what} has been created, without a password: tctl users reset {name} prints the link for one"
                ));
            }
            (what, done)
        }
        Document::Lock(lock) => write_lock(context, lock, how).await?,
        Document::Token(token) => write_token(context, token, how).await?,
        Document::Secrets(_) => bail!(
            "the secrets of a backup are restored into a new cluster only, by teleport start --bootstrap=FILE"
        ),
        Document::Shown(kind) => bail!("a {kind} describes itself and cannot be written"),
        other => bail!("a {} cannot be written by this version", other.kind()),
    };
    Ok(match done {
        Done::Created => format!("{what} has been created"),
        Done::Updated => format!("{what} has been updated"),
    })
}

/// That it exists already is not the last word: says what can be done.
fn or_force(error: ApiError) -> anyhow::Error {
    if error.kind() == ApiErrorKind::Conflict {
        anyhow!("{error}; tctl create --force replaces it")
    } else {
        error.into()
    }
}

/// Whether it is not there, and may be made.
fn is_new(error: &ApiError, how: How) -> bool {
    how == How::Either && error.kind() == ApiErrorKind::NotFound
}

async fn write_role(context: &Context, role: Role, how: How) -> Result<Done> {
    if how != How::New {
        match context.api.replace_role(role.clone()).await {
            Ok(_) => return Ok(Done::Updated),
            Err(error) if is_new(&error, how) => {}
            Err(error) => return Err(error.into()),
        }
    }
    context.api.create_role(role).await.map_err(or_force)?;
    Ok(Done::Created)
}

async fn write_user(context: &Context, user: User, how: How) -> Result<Done> {
    if how != How::New {
        match context.api.replace_user(user.clone()).await {
            Ok(_) => return Ok(Done::Updated),
            Err(error) if is_new(&error, how) => {}
            Err(error) => return Err(error.into()),
        }
    }
    context.api.add_user(user).await.map_err(or_force)?;
    Ok(Done::Created)
}

/// A lock without a name is a new one, and is given one.
async fn write_lock(context: &Context, mut lock: Lock, how: How) -> Result<(String, Done)> {
    if lock.metadata.name.is_empty() {
        if how == How::Existing {
            bail!("metadata.name: say the name of the lock, as tctl get locks shows it");
        }
        lock.metadata.name = SystemEntropy::new().uuid()?.to_string();
    }
    let what = format!("lock {:?}", lock.metadata.name);
    if how != How::New {
        match context.api.replace_lock(lock.clone()).await {
            Ok(_) => return Ok((what, Done::Updated)),
            Err(error) if is_new(&error, how) => {}
            Err(error) => return Err(error.into()),
        }
    }
    context.api.create_lock(lock).await.map_err(or_force)?;
    Ok((what, Done::Created))
}

/// A token is found by its id, which the cluster gives it; one with a secret of its own is a new one.
async fn write_token(context: &Context, token: Token, how: How) -> Result<(String, Done)> {
    let id = token.metadata.name.clone();
    if how != How::New && !id.is_empty() {
        context.api.replace_token(token).await?;
        return Ok((format!("token {id:?}"), Done::Updated));
    }
    if how == How::Existing {
        bail!("metadata.name: say the id of the token, as tctl tokens ls shows it");
    }
    let Some(secret) = token.spec.secret else {
        bail!(
            "spec.secret: a document without the secret cannot make a token; write a secret, or run tctl tokens add"
        )
    };
    if !id.is_empty() {
        bail!("metadata.name: leave it out; the cluster gives tokens their ids");
    }
    let ttl = token.metadata.expires.map(|at| at.saturating_since(SystemClock::new().now()));
    if ttl.is_some_and(|ttl| ttl < Duration::from_secs(1)) {
        bail!("metadata.expires: it is over");
    }
    let request = CreateToken {
        roles: token.spec.roles,
        ttl: ttl.map(|ttl| ttl.as_secs()),
        uses: token.spec.uses,
        labels: token.spec.labels,
        value: Some(secret),
    };
    let created = context.api.create_token(request).await?;
    Ok((format!("token {:?}", created.info.id), Done::Created))
}

/// Sets the labels of a role, a user or a lock, under the revision that was read.
pub(super) async fn set_labels(context: &Context, resource: &Reference, labels: Labels) -> Result<()> {
    let labels = labels.as_map().clone();
    let document = match show::document(context, resource).await? {
        Document::Role(mut role) => {
            role.metadata.labels = labels;
            Document::Role(role)
        }
        Document::User(mut user) => {
            user.metadata.labels = labels;
            Document::User(user)
        }
        Document::Lock(mut lock) => {
            lock.metadata.labels = labels;
            Document::Lock(lock)
        }
        other => bail!("the labels of a {} cannot be set; those of roles, users and locks can", other.kind()),
    };
    println!("{}", write(context, document, How::Existing).await?);
    Ok(())
}

pub(super) async fn remove(context: &Context, resource: &Reference) -> Result<()> {
    let Reference { kind, name } = resource;
    match kind {
        Kind::Authority => bail!("the authorities of a cluster cannot be removed"),
        Kind::Node => {
            let id = match name.parse::<HostId>() {
                Ok(id) => id,
                Err(_) => nodes::find(context, name).await?,
            };
            context.api.delete_node(id).await?;
        }
        Kind::Lock => context.api.delete_lock(name.parse()?).await?,
        Kind::Role => context.api.delete_role(name.parse()?).await?,
        Kind::Token => context.api.delete_token(SecretString::new(name.as_str())).await?,
        Kind::User => context.api.delete_user(name.parse()?).await?,
    }
    match kind {
        // It may be the secret that was given.
        Kind::Token => println!("The token has been deleted"),
        _ => println!("{} {name:?} has been deleted", kind.as_str()),
    }
    Ok(())
}
