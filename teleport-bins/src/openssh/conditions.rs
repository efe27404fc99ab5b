//! What stands in `Match` blocks, which `sshd -T` does not show: there a word counts for some connections and takes the place of ours.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where names of included files begin that are not absolute.
const SSH_DIR: &str = "/etc/ssh";
/// As deep as `sshd` goes.
const MAX_DEPTH: usize = 16;

/// A word in a `Match` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conditional {
    /// In small letters.
    pub(super) keyword: String,
    pub(super) value: String,
    pub(super) file: PathBuf,
    pub(super) line: usize,
}

/// All of them, in the configuration and in what it includes.
///
/// # Errors
/// A file cannot be read, or it is not clear which files are meant.
pub(super) fn conditional(config: &Path) -> Result<Vec<Conditional>> {
    let mut found = Vec::new();
    look(config, false, 0, &mut found)?;
    Ok(found)
}

fn look(file: &Path, mut within: bool, depth: usize, found: &mut Vec<Conditional>) -> Result<()> {
    if depth > MAX_DEPTH {
        bail!("{} is included too deeply", file.display());
    }
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    for (number, line) in (1..).zip(String::from_utf8_lossy(&text).lines()) {
        let Some((keyword, value)) = words(line) else { continue };
        match keyword.as_str() {
            // To the end of the file, or to the next one, which may be `Match all`: that is one as well.
            "match" => within = true,
            "include" => {
                for pattern in arguments(value) {
                    for included in files(&pattern)? {
                        // What begins there ends there.
                        look(&included, within, depth + 1, found)?;
                    }
                }
            }
            _ if within => found.push(Conditional {
                keyword,
                // As it counts: without quotes, and without what is behind it.
                value: arguments(value).join(" "),
                file: file.to_owned(),
                line: number,
            }),
            _ => {}
        }
    }
    Ok(())
}

/// The keyword and what follows, which a blank or an equals sign separates.
fn words(line: &str) -> Option<(String, &str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let (keyword, rest) = line.split_at_checked(end)?;
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim();
    Some((keyword.trim_matches('"').to_ascii_lowercase(), rest))
}

/// What stands there, with quotes taken off.
fn arguments(text: &str) -> Vec<String> {
    let (mut arguments, mut current, mut quoted) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match (quoted, c) {
            (Some(quote), _) if c == quote => quoted = None,
            (None, '"' | '\'') => quoted = Some(c),
            (None, '#') if current.is_empty() => break,
            (None, _) if c.is_whitespace() => arguments.push(std::mem::take(&mut current)),
            _ => current.push(c),
        }
    }
    arguments.push(current);
    arguments.retain(|argument| !argument.is_empty());
    arguments
}

/// The files that a pattern means. One that means none means none, as for `sshd`.
fn files(pattern: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(SSH_DIR).join(pattern);
    let wild = |text: &str| text.contains(['*', '?', '[', '\\']);
    if !wild(pattern) {
        return Ok(if path.exists() { vec![path] } else { Vec::new() });
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        bail!("it cannot be said which files Include {pattern} means");
    };
    if wild(&dir.to_string_lossy()) || name.contains(['[', '\\']) {
        bail!("it cannot be said which files Include {pattern} means");
    }
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|found| {
        (!found.starts_with('.') || name.starts_with('.')) && matches(name.as_bytes(), found.as_bytes())
    });
    names.sort();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Whether a name is one that a pattern of `*` and `?` means.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', pattern_rest)), _) => {
            matches(pattern_rest, name) || name.split_first().is_some_and(|(_, rest)| matches(pattern, rest))
        }
        (Some((b'?', pattern)), Some((_, name))) => matches(pattern, name),
        (Some((expected, pattern)), Some((found, name))) => expected == found && matches(pattern, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn words_within_match_blocks_are_found_wherever_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "main",
            &format!(
                "PermitTTY no\nInclude \"{0}/*.conf\" {0}/none\n# Match nothing\nmatch User git\n\n \
                 TrustedUserCAKeys=/a b\nInclude {0}/inner\nPubkeyAuthentication \"no\" # today\n",
                dir.path().display()
            ),
        );
        write("one.conf", "Match Address 10.0.0.0/8\n\tAuthorizedPrincipalsFile\t/etc/p\n");
        write("two.conf", "PubkeyAuthentication no\n");
        write(".hidden.conf", "Match all\nBanner none\n");
        write("three.con", "Match all\nBanner none\n");
        write("inner", "ForceCommand \"true\"\n");
        let found = conditional(&dir.path().join("main")).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|found| {
                let file = found.file.file_name().unwrap().to_str().unwrap();
                (found.keyword.as_str(), found.value.as_str(), file, found.line)
            })
            .collect();
        assert_eq!(
            found,
            [
                ("authorizedprincipalsfile", "/etc/p", "one.conf", 2),
                ("trustedusercakeys", "/a b", "main", 6),
                ("forcecommand", "true", "inner", 1),
                ("pubkeyauthentication", "no", "main", 8),
            ]
        );
    }

    #[test]
    fn what_is_unclear_or_without_end_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("main");
        for include in ["/etc/*/x.conf", "/etc/[ab].conf", main.to_str().unwrap()] {
            std::fs::write(&main, format!("Include {include}\n")).unwrap();
            assert!(conditional(&main).is_err(), "{include}");
        }
        assert!(conditional(&dir.path().join("none")).is_err());
    }

    #[test]
    fn patterns_are_those_of_shells() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", true),
            ("*.conf", "a.conf.new", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxc", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
