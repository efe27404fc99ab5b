//! What is told of a client's doings.

/// What was done to a file or a directory, or tried.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileOperation {
    /// What.
    pub action: FileAction,
    /// To what: as the client said it. What is no UTF-8 of it is replaced.
    pub path: String,
    /// The other name: where it was renamed to, what a link points to.
    pub target: Option<String>,
    /// Why it failed; `None` if it did not.
    pub error: Option<String>,
}

/// Kinds of [`FileOperation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileAction {
    /// A file was sent to the client by the older protocol of `scp`.
    Download {
        /// How much of it.
        bytes: u64,
    },
    /// A file was opened.
    Open {
        /// To be read.
        read: bool,
        /// To be written, or made.
        write: bool,
    },
    /// Permissions, owner, times or size were set.
    SetAttributes {
        /// The new permissions.
        mode: Option<u32>,
        /// The new user and group.
        owner: Option<(u32, u32)>,
        /// The new size.
        size: Option<u64>,
    },
    /// A file was taken from the client by the older protocol of `scp`.
    Upload {
        /// How much of it.
        bytes: u64,
    },
    /// A file was removed.
    Remove,
    /// A directory was made.
    MakeDir,
    /// A directory was removed.
    RemoveDir,
    /// It got another name.
    Rename,
    /// A symbolic link was made.
    SymLink,
    /// A second name was made for a file.
    Link,
}

impl FileOperation {
    pub(crate) fn failed(mut self, error: &str) -> Self {
        self.error = Some(if error.is_empty() { "it failed".to_owned() } else { error.to_owned() });
        self
    }
}
