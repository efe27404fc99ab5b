//! The display of this machine, and the cookie for programs on the node: asked of `xauth`, which keeps them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use teleport_core::entropy::Entropy;
use teleport_core::secret::SecretBytes;
use teleport_ssh::client::forward::{Display, ForwardedDisplay};
use tokio::process::Command;
use zeroize::Zeroizing;

/// For how long programs that are not trusted may open windows: as with `ssh`.
const UNTRUSTED_FOR: Duration = Duration::from_secs(600);
/// The display remembers their cookie longer, so that what comes late is never judged without it.
const SLACK: Duration = Duration::from_secs(60);
/// The length of a cookie, in bytes.
const COOKIE_LEN: usize = 16;
const PROTOCOL: &str = "MIT-MAGIC-COOKIE-1";

/// The display that `DISPLAY` names. Programs that are not trusted get a cookie of their own, by which the display keeps them apart; it is
/// an error if it gives none, for the user's own would let them do everything.
pub(super) async fn find(trusted: bool, entropy: &dyn Entropy) -> Result<ForwardedDisplay> {
    let Ok(name) = std::env::var("DISPLAY") else {
        bail!("-X: there is no display here: DISPLAY is not set")
    };
    let display = Display::parse(&name)?;
    let cookie = if trusted {
        listed(None, &name).await?
    } else {
        let dir = tempfile::Builder::new().prefix("tsh-x11-").tempdir()?;
        let file = dir.path().join("cookies");
        let timeout = (UNTRUSTED_FOR + SLACK).as_secs().to_string();
        let words = ["generate", &name, PROTOCOL, "untrusted", "timeout", &timeout];
        xauth(Some(&file), &words).await?;
        let cookie = listed(Some(&file), &name).await?;
        if cookie.as_ref().is_none_or(|cookie| cookie.expose().len() != COOKIE_LEN) {
            bail!(
                "-X: the display gives no cookie to programs that are not trusted; -Y is for those that are"
            );
        }
        cookie
    };
    let display = ForwardedDisplay::new(display, cookie, entropy)?;
    Ok(if trusted { display } else { display.lasting(UNTRUSTED_FOR) })
}

async fn listed(file: Option<&Path>, display: &str) -> Result<Option<SecretBytes>> {
    // It looks for connections over the network by a name of another form.
    let display = match display.strip_prefix("localhost:") {
        Some(number) => format!("unix:{number}"),
        None => display.to_owned(),
    };
    let printed = xauth(file, &["list", &display]).await?;
    Ok(cookie(&printed))
}

async fn xauth(file: Option<&Path>, words: &[&str]) -> Result<Zeroizing<String>> {
    let mut xauth = Command::new("xauth");
    if let Some(file) = file {
        xauth.arg("-f").arg(file);
    }
    xauth.arg("-q").args(words).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = xauth.output().await.context("-X: xauth cannot be run; it keeps the cookies of displays")?;
    Ok(Zeroizing::new(String::from_utf8(output.stdout).unwrap_or_default()))
}

/// The first cookie in what `xauth list` prints.
fn cookie(printed: &str) -> Option<SecretBytes> {
    let digits = printed.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (_display, protocol, digits) = (words.next()?, words.next()?, words.next()?);
        (protocol == PROTOCOL).then_some(digits)
    })?;
    let pairs =
        digits.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    pairs.collect::<Option<Vec<u8>>>().map(SecretBytes::new)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn cookies_are_read() {
        let printed = "host/unix:0  XDM-AUTHORIZATION-1  00\nhost/unix:0  MIT-MAGIC-COOKIE-1  00ff10\n";
        assert_eq!(cookie(printed).unwrap().expose(), [0, 255, 16]);
        for none in ["", "host:0 MIT-MAGIC-COOKIE-1", "host:0 MIT-MAGIC-COOKIE-1 xyz", "host:0 OTHER 00"] {
            assert!(cookie(none).is_none(), "{none}");
        }
    }
}
