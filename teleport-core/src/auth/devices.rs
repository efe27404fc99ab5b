//! The second factors of one user: one record with all of them, so that reading it costs the same however many there are.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::totp::Seed;
use crate::api::{ApiError, ApiErrorKind, ApiResult, MfaDevice};
use crate::clock::Timestamp;
use crate::entropy::{Entropy, EntropyExt};
use crate::id::DeviceName;
use crate::secret::{Sealer, SecretString};
use crate::storage::Record;

/// The most second factors of one user. Each login does the work for as many.
pub(super) const MAX_DEVICES: usize = 8;
/// What the device of an invite is called.
const FIRST_NAME: &str = "otp";

/// A second factor, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) id: Uuid,
    pub(super) name: DeviceName,
    /// The seed, sealed for the key of the record.
    sealed_seed: String,
    /// The newest step whose code was accepted. Neither it nor an older one is accepted again.
    last_step: u64,
    added: Option<Timestamp>,
    last_used: Option<Timestamp>,
}

impl Device {
    pub(super) fn new(
        user: &str,
        name: DeviceName,
        seed: &Seed,
        last_step: u64,
        now: Timestamp,
        (sealer, entropy): (&dyn Sealer, &dyn Entropy),
    ) -> ApiResult<Self> {
        let sealed_seed = seed.seal(sealer, &context(user))?;
        Ok(Self { id: entropy.uuid()?, name, sealed_seed, last_step, added: Some(now), last_used: None })
    }

    /// What lists show.
    pub(super) fn info(&self) -> MfaDevice {
        MfaDevice { id: self.id, name: self.name.clone(), added: self.added, last_used: self.last_used }
    }
}

/// A user's second factors, as they are stored; the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AnyForm")]
pub(super) struct TotpRecord {
    pub(super) user: String,
    pub(super) devices: Vec<Device>,
}

impl Record for TotpRecord {
    const COLLECTION: &'static str = "totp";

    fn key(&self) -> String {
        self.user.clone()
    }
}

/// The forms in which a record was ever written.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyForm {
    Several(Several),
    /// As version 0.1.0 wrote it.
    Single(Single),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    user: String,
    devices: Vec<Device>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Single {
    user: String,
    sealed_seed: String,
    last_step: u64,
}

impl TryFrom<AnyForm> for TotpRecord {
    type Error = crate::id::InvalidName;

    fn try_from(form: AnyForm) -> Result<Self, Self::Error> {
        Ok(match form {
            AnyForm::Several(Several { user, devices }) => Self { user, devices },
            AnyForm::Single(Single { user, sealed_seed, last_step }) => {
                // The same whenever it is read, until it is written in the new form.
                let digest = ring::digest::digest(&ring::digest::SHA256, sealed_seed.as_bytes());
                let bytes = digest.as_ref().first_chunk::<16>().copied().unwrap_or_default();
                let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
                let name = first_name()?;
                let device = Device { id, name, sealed_seed, last_step, added: None, last_used: None };
                Self { user, devices: vec![device] }
            }
        })
    }
}

/// What the device of an invite is called.
pub(super) fn first_name() -> Result<DeviceName, crate::id::InvalidName> {
    DeviceName::new(FIRST_NAME)
}

/// Seeds are sealed for the record that holds them, so that one of another user cannot be put in its place.
fn context(user: &str) -> String {
    format!("{}/{user}", TotpRecord::COLLECTION)
}

/// What a code is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next one of the device at this place, and its step.
    New {
        device: usize,
        step: u64,
    },
    /// Right, but not newer than one that was accepted before.
    Used,
    Wrong,
}

/// A second factor of nobody. It is looked at wherever a user has no device, so that the work is that for [`MAX_DEVICES`]
/// always: nobody learns by the time whether a user exists and how many devices there are.
#[derive(Debug)]
pub(super) struct Decoy {
    sealed_seed: String,
}

/// No user is called so.
const NOBODY: &str = "(nobody)";

impl Decoy {
    pub(super) fn new(sealer: &dyn Sealer, entropy: &dyn Entropy) -> ApiResult<Self> {
        Ok(Self { sealed_seed: Seed::random(entropy)?.seal(sealer, &context(NOBODY))? })
    }

