//! Descriptors from one process to another.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most descriptors of one message (`SCM_MAX_FD`).
const MOST: usize = 253;

/// Sends `bytes`, of which there must be one at least, and a copy of `descriptor` with them.
///
/// # Errors
/// The system's.
pub(crate) fn send(to: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let sent = sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives bytes, and the descriptor that came with them. No bytes are the end.
///
/// # Errors
/// The system's.
pub(crate) fn receive(from: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    // Of more than there is room for, the kernel leaves some behind that nobody closes: so there is room for all that it carries.
    let mut space = nix::cmsg_space!([RawFd; MOST]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(from.as_fd().as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut passed = None;
    for control in message.cmsgs()? {
        let ControlMessageOwned::ScmRights(descriptors) = control else { continue };
        for descriptor in descriptors {
            // SAFETY: the kernel has just made it for this process, and nobody else knows of it.
            let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
            passed.get_or_insert(descriptor);
        }
    }
    Ok((message.bytes, passed))
}
