//! `tsh accept`: from an invite to a user who can log in.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use teleport_core::api::{AcceptInvite, ApiErrorKind, InviteInfo, Ping};
use teleport_core::cert::CaPin;
use teleport_core::id::UserName;
use teleport_core::password::{MIN_PASSWORD_LEN, check_password};
use teleport_core::secret::SecretString;
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::proxy_web::{WebClient, WebError, WebTrust};

use super::super::user::parse_proxy;
use super::common::{Context, ask_secret};
use super::pins;

#[derive(Debug, Args)]
pub(super) struct Accept {
    /// The link of the invite, in quotes
    link: String,
    /// How the cluster is recognised, if the link does not say; repeatable
    #[arg(long = "ca-pin", value_name = "sha256:HEX")]
    ca_pins: Vec<CaPin>,
    /// PEM file with the authority of the proxy's own HTTPS certificate
    #[arg(long, value_name = "FILE")]
    proxy_ca: Option<std::path::PathBuf>,
}

/// What a link says.
struct Link {
    proxy: ProxyAddress,
    token: SecretString,
    pins: Vec<CaPin>,
}

fn parse_link(text: &str) -> Result<Link> {
    let what =
        "the link looks like https://proxy:3080/web/invite/<token>#pin=sha256:<digits>; put it in quotes";
    let url = url::Url::parse(text).context(what)?;
    let (Some(host), "https") = (url.host_str(), url.scheme()) else { bail!(what) };
    let token = ["/web/invite/", "/web/reset/"].iter().find_map(|page| url.path().strip_prefix(page));
    let Some(token) = token.filter(|token| !token.is_empty()) else { bail!(what) };
    let pins = url.fragment().unwrap_or_default().split('&').filter_map(|part| part.strip_prefix("pin="));
    Ok(Link {
        proxy: parse_proxy(&format!("{host}:{}", url.port().unwrap_or(443)))?,
        token: SecretString::new(token),
        pins: pins.map(str::parse).collect::<Result<_, _>>()?,
    })
}

/// How a proxy is recognised: pins first, then a file of authorities.
pub(super) fn trust(pins: &[CaPin], proxy_ca: Option<&std::path::Path>) -> Result<Option<WebTrust>> {
    if let Some(path) = proxy_ca {
        let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        return Ok(Some(WebTrust::roots_pem(&pem)?));
    }
    Ok((!pins.is_empty()).then(|| WebTrust::pins(pins.to_vec())))
}

pub(super) async fn run(context: &Context, accept: Accept) -> Result<ExitCode> {
    let mut link = parse_link(&accept.link)?;
    if !accept.ca_pins.is_empty() {
        link.pins = accept.ca_pins;
    }
    let Some(trust) = trust(&link.pins, accept.proxy_ca.as_deref())? else {
        bail!(
            "nothing says how to recognise the proxy: the link has no pin (is the part after # missing? put the link in quotes). \
             `tctl status` prints the pin for --ca-pin"
        );
    };
    let client = WebClient::new(link.proxy.to_authority(), trust, Arc::clone(&context.clock));
    let info = client.invite(link.token.clone()).await.map_err(|error| explain(error, &link.pins))?;
    if !link.pins.is_empty() {
        pins::save(context.profiles.home(), &link.proxy, &link.pins)?;
    }
    if without_code(&client.ping().await?) {
        println!("Welcome, {}. This cluster asks for no one-time codes.", info.user);
        let password = new_password(&info.user)?;
        let request =
            AcceptInvite { token: link.token, password, code: SecretString::default(), client_ip: None };
        client.accept(&request).await.map_err(|error| explain(error, &link.pins))?;
        done(&link.proxy, &info);
        return Ok(ExitCode::SUCCESS);
    }
    println!("Welcome, {}. Add this to your authenticator app:\n", info.user);
    show_device(&info.otpauth_url, &info.secret)?;
    let password = new_password(&info.user)?;
    // A mistyped code is no reason to begin again.
    for attempts_left in (0..3).rev() {
        let code = ask_secret("One-time code from the app: ")?;
        let request = AcceptInvite {
            token: link.token.clone(),
            password: password.clone(),
            code: trimmed(&code),
            client_ip: None,
        };
        match client.accept(&request).await {
            Ok(()) => {
                done(&link.proxy, &info);
                return Ok(ExitCode::SUCCESS);
            }
            Err(WebError::Api(error)) if error.kind() == ApiErrorKind::Invalid && attempts_left > 0 => {
                eprintln!("{error}; try again");
            }
            Err(error) => return Err(explain(error, &link.pins)),
        }
    }
    bail!("the invite was not accepted")
}

