//! Text of bytes that come in pieces.

/// Turns bytes into text: a character that is split between two pieces waits for the rest, and bytes that are no UTF-8 become U+FFFD.
#[derive(Debug, Default)]
pub struct Utf8 {
    /// The beginning of a character, at most three bytes.
    partial: Vec<u8>,
}

impl Utf8 {
    /// Before the first piece.
    pub const fn new() -> Self {
        Self { partial: Vec::new() }
    }

    /// Whether no character waits for its rest.
    pub const fn is_whole(&self) -> bool {
        self.partial.is_empty()
    }

    /// The text of the next piece.
    pub fn text(&mut self, data: &[u8]) -> String {
        let joined;
        let data = if self.partial.is_empty() {
            data
        } else {
            self.partial.extend_from_slice(data);
            joined = std::mem::take(&mut self.partial);
            &joined
        };
        let mut text = String::with_capacity(data.len());
        let mut read = 0;
        for chunk in data.utf8_chunks() {
            read += chunk.valid().len() + chunk.invalid().len();
            text.push_str(chunk.valid());
            let incomplete =
                |bytes| matches!(str::from_utf8(bytes), Err(error) if error.error_len().is_none());
            match chunk.invalid() {
                [] => {}
                rest if read == data.len() && incomplete(rest) => self.partial = rest.to_vec(),
                _ => text.push(char::REPLACEMENT_CHARACTER),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_character_may_be_split() {
        let mut utf8 = Utf8::new();
        assert_eq!(utf8.text(b"caf\xc3"), "caf");
        assert_eq!(utf8.text(b"\xa9\xff\xe2"), "é\u{fffd}");
        assert_eq!(utf8.text(b"\x82"), "");
        assert_eq!(utf8.text(b"\xac\xe2\x82x\xe2\x82"), "€\u{fffd}x");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where(bytes in proptest::collection::vec(
            prop_oneof![Just(0x41u8), Just(0xc2), Just(0xe2), Just(0x82), Just(0xac), Just(0xf0), Just(0x9f), any::<u8>()],
            0..40,
        ), size in 1usize..6) {
            let mut utf8 = Utf8::new();
            let mut pieces: String = bytes.chunks(size).map(|piece| utf8.text(piece)).collect();
            if !utf8.partial.is_empty() {
                pieces.push(char::REPLACEMENT_CHARACTER);
            }
            prop_assert_eq!(pieces, String::from_utf8_lossy(&bytes));
        }
    }
}
