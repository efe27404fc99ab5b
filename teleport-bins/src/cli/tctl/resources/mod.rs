//! `tctl get`, `create`, `update`, `edit` and `rm`: resources as documents.

mod edit;
mod input;
mod reference;
mod show;
mod write;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use teleport_core::label::Labels;

use self::reference::{Reference, Selection};
use super::super::Format;
use super::Context;

/// Which documents are written.
#[derive(Debug, Args)]
pub(super) struct Input {
    /// The file; `-` or nothing is stdin
    #[arg(value_name = "FILE")]
    positional: Option<PathBuf>,
    /// The file
    #[arg(short, long, value_name = "FILE", conflicts_with = "positional")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Get {
    /// What: kind, kind/name, or all; role, user, token, lock, node, cert_authority
    #[arg(required = true, value_delimiter = ',')]
    what: Vec<Selection>,
    /// How to print
    #[arg(long, value_enum, default_value = "yaml")]
    format: Format,
    /// In a backup, also what is secret, sealed with the master key of the auth service
    #[arg(long)]
    with_secrets: bool,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    input: Input,
    /// Replace what exists
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    #[command(flatten)]
    input: Input,
    /// Instead of a file, for the role, user or lock that is named (kind/name): its labels from now on, key=value,key=value
    #[arg(long, requires = "positional", conflicts_with = "file")]
    set_labels: Option<Labels>,
}

#[derive(Debug, Args)]
pub(super) struct Edit {
    /// The resource: role/name, user/name, token/id or lock/name
    resource: Reference,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The resources: role/name, user/name, token/id, lock/name, node/id
    #[arg(required = true)]
    resources: Vec<Reference>,
}

pub(super) async fn get(context: &Context, get: Get) -> Result<()> {
    show::run(context, &get.what, get.format, get.with_secrets).await
}

/// The list of locks.
pub(super) async fn locks(context: &Context, format: Format) -> Result<()> {
    show::run(context, &[Selection::Kind(reference::Kind::Lock)], format, false).await
}

pub(super) async fn create(context: &Context, create: Create) -> Result<()> {
    let how = if create.force { write::How::Either } else { write::How::New };
    write::run(context, input::read(&create.input)?, how).await
}

pub(super) async fn update(context: &Context, update: Update) -> Result<()> {
    match (update.set_labels, update.input.positional.as_deref().and_then(std::path::Path::to_str)) {
        (Some(labels), Some(resource)) => {
            let resource: Reference = resource.parse().map_err(anyhow::Error::msg)?;
            write::set_labels(context, &resource, labels).await
        }
        _ => write::run(context, input::read(&update.input)?, write::How::Existing).await,
    }
}

pub(super) async fn edit(context: &Context, edit: Edit) -> Result<()> {
    edit::run(context, &edit.resource).await
}

pub(super) async fn rm(context: &Context, rm: Rm) -> Result<()> {
    for resource in &rm.resources {
        write::remove(context, resource).await?;
    }
    Ok(())
}
