//! What may be a password. Pure: the auth service decides by it, and a client can ask before it sends anything.
//!
//! Length is what counts, so there are no rules about kinds of characters. Refused is only what somebody who guesses tries
//! first: the user's own name, the commonest passwords with digits around them, runs, and one short piece again and again.

use zeroize::Zeroizing;

use crate::id::UserName;
use crate::secret::SecretString;

/// The shortest password, in bytes.
pub const MIN_PASSWORD_LEN: usize = 12;
/// The longest password, in bytes. Longer ones would only cost time.
pub const MAX_PASSWORD_LEN: usize = 128;

/// What must be left of a password without the user's name in it, in bytes.
const MIN_BESIDE_NAME: usize = 8;
/// Names that are shorter occur in words by chance.
const MIN_NAME_LEN: usize = 3;
/// How many different characters there are at least.
const MIN_DIFFERENT: usize = 6;

/// The commonest passwords, as [`folded`] leaves them: small letters, without digits at the ends, without repetition.
const COMMON: &[&str] = &[
    "abcdef",
    "admin",
    "administrator",
    "asdfgh",
    "asdfghjkl",
    "asdfghjklqwertyuiop",
    "baseball",
    "changeme",
    "computer",
    "default",
    "dragon",
    "football",
    "guest",
    "iloveyou",
    "letmein",
    "letmeinplease",
    "login",
    "master",
    "monkey",
    "mypassword",
    "newpassword",
    "passw",
    "passwd",
    "password",
    "passwort",
    "princess",
    "qazwsx",
    "qazwsxedc",
    "qazwsxedcrfv",
    "qwert",
    "qwerty",
    "qwertyui",
    "qwertyuiop",
    "qwertyuiopasdf",
    "qwertyuiopasdfghjkl",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertz",
    "qwertzuiop",
    "root",
    "secret",
    "secretpassword",
    "shadow",
    "starwars",
    "sunshine",
    "superman",
    "superuser",
    "sysadmin",
    "teleport",
    "temporary",
    "test",
    "testing",
    "thisisapassword",
    "thisismypassword",
    "topsecret",
    "trustno",
    "user",
    "welcome",
    "whatever",
    "zaqxsw",
    "zaqxswcde",
    "zxcvbnm",
];

/// Walks over the keyboard that digits are a part of, in small letters.
const WALKS: &[&str] = &[
    "1q2w3e4r5t6y",
    "1q2w3e4r5t6y7u8i9o0p",
    "1qaz2wsx3edc",
    "1qaz2wsx3edc4rfv",
    "q1w2e3r4t5y6",
    "qwer1234asdf",
    "zaq12wsxcde3",
    "zaq1xsw2cde3",
];

/// The text cannot be a user's password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeakPassword {
    /// One of those that are tried first.
    #[error(
        "the password is one of the commonest; choose another, such as four words that nobody expects together"
    )]
    Common,
    /// Too short or too long.
    #[error("a password has {MIN_PASSWORD_LEN} to {MAX_PASSWORD_LEN} bytes")]
    Length,
    /// Hardly more than the user's name.
    #[error("the password is hardly more than the user's name")]
    Name,
    /// A few characters again and again.
    #[error("the password has fewer than {MIN_DIFFERENT} different characters")]
    Repetitive,
}

/// Checks a password that `user` wants to have.
///
/// # Errors
/// [`WeakPassword`]; its text is for the user.
pub fn check_password(password: &SecretString, user: &UserName) -> Result<(), WeakPassword> {
    if !(MIN_PASSWORD_LEN..=MAX_PASSWORD_LEN).contains(&password.len()) {
        return Err(WeakPassword::Length);
    }
    let lower = Zeroizing::new(password.expose().to_lowercase());
    // The name alone, and the part of an address that is before its `@`.
    let local = user.as_str().split('@').next().unwrap_or_default();
    let hardly_more = |name: &str| {
        name.len() >= MIN_NAME_LEN && lower.contains(name) && beside(&lower, name) < MIN_BESIDE_NAME
    };
    if hardly_more(user.as_str()) || hardly_more(local) {
        return Err(WeakPassword::Name);
    }
    let mut different = Zeroizing::new(lower.chars().collect::<Vec<_>>());
    different.sort_unstable();
    different.dedup();
    if different.len() < MIN_DIFFERENT {
        return Err(WeakPassword::Repetitive);
    }
    let may_be_letter = |letter: char| letter.is_alphabetic() || letter == '@' || letter == '$';
    let common = [folded(&lower, char::is_alphabetic), folded(&lower, may_be_letter)]
        .iter()
        .any(|word| COMMON.contains(&word.as_str()));
    if common || is_run(lower.as_bytes()) || WALKS.contains(&lower.as_str()) {
        return Err(WeakPassword::Common);
    }
    Ok(())
}