    /// What a code is worth for the user of a record.
    pub(super) fn verdict(
        &self,
        record: Option<&TotpRecord>,
        code: &SecretString,
        now: Timestamp,
        sealer: &dyn Sealer,
    ) -> ApiResult<Verdict> {
        let mut verdict = Verdict::Wrong;
        let mut failure = None;
        for place in 0..MAX_DEVICES {
            let real = record.and_then(|record| Some((record.user.as_str(), record.devices.get(place)?)));
            let (user, sealed) =
                real.map_or((NOBODY, &self.sealed_seed), |(user, device)| (user, &device.sealed_seed));
            let step = match Seed::open(sealer, &context(user), sealed) {
                Ok(seed) => seed.step_of(code, now),
                Err(error) => {
                    failure = Some(error);
                    None
                }
            };
            if let (Some((_, device)), Some(step)) = (real, step) {
                if step > device.last_step && !matches!(verdict, Verdict::New { .. }) {
                    verdict = Verdict::New { device: place, step };
                } else if verdict == Verdict::Wrong {
                    verdict = Verdict::Used;
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(verdict),
        }
    }
}

impl TotpRecord {
    pub(super) fn new(user: &str) -> Self {
        Self { user: user.to_owned(), devices: Vec::new() }
    }

    /// Uses a step of a device up; returns the device.
    pub(super) fn use_up(&mut self, place: usize, step: u64, now: Timestamp) -> Option<&Device> {
        let device = self.devices.get_mut(place)?;
        device.last_step = step;
        device.last_used = Some(now);
        Some(device)
    }

    /// Whether a device of this name may be added.
    pub(super) fn check_room(&self, name: &DeviceName) -> ApiResult<()> {
        if self.devices.iter().any(|device| device.name == *name) {
            let text = format!("there is a device {name} already; choose another name");
            return Err(ApiError::new(ApiErrorKind::Conflict, text));
        }
        if self.devices.len() >= MAX_DEVICES {
            let text = format!("a user has at most {MAX_DEVICES} devices; remove one first");
            return Err(ApiError::new(ApiErrorKind::Conflict, text));
        }
        Ok(())
    }

    /// Where the device is that shall be removed; not the last one.
    pub(super) fn removable(&self, name: &DeviceName) -> ApiResult<usize> {
        let place = self.devices.iter().position(|device| device.name == *name);
        let place = place.ok_or_else(|| ApiError::not_found(format_args!("device {name}")))?;
        if self.devices.len() == 1 {
            let text = "this is the last device, without which nobody could log in; add another one first";
            return Err(ApiError::new(ApiErrorKind::Conflict, text));
        }
        Ok(place)
    }
}

/// Binds a seed to the user and the name that it was made for, until it is added.
fn ticket_context(user: &str, name: &DeviceName) -> String {
    format!("{}-new/{user}/{name}", TotpRecord::COLLECTION)
}

/// What travels between the two steps of adding a device, sealed: nothing is stored until the second one.
#[derive(Serialize, Deserialize)]
struct Ticket {
    #[serde(with = "crate::secret::wire")]
    seed: SecretString,
    expires: Timestamp,
}

/// A ticket for a seed: `<name>.<sealed>`.
pub(super) fn issue_ticket(
    sealer: &dyn Sealer,
    user: &str,
    name: &DeviceName,
    seed: &Seed,
    expires: Timestamp,
) -> ApiResult<SecretString> {
    let ticket = Ticket { seed: seed.to_base32(), expires };
    let plain = zeroize::Zeroizing::new(serde_json::to_vec(&ticket).map_err(ApiError::internal)?);
    let sealed = sealer.seal(&ticket_context(user, name), &plain)?;
    Ok(SecretString::new(format!("{name}:{}", BASE64.encode(&sealed))))
}

/// The device's name and seed, if the ticket was made for `user` and is not over.
pub(super) fn read_ticket(
    sealer: &dyn Sealer,
    user: &str,
    ticket: &SecretString,
    now: Timestamp,
) -> ApiResult<(DeviceName, Seed)> {
    let invalid =
        || ApiError::invalid("the new device was begun too long ago, or by somebody else; begin again");
    let (name, sealed) = ticket.expose().split_once(':').ok_or_else(invalid)?;
    let name = DeviceName::new(name).map_err(|error| invalid().because(error))?;
    let sealed = BASE64.decode(sealed.as_bytes()).map_err(|error| invalid().because(error))?;
    let plain =
        sealer.open(&ticket_context(user, &name), &sealed).map_err(|error| invalid().because(error))?;
    let ticket: Ticket = serde_json::from_slice(plain.expose()).map_err(ApiError::internal)?;
    if ticket.expires <= now {
        return Err(invalid());
    }
    let seed = Seed::from_base32(&ticket.seed).ok_or_else(invalid)?;
    Ok((name, seed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;
    use crate::auth::one_time_code;
    use crate::testing::{KnownKeySealer, RepeatableEntropy};

    const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
    const STEP: u64 = NOW.unix_secs() / 30;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_secs(NOW.unix_secs().checked_add_signed(seconds).unwrap())
    }

    fn decoy() -> Decoy {
        Decoy::new(&KnownKeySealer, &RepeatableEntropy::new(1)).unwrap()
    }

    /// A record with so many devices, and their secrets.
    fn record(count: u64) -> (TotpRecord, Vec<SecretString>) {
        let mut record = TotpRecord::new("alice");
        let mut secrets = Vec::new();
        for number in 0..count {
            let entropy = RepeatableEntropy::new(100 + number);
            let seed = Seed::random(&entropy).unwrap();
            let name = DeviceName::new(&format!("device-{number}")).unwrap();
            let device = Device::new("alice", name, &seed, 0, NOW, (&KnownKeySealer, &entropy)).unwrap();
            record.devices.push(device);
            secrets.push(seed.to_base32());
        }
        (record, secrets)
    }

    fn verdict(record: &TotpRecord, code: &SecretString) -> Verdict {
        decoy().verdict(Some(record), code, NOW, &KnownKeySealer).unwrap()
    }

    fn code(secret: &SecretString, seconds: i64) -> SecretString {
        one_time_code(secret, at(seconds)).unwrap()
    }

    #[test]
    fn e1_a_step_is_good_once_and_never_goes_back() {
        let (mut record, secrets) = record(1);
        for (seconds, expected) in [
            (0, Verdict::New { device: 0, step: STEP }),
            (30, Verdict::New { device: 0, step: STEP + 1 }),
            (60, Verdict::Wrong),
        ] {
            assert_eq!(verdict(&record, &code(&secrets[0], seconds)), expected, "at {seconds}");
        }
        record.use_up(0, STEP, NOW).unwrap();
        assert_eq!(verdict(&record, &code(&secrets[0], 0)), Verdict::Used);
        assert_eq!(verdict(&record, &code(&secrets[0], -30)), Verdict::Used);
    }

    #[test]
    fn a_code_of_any_device_is_good_and_steps_are_each_devices_own() {
        let (mut record, secrets) = record(MAX_DEVICES as u64);
        for (place, secret) in secrets.iter().enumerate() {
            assert_eq!(verdict(&record, &code(secret, 0)), Verdict::New { device: place, step: STEP });
        }
        record.use_up(3, STEP, NOW).unwrap();
        assert_eq!(verdict(&record, &code(&secrets[3], 0)), Verdict::Used);
        assert_eq!(verdict(&record, &code(&secrets[4], 0)), Verdict::New { device: 4, step: STEP });
        // What is beyond the most is not looked at: a login costs no more than was promised.
        let (long, secrets) = self::record(MAX_DEVICES as u64 + 1);
        assert_eq!(verdict(&long, &code(&secrets[MAX_DEVICES], 0)), Verdict::Wrong);
    }

    /// A code of the decoy is nobody's: it is not good for a user without devices, nor for none.
    #[test]
    fn the_decoy_admits_nobody() {
        let decoy = decoy();
        let seed = Seed::open(&KnownKeySealer, &context(NOBODY), &decoy.sealed_seed).unwrap();
        let code = code(&seed.to_base32(), 0);
        for record in [None, Some(&TotpRecord::new("alice")), Some(&record(2).0)] {
            assert_eq!(decoy.verdict(record, &code, NOW, &KnownKeySealer).unwrap(), Verdict::Wrong);
        }
    }

    #[test]
    fn the_form_of_before_is_one_device() {
        let (record, secrets) = record(1);
        let sealed = &record.devices[0].sealed_seed;
        let old = format!(r#"{{"user":"alice","sealed_seed":"{sealed}","last_step":{STEP}}}"#);
        let read: TotpRecord = serde_json::from_str(&old).unwrap();
        assert_eq!((read.user.as_str(), read.devices.len()), ("alice", 1));
        assert_eq!(read.devices[0].name.as_str(), FIRST_NAME);
        assert_eq!(verdict(&read, &code(&secrets[0], 0)), Verdict::Used);
        assert_eq!(verdict(&read, &code(&secrets[0], 30)), Verdict::New { device: 0, step: STEP + 1 });
        assert_eq!(read, serde_json::from_str(&old).unwrap(), "it has the same id each time");
        // From the first write on it has the new form.
        let written = serde_json::to_string(&read).unwrap();
        assert!(written.contains(r#""devices":[{"#), "{written}");
        assert_eq!(read, serde_json::from_str(&written).unwrap());
        for bad in ["{}", r#"{"user":"alice"}"#, r#"{"user":"alice","sealed_seed":"","last_step":0,"x":1}"#] {
            assert!(serde_json::from_str::<TotpRecord>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn i4_a_seed_cannot_be_moved_to_another_user() {
        let (record, secrets) = record(1);
        let moved = TotpRecord { user: "mallory".to_owned(), ..record.clone() };
        assert!(decoy().verdict(Some(&moved), &code(&secrets[0], 0), NOW, &KnownKeySealer).is_err());
        let json = serde_json::to_string(&record).unwrap();
        assert!(!json.contains(secrets[0].expose()) && !format!("{record:?}").contains(secrets[0].expose()));
    }

    #[test]
    fn names_are_each_once_and_the_last_device_stays() {
        let name = |text: &str| DeviceName::new(text).unwrap();
        let (full, _) = record(MAX_DEVICES as u64);
        assert!(full.check_room(&name("new")).unwrap_err().message().contains("at most 8"));
        let (two, _) = record(2);
        assert!(two.check_room(&name("device-1")).unwrap_err().message().contains("already"));
        assert!(two.check_room(&name("new")).is_ok());
        assert_eq!(two.removable(&name("device-1")).unwrap(), 1);
        assert_eq!(two.removable(&name("new")).unwrap_err().kind(), ApiErrorKind::NotFound);
        let (one, _) = record(1);
        assert_eq!(one.removable(&name("device-0")).unwrap_err().kind(), ApiErrorKind::Conflict);
    }

    #[test]
    fn a_ticket_is_one_users_for_one_name_and_a_while() {
        let name = DeviceName::new("phone").unwrap();
        let seed = Seed::random(&RepeatableEntropy::new(9)).unwrap();
        let ticket = issue_ticket(&KnownKeySealer, "alice", &name, &seed, at(600)).unwrap();
        let read = |user: &str, ticket: &str, now| {
            read_ticket(&KnownKeySealer, user, &SecretString::new(ticket), now)
        };
        let (read_name, read_seed) = read("alice", ticket.expose(), at(599)).unwrap();
        assert_eq!((read_name, read_seed.to_base32()), (name, seed.to_base32()));
        let renamed = ticket.expose().replacen("phone", "other", 1);
        let broken = ticket.expose().replacen(':', ";", 1);
        for (user, ticket, now) in [
            ("mallory", ticket.expose(), NOW),
            ("alice", ticket.expose(), at(600)),
            ("alice", renamed.as_str(), NOW),
            ("alice", broken.as_str(), NOW),
            ("alice", "phone:", NOW),
            ("alice", "", NOW),
        ] {
            assert_eq!(read(user, ticket, now).unwrap_err().kind(), ApiErrorKind::Invalid, "{user} {ticket}");
        }
        assert!(!ticket.expose().contains(seed.to_base32().expose()));
    }
}
