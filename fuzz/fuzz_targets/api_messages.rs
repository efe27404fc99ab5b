//! Every message of the API. The first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::api::{
    AcceptInvite, AccessView, AddMfaDevice, ChangePassword, ClusterStatus, CreateToken, CreateUser,
    CreatedToken, HostCredentials, Invite, InviteInfo, JoinRequest, LoginRequest, LoginResponse, MfaDevice,
    NewMfaDevice, NodeEvent, OpenSshLogin, Ping, ProxyRecord, RecordingQuery, ReissueRequest,
    RemoveMfaDevice, RenewRequest, ResetUser, SignHost, SignUser, SignedHost, StandIn, TokenInfo, UpdateUser,
    UserInfo,
};
use teleport_core::cert::{IssuedCertificates, IssuedSshCertificate, Subject, TrustBundle};
use teleport_core::recording::{RecordingInfo, RecordingMeta};
use teleport_core::resource::{Node, NodeRecord, Role, Secrets, Token, User};
use teleport_fuzz::json::round_trip;

macro_rules! messages {
    ($kind:expr, $data:expr, $($byte:literal $message:ty,)*) => {
        match $kind { $($byte => drop(round_trip::<$message>($data)),)* _ => {} }
    };
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    messages!(kind, data,
        b'A' AcceptInvite, b'B' TrustBundle, b'C' CreateToken, b'D' CreatedToken, b'E' NodeEvent,
        b'F' IssuedCertificates, b'G' Ping, b'H' HostCredentials, b'I' Invite, b'J' JoinRequest,
        b'K' TokenInfo, b'L' LoginRequest, b'M' RecordingMeta, b'N' NodeRecord, b'O' Node,
        b'P' ProxyRecord, b'Q' RecordingQuery, b'R' RenewRequest, b'S' Subject, b'T' ClusterStatus,
        b'U' CreateUser, b'V' AccessView, b'W' UserInfo, b'X' ReissueRequest, b'Y' LoginResponse,
        b'Z' InviteInfo, b'a' RecordingInfo, b'0' ChangePassword, b'1' MfaDevice, b'2' NewMfaDevice,
        b'3' AddMfaDevice, b'4' RemoveMfaDevice, b'5' UpdateUser, b'6' ResetUser,
        b'b' Role, b'c' Secrets, b'd' Token, b'e' User,
        b'f' SignUser, b'g' SignHost, b'h' SignedHost,
        b'i' StandIn, b'j' OpenSshLogin, b'k' IssuedSshCertificate,
    );
});
