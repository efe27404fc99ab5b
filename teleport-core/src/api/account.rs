//! The messages of [`AccountApi`](super::AccountApi), and those that change users.
#![expect(clippy::exhaustive_structs, reason = "callers build requests, services build answers")]

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cert::Traits;
use crate::clock::Timestamp;
use crate::id::{DeviceName, OsLogin, RoleName};
use crate::secret::{SecretString, wire};

/// A user changes the own password.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    /// The password of until now.
    #[serde(with = "wire")]
    pub password: SecretString,
    /// A one-time code of any device. Empty where the cluster asks for none.
    #[serde(with = "wire")]
    pub code: SecretString,
    /// The password from now on; see [`crate::password`].
    #[serde(with = "wire")]
    pub new_password: SecretString,
}

/// A second factor, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MfaDevice {
    /// Names it in the audit log, also when another one has its name.
    pub id: Uuid,
    /// What the user calls it.
    pub name: DeviceName,
    /// Since when; not known of the oldest ones.
    #[serde(default)]
    pub added: Option<Timestamp>,
    /// When one of its codes was accepted, as far as is known.
    #[serde(default)]
    pub last_used: Option<Timestamp>,
}

/// A second factor that is not in use yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewMfaDevice {
    /// Comes back in [`AddMfaDevice`]. Only the auth service can read it.
    #[serde(with = "wire")]
    pub ticket: SecretString,
    /// The second factor as `otpauth://` URL, for a QR code.
    #[serde(with = "wire")]
    pub otpauth_url: SecretString,
    /// The second factor's secret in base32, to be typed.
    #[serde(with = "wire")]
    pub secret: SecretString,
    /// Until when it can be added.
    pub expires: Timestamp,
}

/// A user adds a second factor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMfaDevice {
    /// From [`NewMfaDevice`].
    #[serde(with = "wire")]
    pub ticket: SecretString,
    /// A code of the new device.
    #[serde(with = "wire")]
    pub new_code: SecretString,
    /// The user's password.
    #[serde(with = "wire")]
    pub password: SecretString,
    /// A code of a device that is in use. Empty where the cluster asks for none.
    #[serde(with = "wire")]
    pub code: SecretString,
}

/// A user removes a second factor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveMfaDevice {
    /// Which.
    pub name: DeviceName,
    /// The user's password.
    #[serde(with = "wire")]
    pub password: SecretString,
    /// A code of any device. Empty where the cluster asks for none.
    #[serde(with = "wire")]
    pub code: SecretString,
}

/// Changes a user; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateUser {
    /// All roles from now on.
    pub roles: Option<Vec<RoleName>>,
    /// All logins from now on.
    pub logins: Option<Vec<OsLogin>>,
    /// Traits and all their values from now on; one without values is removed. Not `logins`.
    pub traits: Traits,
}

/// Asks for an invite that replaces a user's password and second factors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResetUser {
    /// How long the invite is good, in seconds; 8 hours if absent, at most 24 hours.
    pub ttl: Option<u64>,
}
