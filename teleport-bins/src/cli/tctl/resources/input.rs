//! Documents from a file or from stdin.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::Input;
use crate::cli::sanitize;
use crate::config::yaml::{LocatedDocument, resources};

/// Documents, and where they are from.
pub(super) struct Documents {
    pub(super) source: String,
    pub(super) documents: Vec<LocatedDocument>,
}

/// Reads all documents before anything is written. What of them is ignored is told on stderr.
pub(super) fn read(input: &Input) -> Result<Documents> {
    let path = input.file.as_deref().or(input.positional.as_deref()).filter(|path| *path != Path::new("-"));
    let (source, text) = match path {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            (path.display().to_string(), text)
        }
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("stdin cannot be read")?;
            ("stdin".to_owned(), text)
        }
    };
    let documents = parse(&source, &text)?;
    if documents.is_empty() {
        bail!("{source}: there is no document in it");
    }
    Ok(Documents { source, documents })
}

/// Reads documents and tells what of them is ignored.
pub(super) fn parse(source: &str, text: &str) -> Result<Vec<LocatedDocument>> {
    let documents = resources(text).map_err(|error| anyhow::anyhow!("{source}: {error}"))?;
    for line in documents.iter().flat_map(|document| &document.loaded.ignored) {
        eprintln!("WARNING: {source}: {}", sanitize(line));
    }
    Ok(documents)
}
