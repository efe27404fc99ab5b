//! Where control sequences begin and end in what a program prints: pure.

/// The longest sequence that is looked at as a whole, in bytes. What is longer is none that anybody needs.
const MAX_SEQUENCE: usize = 4096;

/// What a byte is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Text, or a control character that stands alone.
    Plain,
    /// Of a sequence that is not over.
    Within,
    /// The last one of a sequence.
    End(Sequence),
}

/// A control sequence that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sequence {
    /// `ESC [`: what stands between that and the last byte, and the last byte.
    Csi { inner: Vec<u8>, last: u8 },
    /// `ESC` and one byte, or several.
    Escape(Vec<u8>),
    /// `ESC ]`: what stands up to its end.
    Osc(Vec<u8>),
    /// Anything else that ends with `ESC \`, or is too long, or was broken off.
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    Escape,
    Csi,
    Osc,
    /// DCS, SOS, PM, APC.
    Text,
    /// After an `ESC` within the last two.
    Ending {
        osc: bool,
    },
}

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;

/// Finds sequences, across any cuts of the stream.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    state: State,
    /// The sequence that is open or has just ended, from its `ESC`.
    raw: Vec<u8>,
    too_long: bool,
}

impl Scanner {
    /// Whether no sequence is open.
    pub(super) fn is_ground(&self) -> bool {
        self.state == State::Ground
    }

    /// The sequence that has just ended, as it was printed.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    fn hold(&mut self, byte: u8) -> Step {
        if self.raw.len() < MAX_SEQUENCE {
            self.raw.push(byte);
        } else {
            self.too_long = true;
        }
        Step::Within
    }

    /// Ends the sequence with this byte. Control characters in it, which terminals obey at once, make it one that nobody needs.
    fn end(&mut self, byte: u8, make: impl FnOnce(Vec<u8>) -> Sequence, closing: usize) -> Step {
        self.hold(byte);
        self.state = State::Ground;
        let end = self.raw.len().saturating_sub(closing);
        let inner = self.raw.get(2..end.max(2)).unwrap_or_default();
        let broken = self.too_long || inner.iter().any(|byte| *byte < 0x20);
        Step::End(if broken { Sequence::Other } else { make(inner.to_vec()) })
    }

    fn begin(&mut self) -> Step {
        self.state = State::Escape;
        self.raw.clear();
        self.too_long = false;
        self.hold(ESC)
    }

    fn enter(&mut self, state: State, byte: u8) -> Step {
        self.state = state;
        self.hold(byte)
    }

    /// Takes the next byte.
    pub(super) fn next(&mut self, byte: u8) -> Step {
        let first = self.raw.len() == 1;
        match (self.state, byte) {
            (State::Ground, ESC) => self.begin(),
            (State::Ground, _) => Step::Plain,
            (_, CAN | SUB) => self.end(byte, |_| Sequence::Other, 0),
            (State::Escape | State::Csi, ESC) => self.begin(),
            (State::Escape, b'[') if first => self.enter(State::Csi, byte),
            (State::Escape, b']') if first => self.enter(State::Osc, byte),
            (State::Escape, b'P' | b'X' | b'^' | b'_') if first => self.enter(State::Text, byte),
            (State::Escape, 0x20..=0x2f) => self.hold(byte),
            (State::Escape, _) => {
                let step = self.end(byte, |_| Sequence::Other, 0);
                match self.raw.get(1..) {
                    Some(bytes) if !self.too_long && bytes.iter().all(|byte| *byte >= 0x20) => {
                        Step::End(Sequence::Escape(bytes.to_vec()))
                    }
                    _ => step,
                }
            }
            (State::Csi, 0x40..=0x7e) => self.end(byte, |inner| Sequence::Csi { inner, last: byte }, 1),
            (State::Osc, BEL) => self.end(byte, Sequence::Osc, 1),
            (State::Osc, ESC) => self.enter(State::Ending { osc: true }, byte),
            (State::Text, ESC) => self.enter(State::Ending { osc: false }, byte),
            (State::Csi | State::Osc | State::Text, _) => self.hold(byte),
            (State::Ending { osc: true }, b'\\') => self.end(byte, Sequence::Osc, 2),
            (State::Ending { osc: false }, b'\\') => self.end(byte, |_| Sequence::Other, 0),
            // It was broken off by another sequence.
            (State::Ending { .. }, _) => {
                self.begin();
                self.next(byte)
            }
        }
    }
}
