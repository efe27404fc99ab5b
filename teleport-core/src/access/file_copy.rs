//! Commands by which SSH clients copy files: what `ssh_file_copy` is about.

/// Whether the line runs what a copying client starts on the far side: `scp -t` or `-f`, `rsync --server`, an SFTP server.
///
/// It looks at the words of the whole line, without quotes and whatever stands around them, and so finds rather too much: who wants to
/// run such a program in some other way is refused, too. It is no fence against a user with a shell, who can always write
/// `cat > file`; a list of permitted commands is.
pub(super) fn copies_files(line: &str) -> bool {
    let plain: String = line.chars().filter(|character| !matches!(character, '\'' | '"' | '\\')).collect();
    plain.split([';', '&', '|', '(', ')', '`', '\n', '{', '}']).any(|command| {
        let words: Vec<&str> = command.split_whitespace().collect();
        words.iter().enumerate().any(|(index, word)| {
            let follows = |flag: fn(&str) -> bool| words.iter().skip(index + 1).any(|word| flag(word));
            match word.rsplit('/').next().unwrap_or_default() {
                "scp" => follows(|word| is_short(word) && word.contains(['t', 'f'])),
                "rsync" => follows(|word| word == "--server" || word == "--daemon"),
                "internal-sftp" | "sftp-server" => true,
                _ => false,
            }
        })
    })
}

/// One letter, or several, after one dash.
fn is_short(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|flags| flags.bytes().all(|flag| flag.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_copying_clients_start_is_known() {
        for line in [
            "scp -t .",
            "scp -f /etc/passwd",
            "scp -r -p -d -t -- /tmp",
            "scp -rpt dir",
            "/usr/bin/scp -v -f x",
            "'scp' \"-t\" .",
            "s\\cp -t .",
            "exec scp -t .",
            "LANG=C sudo -u x scp -qf y",
            "cd /tmp && scp -t .",
            "true;scp -t .",
            "(scp -t .)",
            "echo $(scp -f x)",
            "echo `scp -f x`",
            "true\nscp -t .",
            "rsync --server -vlogDtpre.iLsfxCIvu . /tmp",
            "rsync --server --sender -e.LsfxC . x",
            "/usr/local/bin/rsync --server . x",
            "rsync --daemon --config=x",
            "/usr/lib/openssh/sftp-server",
            "internal-sftp",
            "exec /usr/libexec/sftp-server -l ERROR",
        ] {
            assert!(copies_files(line), "{line:?}");
        }
    }

    #[test]
    fn other_commands_are_left_alone() {
        for line in [
            "",
            "true",
            "ls -lt -f",
            "cat scp.txt",
            "echo scp; ls -t",
            "scp file other:",
            "scp -r --tff dir other:",
            "scp -P 22 -C a b:",
            "rsync -a a b:",
            "rsyncd-status --server",
            "man rsync",
            "sftp other",
            "systemctl status sftp-server.service",
            "/opt/scp/run -t",
        ] {
            assert!(!copies_files(line), "{line:?}");
        }
    }
}
