//! `tsh passwd`.

use std::process::ExitCode;

use anyhow::Result;
use teleport_core::api::{AccountApi, ApiError, ApiErrorKind, ChangePassword, PublicApi};
use teleport_core::secret::SecretString;
use teleport_ssh::rpc::AuthClient;

use super::accept;
use super::common::{Context, ask_secret};

/// Password and code, as they are asked for before anything is changed.
pub(super) async fn ask_proof(api: &AuthClient, which_code: &str) -> Result<(SecretString, SecretString)> {
    // Before anything is typed: which of them are wanted?
    let ping = api.ping().await?;
    let password = ask_secret("Your password: ")?;
    let code = match accept::without_code(&ping) {
        true => SecretString::default(),
        false => accept::trimmed(&ask_secret(which_code)?),
    };
    Ok((password, code))
}

/// What somebody can do about a refusal.
pub(super) fn explain(error: ApiError) -> anyhow::Error {
    if error.kind() == ApiErrorKind::Denied {
        return anyhow::anyhow!(
            "the password or the one-time code is wrong, a code was used twice, \
             or too many attempts failed and you are locked for a while; nothing was changed"
        );
    }
    error.into()
}

pub(super) async fn run(context: &Context) -> Result<ExitCode> {
    let profile = context.profile()?;
    let api = context.api(&profile);
    let (password, code) = ask_proof(&api, "One-time code of a device that you have: ").await?;
    let new_password = accept::new_password(&profile.user)?;
    api.change_password(ChangePassword { password, code, new_password }).await.map_err(explain)?;
    println!("The password of {} has been changed", profile.user);
    Ok(ExitCode::SUCCESS)
}