pub(super) fn trimmed(code: &SecretString) -> SecretString {
    SecretString::new(code.expose().trim())
}

fn done(proxy: &ProxyAddress, info: &InviteInfo) {
    println!("Done. Log in with:\n\n  tsh login --proxy={} --user={}", proxy.to_authority(), info.user);
}

/// Whether the cluster wants passwords alone. Said aloud: it is not what anybody should get used to.
pub(super) fn without_code(ping: &Ping) -> bool {
    let off = ping.second_factor == "off";
    if off {
        eprintln!(
            "WARNING: this cluster has switched the second factor off; a password is all that protects it"
        );
    }
    off
}

/// Asks for a password that `user` may have; on a terminal again until it is one.
pub(super) fn new_password(user: &UserName) -> Result<SecretString> {
    use std::io::IsTerminal;
    loop {
        let password = ask_secret(&format!("New password (at least {MIN_PASSWORD_LEN} characters): "))?;
        let weak = check_password(&password, user);
        if !std::io::stdin().is_terminal() {
            weak?;
            return Ok(password);
        }
        if let Err(weak) = weak {
            eprintln!("{weak}");
        } else if ask_secret("The same again: ")? == password {
            return Ok(password);
        } else {
            eprintln!("The two differ.");
        }
    }
}

/// Prints a new second factor: for the camera, and to be typed.
pub(super) fn show_device(otpauth_url: &SecretString, secret: &SecretString) -> Result<()> {
    let code = QrCode::new(otpauth_url.expose().as_bytes()).context("no QR code can be made")?;
    // Terminals are dark: the code must be light on dark to be read by cameras.
    let code = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    println!("{code}");
    println!("or type the secret into it:  {}  (time based, SHA1, 6 digits, 30 s)\n", secret.expose());
    Ok(())
}

fn explain(error: WebError, expected: &[CaPin]) -> anyhow::Error {
    match error {
        WebError::Api(error) if error.kind() == ApiErrorKind::NotFound => {
            anyhow::anyhow!(
                "the invite is unknown, was used or is over; ask for a new one (`tctl users reset`)"
            )
        }
        WebError::Untrusted { address, seen, .. } => untrusted(&address, &seen, expected),
        error => error.into(),
    }
}

/// What to do about a proxy that is not who it should be.
pub(super) fn untrusted(address: &str, seen: &[CaPin], expected: &[CaPin]) -> anyhow::Error {
    if seen.iter().any(|pin| expected.contains(pin)) {
        return anyhow::anyhow!(
            "{address} shows the authority of the expected cluster, but its own certificate is not valid here and now: \
             compare the clocks of both machines; nothing was sent"
        );
    }
    let seen: Vec<String> = seen.iter().map(CaPin::to_string).collect();
    let shows = if seen.is_empty() { "no authority".to_owned() } else { seen.join(", ") };
    anyhow::anyhow!(
        "{address} is not of the cluster that was expected (it shows {shows}); nothing was sent. \
         Compare with `tctl status` on the auth server"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn links_are_read() {
        let pin = CaPin::of_spki(b"x");
        let link = parse_link(&format!("https://proxy.example.com:3080/web/invite/abc#pin={pin}")).unwrap();
        assert_eq!(link.proxy.to_authority(), "proxy.example.com:3080");
        assert_eq!(link.token.expose(), "abc");
        assert_eq!(link.pins, [pin]);
        assert_eq!(parse_link("https://proxy/web/invite/abc").unwrap().proxy.port, 443);
        assert_eq!(parse_link("https://proxy/web/reset/abc").unwrap().token.expose(), "abc");
        for bad in [
            "",
            "proxy:3080",
            "http://proxy/web/invite/abc",
            "https://proxy/web/invite/",
            "https://proxy/web/reset/",
            "https://proxy/web/other/abc",
            "https://proxy/x#pin=1",
        ] {
            assert!(parse_link(bad).is_err(), "{bad}");
        }
    }
}
