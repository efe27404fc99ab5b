//! What the daemon can do for the memory of its host.

use std::io;
use std::os::unix::fs::MetadataExt;

/// Lets go of the program's code: pages that are needed again come back from the file, one by one, those that only the start
/// needed do not. A daemon that serves needs a third of what it touched to read its configuration and to join.
///
/// Changes nothing but how much memory is resident; answers how many bytes of address space were let go of.
///
/// # Errors
/// When the kernel does not say what is mapped.
pub fn release_code() -> io::Result<usize> {
    let own = std::fs::metadata("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut released = 0;
    for (start, len) in maps.lines().filter_map(|line| code_of(line, own.ino())) {
        // SAFETY: the range is a private mapping of a file that is readable and executable and was never writable, so no page of
        // it differs from the file; the kernel reads each again when it is needed. A running program's file cannot be written.
        let answer = unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED) };
        if answer == 0 {
            released += len;
        }
    }
    Ok(released)
}

/// Start and length of a mapping of the program's code: `start-end r-xp offset device inode path`.
fn code_of(line: &str, inode: u64) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "r-xp" && fields.nth(2)?.parse() == Ok(inode);
    let start = usize::from_str_radix(start, 16).ok()?;
    let len = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
    is_code.then_some((start, len))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_let_go_of() {
        let line = |mode, inode| {
            format!("55bb8cdf8000-55bb8cdfa000 {mode} 00300000 fe:00 {inode}    /usr/bin/teleport")
        };
        assert_eq!(code_of(&line("r-xp", 7), 7), Some((0x55bb_8cdf_8000, 0x2000)));
        assert_eq!(code_of(&line("r-xp", 8), 7), None);
        assert_eq!(code_of(&line("r--p", 7), 7), None);
        assert_eq!(code_of("7ffd0000-7ffd1000 r-xp 00000000 00:00 0    [vdso]", 7), None);
        assert_eq!(code_of("", 7), None);
    }

    #[test]
    fn the_program_goes_on() {
        assert!(release_code().unwrap() > 0);
        assert_eq!(format!("{:?}", [1, 2]), "[1, 2]");
    }
}
