//! `tsh mfa`: the user's own second factors.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use teleport_core::api::{AccountApi, AddMfaDevice, ApiError, RemoveMfaDevice};
use teleport_core::id::DeviceName;

use super::super::{Format, table};
use super::accept;
use super::common::{Context, ask_secret};
use super::passwd::{ask_proof, explain};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add an authenticator app; needs your password and a code of a device that you have
    Add {
        /// What to call it
        #[arg(long)]
        name: DeviceName,
    },
    /// List your devices
    Ls {
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove a device, but not the last one; needs your password and a code of any device
    Rm {
        /// Its name
        name: DeviceName,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> Result<ExitCode> {
    let profile = context.profile()?;
    let api = context.api(&profile);
    match command {
        Command::Add { name } => {
            let begun = api.begin_mfa_device(name.clone()).await?;
            println!("Add this to your authenticator app:\n");
            accept::show_device(&begun.otpauth_url, &begun.secret)?;
            println!(
                "\nThen three things are asked: a code of the new device, your password, a code of a device that you had before."
            );
            let new_code =
                accept::trimmed(&ask_secret(&format!("One-time code of the new device {name}: "))?);
            let (password, code) = ask_proof(&api, "One-time code of a device that you had before: ").await?;
            let request = AddMfaDevice { ticket: begun.ticket, new_code, password, code };
            let added = api.add_mfa_device(request).await.map_err(explain)?;
            println!("The device {} has been added; its codes are good from now on", added.name);
        }
        Command::Ls { format } => {
            let devices = api.mfa_devices().await?;
            let time = |at: Option<teleport_core::clock::Timestamp>| {
                at.map_or_else(String::new, |at| at.to_string())
            };
            format.print(&devices, || {
                table(
                    ["Name", "Type", "Added", "Last Used", "ID"],
                    devices.iter().map(|device| {
                        [
                            device.name.to_string(),
                            "TOTP".to_owned(),
                            time(device.added),
                            time(device.last_used),
                            // What a lock of the device names.
                            device.id.to_string(),
                        ]
                    }),
                )
            })?;
        }
        Command::Rm { name } => {
            // Before anything is typed.
            if !api.mfa_devices().await?.iter().any(|device| device.name == name) {
                return Err(ApiError::not_found(format_args!("device {name}")).into());
            }
            let (password, code) = ask_proof(&api, "One-time code of any device that you have: ").await?;
            let request = RemoveMfaDevice { name: name.clone(), password, code };
            api.remove_mfa_device(request).await.map_err(explain)?;
            println!("The device {name} has been removed");
        }
    }
    Ok(ExitCode::SUCCESS)
}