/// How many bytes there are outside of `name`.
fn beside(password: &str, name: &str) -> usize {
    password.split(name).map(str::len).sum()
}

/// Whether each character follows the one before it, upwards or downwards: `123456789012`, `zyxwvutsrqpo`.
fn is_run(bytes: &[u8]) -> bool {
    let follows = |from: u8, to: u8| to == from.wrapping_add(1) || (from, to) == (b'9', b'0');
    let pairs = || bytes.iter().zip(bytes.iter().skip(1));
    pairs().all(|(a, b)| follows(*a, *b)) || pairs().all(|(a, b)| follows(*b, *a))
}

/// A password without what people add to a word to make it look like one: digits and signs at the ends, signs that stand for
/// letters, the word twice.
fn folded(lower: &str, begins_word: fn(char) -> bool) -> Zeroizing<String> {
    let word = lower.trim_matches(|letter| !begins_word(letter));
    let letters: Zeroizing<String> = Zeroizing::new(
        word.chars()
            .map(|letter| match letter {
                '0' => 'o',
                '1' | '!' => 'i',
                '3' => 'e',
                '4' | '@' => 'a',
                '5' | '$' => 's',
                '7' => 't',
                other => other,
            })
            .filter(|letter| letter.is_alphabetic())
            .collect(),
    );
    let whole = letters.as_str();
    let period = (1..=whole.len() / 2).find(|length| {
        whole.len().is_multiple_of(*length)
            && whole.get(..*length).is_some_and(|piece| whole.split(piece).all(str::is_empty))
    });
    let piece = period.and_then(|length| whole.get(..length)).unwrap_or(whole).to_owned();
    Zeroizing::new(piece)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn check(password: &str) -> Result<(), WeakPassword> {
        check_password(&SecretString::new(password), &UserName::new("alice@example.com").unwrap())
    }

    #[test]
    fn length_is_counted_in_bytes() {
        let words = "seventeen purple otters ".repeat(8);
        for (length, fits) in [(0, false), (11, false), (12, true), (128, true), (129, false)] {
            assert_eq!(check(&words[..length]).is_ok(), fits, "{length}");
        }
        assert!(check("äöüßéñ").is_ok(), "six letters are twelve bytes");
    }

    #[test]
    fn the_users_own_name_is_no_password() {
        for bad in [
            "alice@example.com",
            "ALICE@example.com1",
            "alice1234567",
            "AliceAliceAlice",
            "7654321alice",
            "alice-alice-",
        ] {
            assert_eq!(check(bad), Err(WeakPassword::Name), "{bad}");
        }
        assert_eq!(check("alice in her wonderland"), Ok(()));
        // Too short to mean the user.
        let short = UserName::new("al").unwrap();
        assert_eq!(check_password(&SecretString::new("alphabetical"), &short), Ok(()));
    }

    #[test]
    fn the_commonest_are_refused_however_they_are_dressed() {
        for bad in [
            "password1234",
            "Password1234!",
            "P@ssw0rd1234",
            "password1234$",
            "$ecret!23456",
            "p4$$w0rd!!!!",
            "passwordpassword",
            "123qwerty123",
            "qwertyuiop12",
            "QWERTYUIOPasdfghjkl",
            "administrator",
            "letmein12345",
            "Changeme1234",
            "iloveyou2026",
            "!!welcome2026!!",
            "1q2w3e4r5t6y",
            "1QAZ2wsx3EDC",
            "123456789012",
            "0987654321098",
            "abcdefghijkl",
            "teleport2026",
        ] {
            assert_eq!(check(bad), Err(WeakPassword::Common), "{bad}");
        }
        for bad in ["aaaaaaaaaaaa", "abababababab", "112211221122", "0000000000001234"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        for good in
            ["correct horse battery staple", "qwerty is not the whole", "tr0ub4dor and 3", "81920374651029"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn the_list_is_what_folding_leaves() {
        assert!(COMMON.is_sorted(), "to be found by people");
        for word in COMMON {
            // Otherwise the entry could never be met.
            let dressed = format!("12{word}34");
            assert!(COMMON.contains(&folded(&dressed, char::is_alphabetic).as_str()), "{word}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "\\PC{0,140}") {
            let _ = check(&text);
        }

        /// Random letters are never refused: the rules are about what people choose.
        #[test]
        fn what_a_password_manager_makes_is_good(text in "[a-zA-Z0-9]{20,40}") {
            prop_assert_eq!(check(&text), Ok(()));
        }
    }
}
