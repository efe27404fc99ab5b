//! `tctl edit`: a document in the editor of whoever runs it, until it can be written or is left as it is.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use teleport_core::resource::Document;
use tempfile::NamedTempFile;

use super::super::Context;
use super::input::parse;
use super::reference::Reference;
use super::{show, write};
use crate::cli::sanitize;

/// How often a text is offered.
const ATTEMPTS: u32 = 10;

pub(super) async fn run(context: &Context, resource: &Reference) -> Result<()> {
    let original = match show::document(context, resource).await? {
        Document::Lock(lock) => serde_saphyr::to_string(&lock)?,
        Document::Role(role) => serde_saphyr::to_string(&role)?,
        Document::Token(token) => serde_saphyr::to_string(&token)?,
        Document::User(user) => serde_saphyr::to_string(&user)?,
        other => bail!("a {} cannot be edited", other.kind()),
    };
    // Readable by its owner only; gone when this ends well.
    let file = tempfile::Builder::new().prefix("tctl-").suffix(".yaml").tempfile()?;
    let mut offered =
        format!("# {resource}: saved and closed, it is written; unchanged, nothing is done.\n{original}");
    // An editor that is a program may fail for ever.
    let mut attempts = 0;
    loop {
        attempts += 1;
        std::fs::write(file.path(), &offered).context("the temporary file cannot be written")?;
        if let Err(error) = open_editor(file.path()).await {
            // What was typed before is not thrown away.
            return if without_comments(&offered) == without_comments(&original) {
                Err(error)
            } else {
                give_up(file, &error)
            };
        }
        let text = std::fs::read_to_string(file.path()).context("the temporary file cannot be read")?;
        if without_comments(&text) == without_comments(&original) {
            println!("{resource} is as it was: nothing was done");
            return Ok(());
        }
        match save(context, resource, &text).await {
            Ok(line) => {
                println!("{line}");
                return Ok(());
            }
            // The same again leads nowhere.
            Err(error) if attempts >= ATTEMPTS || without_comments(&text) == without_comments(&offered) => {
                return give_up(file, &error);
            }
            Err(error) => {
                let line = sanitize(&format!("{error:#}"));
                offered = format!("# NOT WRITTEN: {line}\n{}", without_comments(&text));
            }
        }
    }
}

/// Says why nothing was written, and where the text is.
fn give_up(file: NamedTempFile, error: &anyhow::Error) -> Result<()> {
    let (_, path) = file.keep().context("the temporary file cannot be kept")?;
    bail!("nothing was written: {error:#}; the text is in {}", path.display())
}

async fn save(context: &Context, resource: &Reference, text: &str) -> Result<String> {
    let mut documents = parse("the document", text)?;
    let (Some(document), true) = (documents.pop(), documents.is_empty()) else {
        bail!("there must be one document")
    };
    let document = document.loaded.document;
    let name = match &document {
        Document::Lock(lock) => &lock.metadata.name,
        Document::Role(role) => &role.metadata.name,
        Document::Token(token) => &token.metadata.name,
        Document::User(user) => &user.metadata.name,
        _ => bail!("kind and name cannot be changed"),
    };
    if document.kind() != resource.kind.as_str() || *name != resource.name {
        bail!("kind and name cannot be changed; tctl create makes another");
    }
    write::write(context, document, write::How::Existing).await
}

/// The text without the lines that are comments as a whole.
fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

async fn open_editor(path: &Path) -> Result<()> {
    let set = |name: &str| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    std::io::stdout().flush()?;
    // By the shell, as git and crontab do: an editor may come with arguments.
    let status = tokio::process::Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(path)
        .status()
        .await
        .with_context(|| format!("the editor {editor:?} cannot be started"))?;
    if !status.success() {
        bail!("the editor {editor:?} ended with {status}; nothing was done");
    }
    Ok(())
}
