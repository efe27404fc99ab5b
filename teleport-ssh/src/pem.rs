//! PEM (RFC 7468): binary documents as lines of text.

use data_encoding::BASE64;
use zeroize::Zeroizing;

const COLUMNS: usize = 64;

/// A document as text, with a line feed at its end.
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(BASE64.encode(der));
    // Never grown: what is given back to the allocator is not wiped.
    let mut text = Zeroizing::new(String::with_capacity(
        base64.len() + base64.len() / COLUMNS + 2 * (label.len() + COLUMNS),
    ));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(COLUMNS));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// The document between the first and the last line; `None` if it is not base64. White space does not count.
pub fn decode(body: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut base64 = Zeroizing::new(String::with_capacity(body.len()));
    base64.extend(body.split_ascii_whitespace());
    BASE64.decode(base64.as_bytes()).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_short_and_come_back() {
        for len in [0, 1, 47, 48, 49, 96, 1000] {
            let der: Vec<u8> = (0..len).map(|byte| u8::try_from(byte % 251).unwrap_or(0)).collect();
            let text = encode("CERTIFICATE", &der);
            assert!(text.starts_with("-----BEGIN CERTIFICATE-----\n"), "{text:?}");
            assert!(text.ends_with("\n-----END CERTIFICATE-----\n"), "{text:?}");
            let body: Vec<&str> = text.lines().filter(|line| !line.starts_with('-')).collect();
            assert!(body.iter().all(|line| (1..=64).contains(&line.len())), "{text:?}");
            assert_eq!(decode(&body.join("\r\n")).as_deref(), Some(&der));
        }
        assert_eq!(decode("A"), None);
        assert_eq!(decode("====").as_deref(), None);
        assert_eq!(decode("ä"), None);
    }
}
