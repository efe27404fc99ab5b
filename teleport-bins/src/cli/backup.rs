//! The text of a backup: where it begins and ends is said in comments, for a file that was cut between two documents is as good a
//! file as a whole one.

/// How the first line begins.
pub(crate) const BEGIN: &str = "# Backup of a cluster.";
/// How the last line begins.
const END: &str = "# End of the backup, documents: ";

/// The last line of a backup.
pub(crate) fn end(documents: usize) -> String {
    format!("{END}{documents}\n")
}

/// Checks that a text with so many documents is whole. What was written by hand says nothing of itself, and is taken as it is.
///
/// # Errors
/// What is missing, and what to do.
pub(crate) fn check(text: &str, documents: usize) -> Result<(), String> {
    let begun = text.lines().filter(|line| line.starts_with(BEGIN)).count();
    let counts: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(END)).collect();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if begun == 0 && counts.is_empty() {
        return Ok(());
    }
    if begun != counts.len() || !last.starts_with(END) {
        return Err(format!(
            "the backup is not whole: its last line should begin with {:?}; take the whole file, or a new backup",
            END.trim_end()
        ));
    }
    let said = counts.iter().try_fold(0, |sum: usize, count| sum.checked_add(count.trim().parse().ok()?));
    if said != Some(documents) {
        return Err(format!(
            "the backup is not whole: it has {documents} documents, and its last line says {}; take the whole file, or, if \
             documents were left out or added on purpose, write the number of those that are there",
            counts.join(" and ")
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_not_whole() {
        let text =
            |documents: usize| format!("{BEGIN} To restore\n# it\na: 1\n---\nb: 2\n{}", end(documents));
        assert_eq!(check(&text(2), 2), Ok(()));
        assert_eq!(check("a: 1\n---\nb: 2\n", 2), Ok(()), "by hand");
        assert_eq!(check(&format!("{}\n\n", text(2)), 2), Ok(()));
        assert_eq!(check(&text(2).replace('\n', "\r\n"), 2), Ok(()));
        assert_eq!(check(&format!("{}---\n{}", text(2), text(2)), 4), Ok(()), "two in one file");
        let cut = text(2).replace(&end(2), "");
        for (text, documents, part) in [
            (cut.clone(), 2, "its last line should begin with \"# End of the backup"),
            (format!("{BEGIN}\n"), 0, "its last line"),
            (text(2).replace("\n---\nb: 2", ""), 1, "it has 1 documents, and its last line says 2"),
            (text(2).replace("documents: 2", "documents: x"), 2, "says x"),
            (text(2).replace(BEGIN, "#"), 2, "its last line"),
            (format!("{}---\n{cut}", text(2)), 4, "its last line"),
            (format!("{}---\nc: 3\n", text(2)), 3, "its last line"),
        ] {
            let error = check(&text, documents).err().unwrap_or_default();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
