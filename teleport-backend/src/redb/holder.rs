//! Which process holds a lock, for the error message.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// The process that holds the file's lock, as far as Linux tells.
pub(super) fn pid(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder(line, metadata.ino()))
}

/// Lines look like `1: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF`. The device is not compared: overlay file systems
/// report another one there, and a wrong guess costs no more than a word in a message.
fn holder(line: &str, inode: u64) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (kind, _, _, pid, place) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let held: u64 = place.rsplit(':').next()?.parse().ok()?;
    // A waiting process is listed as `-> FLOCK ...`; its kind is then `->`.
    (kind == "FLOCK" && held == inode).then(|| pid.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_holder_of_this_file_is_named() {
        assert_eq!(holder("1: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF", 131), Some(4242));
        assert_eq!(holder("1: FLOCK  ADVISORY  WRITE 4242 fe:00:132 0 EOF", 131), None);
        assert_eq!(holder("1: -> FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF", 131), None);
        assert_eq!(holder("2: OFDLCK ADVISORY  WRITE -1 fe:00:131 0 EOF", 131), None);
        assert_eq!(holder("nonsense", 131), None);
    }
}
