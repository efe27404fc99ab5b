//! Terminal modes as a client encodes them in `pty-req` (RFC 4254, section 8).

#[cfg(test)]
mod tests;

/// More than the two hundred opcodes that exist cannot be meant; the rest is not read. In bytes.
const ENCODED_LIMIT: usize = 256 * 5;
const OP_END: u8 = 0;
/// Opcodes from here on have no defined argument, so that nothing after them can be read.
const OP_UNDEFINED: u8 = 160;
const OP_INPUT_SPEED: u8 = 128;
const OP_OUTPUT_SPEED: u8 = 129;
/// The value by which a client says that a control character is switched off.
const DISABLED: u32 = 255;

/// The terminal modes that a client asks for: opcode and value, as sent, without the unknown ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TerminalModes(Vec<(u8, u32)>);

impl TerminalModes {
    /// Decodes the string of a `pty-req`.
    ///
    /// Never fails: decoding ends at the end mark, at an opcode whose argument is undefined, at a cut
    /// argument, or after 256 modes, and what was read until then counts. Unknown opcodes are skipped.
    #[must_use]
    pub fn parse(encoded: &[u8]) -> Self {
        let encoded = encoded.get(..ENCODED_LIMIT).unwrap_or(encoded);
        let (records, _) = encoded.as_chunks::<5>();
        let pairs = records.iter().map(|[opcode, value @ ..]| (*opcode, u32::from_be_bytes(*value)));
        Self::from_pairs(pairs.take_while(|(opcode, _)| *opcode != OP_END && *opcode < OP_UNDEFINED))
    }

    /// Takes modes that something else has decoded; the first 256 count, unknown opcodes are skipped.
    #[must_use]
    pub fn from_pairs(pairs: impl IntoIterator<Item = (u8, u32)>) -> Self {
        let limit = ENCODED_LIMIT / 5;
        Self(pairs.into_iter().take(limit).filter(|(opcode, _)| target(*opcode).is_some()).collect())
    }

    /// The modes in the order in which they apply.
    pub fn iter(&self) -> impl Iterator<Item = (u8, u32)> {
        self.0.iter().copied()
    }

    /// Changes a terminal's settings to what the client asks for; what it does not mention stays.
    pub fn apply(&self, settings: &mut libc::termios) {
        for &(opcode, value) in &self.0 {
            match target(opcode) {
                Some(Target::Character(index)) => {
                    if let Some(slot) = settings.c_cc.get_mut(index) {
                        // A wider value cannot be a character; OpenSSH, too, takes its low byte.
                        let [.., low] = value.to_be_bytes();
                        *slot = if value == DISABLED { libc::_POSIX_VDISABLE } else { low };
                    }
                }
                Some(Target::Input(mask)) => set(&mut settings.c_iflag, mask, value),
                Some(Target::Local(mask)) => set(&mut settings.c_lflag, mask, value),
                Some(Target::Output(mask)) => set(&mut settings.c_oflag, mask, value),
                Some(Target::Control(mask)) => set(&mut settings.c_cflag, mask, value),
                // Seven bits come before eight on the wire, and a client of eight bits sends both.
                Some(Target::Size(size)) if value != 0 => {
                    settings.c_cflag = (settings.c_cflag & !libc::CSIZE) | size;
                }
                Some(Target::Size(_)) | None => {}
                Some(Target::Speed) => {
                    if let Some(speed) = speed(value) {
                        // SAFETY: both write only into the settings that we own.
                        unsafe {
                            if opcode == OP_INPUT_SPEED {
                                libc::cfsetispeed(settings, speed);
                            } else {
                                libc::cfsetospeed(settings, speed);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where an opcode goes.
enum Target {
    Character(usize),
    Control(libc::tcflag_t),
    Input(libc::tcflag_t),
    Local(libc::tcflag_t),
    Output(libc::tcflag_t),
    Size(libc::tcflag_t),
    Speed,
}

fn target(opcode: u8) -> Option<Target> {
    use Target::{Character, Control, Input, Local, Output, Size, Speed};
    Some(match opcode {
        1 => Character(libc::VINTR),
        2 => Character(libc::VQUIT),
        3 => Character(libc::VERASE),
        4 => Character(libc::VKILL),
        5 => Character(libc::VEOF),
        6 => Character(libc::VEOL),
        7 => Character(libc::VEOL2),
        8 => Character(libc::VSTART),
        9 => Character(libc::VSTOP),
        10 => Character(libc::VSUSP),
        12 => Character(libc::VREPRINT),
        13 => Character(libc::VWERASE),
        14 => Character(libc::VLNEXT),
        #[cfg(target_os = "linux")]
        16 => Character(libc::VSWTC),
        18 => Character(libc::VDISCARD),
        30 => Input(libc::IGNPAR),
        31 => Input(libc::PARMRK),
        32 => Input(libc::INPCK),
        33 => Input(libc::ISTRIP),
        34 => Input(libc::INLCR),
        35 => Input(libc::IGNCR),
        36 => Input(libc::ICRNL),
        #[cfg(target_os = "linux")]
        37 => Input(libc::IUCLC),
        38 => Input(libc::IXON),
        39 => Input(libc::IXANY),
        40 => Input(libc::IXOFF),
        41 => Input(libc::IMAXBEL),
        42 => Input(libc::IUTF8),
        50 => Local(libc::ISIG),
        51 => Local(libc::ICANON),
        #[cfg(target_os = "linux")]
        52 => Local(libc::XCASE),
        53 => Local(libc::ECHO),
        54 => Local(libc::ECHOE),
        55 => Local(libc::ECHOK),
        56 => Local(libc::ECHONL),
        57 => Local(libc::NOFLSH),
        58 => Local(libc::TOSTOP),
        59 => Local(libc::IEXTEN),
        60 => Local(libc::ECHOCTL),
        61 => Local(libc::ECHOKE),
        62 => Local(libc::PENDIN),
        70 => Output(libc::OPOST),
        #[cfg(target_os = "linux")]
        71 => Output(libc::OLCUC),
        72 => Output(libc::ONLCR),
        73 => Output(libc::OCRNL),
        74 => Output(libc::ONOCR),
        75 => Output(libc::ONLRET),
        90 => Size(libc::CS7),
        91 => Size(libc::CS8),
        92 => Control(libc::PARENB),
        93 => Control(libc::PARODD),
        OP_INPUT_SPEED | OP_OUTPUT_SPEED => Speed,
        _ => return None,
    })
}

fn set(flags: &mut libc::tcflag_t, mask: libc::tcflag_t, value: u32) {
    if value == 0 { *flags &= !mask } else { *flags |= mask }
}

/// The speeds that a terminal driver has codes for. A pseudo-terminal has no speed, but programs ask for it
/// to decide how much to draw; an unknown speed changes nothing.
fn speed(bits_per_second: u32) -> Option<libc::speed_t> {
    Some(match bits_per_second {
        50 => libc::B50,
        75 => libc::B75,
        110 => libc::B110,
        134 => libc::B134,
        150 => libc::B150,
        200 => libc::B200,
        300 => libc::B300,
        600 => libc::B600,
        1200 => libc::B1200,
        1800 => libc::B1800,
        2400 => libc::B2400,
        4800 => libc::B4800,
        9600 => libc::B9600,
        19_200 => libc::B19200,
        38_400 => libc::B38400,
        57_600 => libc::B57600,
        115_200 => libc::B115200,
        230_400 => libc::B230400,
        _ => return None,
    })
}
