//! Debian's own sshd as the judge: the same commands, started by it and by us.
