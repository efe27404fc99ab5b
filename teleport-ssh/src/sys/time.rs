//! The time of day where this machine is.

/// A moment in the machine's time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalTime {
    pub(crate) year: i64,
    /// From 0.
    pub(crate) month0: u8,
    pub(crate) day: u8,
    pub(crate) hour: u8,
    pub(crate) minute: u8,
}

impl LocalTime {
    /// `None` for what no calendar has.
    pub(crate) fn of(unix_seconds: i64) -> Option<Self> {
        // SAFETY: a struct of numbers and a pointer, of which all zeros are values.
        let mut parts: libc::tm = unsafe { std::mem::zeroed() };
        // SAFETY: both live for the call, which keeps neither.
        if unsafe { libc::localtime_r(&raw const unix_seconds, &raw mut parts) }.is_null() {
            return None;
        }
        Some(Self {
            year: i64::from(parts.tm_year) + 1900,
            month0: u8::try_from(parts.tm_mon).ok()?,
            day: u8::try_from(parts.tm_mday).ok()?,
            hour: u8::try_from(parts.tm_hour).ok()?,
            minute: u8::try_from(parts.tm_min).ok()?,
        })
    }
}
