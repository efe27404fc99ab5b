//! The part of an account that only root may read.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use zeroize::Zeroizing;

/// Sizes of the buffer for one entry, in bytes; an entry larger than the largest is an error.
const FIRST_BUFFER: usize = 1024;
const LARGEST_BUFFER: usize = 64 * 1024;
const DAY_SECONDS: i64 = 86_400;

/// What the shadow file says about an account's state. The password hash does not leave the lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shadow {
    /// Whether the password field starts with the mark that matches no password.
    pub(super) is_locked: bool,
    /// The day since 1970 from which the account is closed; negative for never.
    pub(super) expires_on_day: i64,
}

impl Shadow {
    /// Reads the entry of a login name; `None` where there is none. May block on the name service.
    pub(super) fn lookup(login: &str) -> io::Result<Option<Self>> {
        let name = CString::new(login)?;
        let mut size = FIRST_BUFFER;
        loop {
            let mut buffer = Zeroizing::new(vec![0u8; size]);
            let mut entry = MaybeUninit::<libc::spwd>::uninit();
            let mut found: *mut libc::spwd = ptr::null_mut();
            // SAFETY: the name ends in NUL, the buffer's length is told truly, and the three out-pointers
            // are valid for writes for the whole call.
            let answer = unsafe {
                libc::getspnam_r(
                    name.as_ptr(),
                    entry.as_mut_ptr(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    &raw mut found,
                )
            };
            match answer {
                libc::ERANGE if size < LARGEST_BUFFER => size *= 4,
                0 | libc::ENOENT if found.is_null() => return Ok(None),
                0 => {
                    // SAFETY: on success with a found entry the call has filled `entry` and points `found`
                    // at it, and its strings into `buffer`, which lives until the end of this block.
                    let entry = unsafe { &*found };
                    let is_locked = if entry.sp_pwdp.is_null() {
                        false
                    } else {
                        // SAFETY: not null, and a NUL-terminated string inside `buffer`, as above.
                        unsafe { CStr::from_ptr(entry.sp_pwdp) }.to_bytes().starts_with(b"!")
                    };
                    return Ok(Some(Self { is_locked, expires_on_day: widen(entry.sp_expire) }));
                }
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    /// Whether the account is closed at this time.
    ///
    /// As `pam_unix` counts: the account is closed from the first second of the day on, and day 0, which
    /// `shadow(5)` leaves open to interpretation, is in the past.
    pub(super) fn is_expired(&self, unix_seconds: i64) -> bool {
        self.expires_on_day >= 0 && unix_seconds.div_euclid(DAY_SECONDS) >= self.expires_on_day
    }
}

/// A `long` has 32 or 64 bits, by the machine.
fn widen(day: impl Into<i64>) -> i64 {
    day.into()
}
