//! SSH by hand: a client that can break every rule. Ed25519 certificates, X25519, AES-256-GCM.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use teleport_ssh::client::ProfileStore;
use teleport_ssh::keys::SshKeyPair;
use tokio::time::Instant;

use super::cluster::TestCluster;

/// How long an answer may take, far more than any does.
const PATIENCE: Duration = Duration::from_secs(30);
const CERTIFICATE: &[u8] = b"ssh-ed25519-cert-v01@openssh.com";

/// A message, and where its length fields are.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lengths: Vec<usize>,
}

impl Message {
    pub(crate) fn new(kind: u8) -> Self {
        Self { bytes: vec![kind], lengths: Vec::new() }
    }

    /// Without a kind: for what stands within a string.
    pub(crate) fn inner() -> Self {
        Self { bytes: Vec::new(), lengths: Vec::new() }
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn number(self, number: u32) -> Self {
        self.raw(&number.to_be_bytes())
    }

    /// A number that says how many of something follow.
    pub(crate) fn count(mut self, count: u32) -> Self {
        self.lengths.push(self.bytes.len());
        self.number(count)
    }

    pub(crate) fn string(self, bytes: impl AsRef<[u8]>) -> Self {
        let length = u32::try_from(bytes.as_ref().len()).unwrap();
        self.count(length).raw(bytes.as_ref())
    }

    /// A string that has length fields within.
    pub(crate) fn nested(mut self, inner: &Self) -> Self {
        let start = self.bytes.len() + 4;
        self = self.string(&inner.bytes);
        self.lengths.extend(inner.lengths.iter().map(|at| at + start));
        self
    }

    /// The message with lies, one in each of its length fields: nothing, one, one too many, and far too many.
    pub(crate) fn lies(&self) -> Vec<Vec<u8>> {
        let mut lies = Vec::new();
        for &at in &self.lengths {
            let true_length = u32::from_be_bytes(self.bytes[at..at + 4].try_into().unwrap());
            let rest = u32::try_from(self.bytes.len() - at - 4).unwrap();
            for lie in [0, 1, rest + 1, 1 << 28, u32::MAX] {
                if lie != true_length {
                    let mut bytes = self.bytes.clone();
                    bytes[at..at + 4].copy_from_slice(&lie.to_be_bytes());
                    lies.push(bytes);
                }
            }
        }
        lies
    }
}

/// A user's key and certificate.
pub(crate) struct Holder {
    pub(crate) key: Ed25519KeyPair,
    pub(crate) certificate: Vec<u8>,
}

impl Holder {
    /// Who is logged in in this home of `tsh`.
    pub(crate) fn of(home: &Path) -> Self {
        let profile = ProfileStore::at(home).load(None).unwrap().unwrap();
        Self::new(&profile.ssh, &profile.certificates.ssh)
    }

    pub(crate) fn new(key: &SshKeyPair, certificate: &str) -> Self {
        let key = ssh_key::PrivateKey::from_openssh(key.to_openssh().expose()).unwrap();
        let seed = key.key_data().ed25519().unwrap().private.to_bytes();
        let certificate = ssh_key::Certificate::from_openssh(certificate).unwrap();
        Self {
            key: Ed25519KeyPair::from_seed_unchecked(&seed).unwrap(),
            certificate: certificate.to_bytes().unwrap(),
        }
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        Message::inner().string("ssh-ed25519").string(self.key.sign(bytes)).bytes
    }
}

/// `SSH_MSG_USERAUTH_REQUEST` by public key, up to where the signature follows.
pub(crate) fn public_key(login: &str, certificate: &[u8], signed: bool) -> Message {
    Message::new(50)
        .string(login)
        .string("ssh-connection")
        .string("publickey")
        .raw(&[u8::from(signed)])
        .string(CERTIFICATE)
        .string(certificate)
}

struct Cipher {
    key: LessSafeKey,
    nonce: [u8; 12],
}

impl Cipher {
    fn nonce(&mut self) -> Nonce {
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let counter = u64::from_be_bytes(self.nonce[4..].try_into().unwrap());
        self.nonce[4..].copy_from_slice(&counter.wrapping_add(1).to_be_bytes());
        nonce
    }
}

/// A connection, as far as it has come.
pub(crate) struct Wire {
    stream: TcpStream,
    server_id: Vec<u8>,
    /// Since the key exchange: the session's id, and the two directions.
    keys: Option<(Vec<u8>, Cipher, Cipher)>,
    /// How the server calls the channel that we call 0.
    channel: [u8; 4],
}

impl Wire {
    /// Connects from an address of loopback that is nobody else's: what it earns is its own. Greetings are exchanged.
    pub(crate) fn connect(source: u32, to: SocketAddr) -> Self {
        let [_, a, b, c] = (source + 2).to_be_bytes();
        let stream = TestCluster::block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((Ipv4Addr::new(127, 100 + a, b, c), 0).into()).unwrap();
            let stream = socket.connect(to).await.unwrap().into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            stream
        });
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut wire = Self { stream, server_id: Vec::new(), keys: None, channel: [0; 4] };
        wire.stream.write_all(b"SSH-2.0-wire\r\n").unwrap();
        let mut byte = [0];
        while !wire.server_id.ends_with(b"\r\n") {
            wire.stream.read_exact(&mut byte).unwrap();
            wire.server_id.push(byte[0]);
        }
        wire.server_id.truncate(wire.server_id.len() - 2);
        wire
    }

    /// What a client offers.
    pub(crate) fn offer() -> Message {
        let lists = [
            "curve25519-sha256",
            "ssh-ed25519-cert-v01@openssh.com",
            "aes256-gcm@openssh.com",
            "aes256-gcm@openssh.com",
            "hmac-sha2-256-etm@openssh.com",
            "hmac-sha2-256-etm@openssh.com",
            "none",
            "none",
            "",
            "",
        ];
        let offer = lists.iter().fold(Message::new(20).raw(&[7; 16]), |offer, list| offer.string(list));
        offer.raw(&[0; 5])
    }

    /// Exchanges keys. The server's identity is not looked at.
    pub(crate) fn exchange_keys(mut self) -> Self {
        let ours = Self::offer().bytes;
        self.send(&ours);
        let theirs = self.receive().unwrap();
        assert_eq!(theirs[0], 20);
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
        let public = private.compute_public_key().unwrap();
        self.send(&Message::new(30).string(public.as_ref()).bytes);
        let reply = self.receive().unwrap();
        assert_eq!(reply[0], 31);
        let (host_key, rest) = split(&reply[1..]);
        let (their_public, _) = split(rest);
        let secret = agree_ephemeral(private, &UnparsedPublicKey::new(&X25519, their_public), <[u8]>::to_vec);
        let mut secret: Vec<u8> = secret.unwrap().into_iter().skip_while(|byte| *byte == 0).collect();
        if secret[0] >= 0x80 {
            secret.insert(0, 0);
        }
        let secret = Message::inner().string(&secret).bytes;
        let hashed =
            [&b"SSH-2.0-wire"[..], &self.server_id, &ours, &theirs, host_key, public.as_ref(), their_public];
        let hashed = hashed.iter().fold(Message::inner(), |hashed, part| hashed.string(part)).raw(&secret);
        let session = digest(&SHA256, &hashed.bytes).as_ref().to_vec();
        self.send(&[21]);
        assert_eq!(self.receive().unwrap(), [21]);
        let derive = |letter: u8| digest(&SHA256, &[&secret, &session[..], &[letter], &session].concat());
        let cipher = |iv: u8, key: u8| Cipher {
            key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, derive(key).as_ref()).unwrap()),
            nonce: derive(iv).as_ref()[..12].try_into().unwrap(),
        };
        self.keys = Some((session.clone(), cipher(b'A', b'C'), cipher(b'B', b'D')));
        self
    }

    /// Asks for authentication.
    pub(crate) fn greeted(mut self) -> Self {
        self.send(&Message::new(5).string("ssh-userauth").bytes);
        assert_eq!(self.answer().unwrap()[0], 6);
        self
    }

    /// What a signature for this request must be over.
    pub(crate) fn to_sign(&self, request: &Message) -> Vec<u8> {
        let session = &self.keys.as_ref().unwrap().0;
        [&Message::inner().string(session).bytes[..], &request.bytes].concat()
    }

    /// Logs in; says with which message the server answered.
    pub(crate) fn log_in(&mut self, login: &str, holder: &Holder) -> u8 {
        let request = public_key(login, &holder.certificate, true);
        let signature = holder.sign(&self.to_sign(&request));
        self.send(&request.string(signature).bytes);
        self.answer().map_or(0, |answer| answer[0])
    }

    /// A connection to which a user is logged in.
    pub(crate) fn logged_in(source: u32, to: SocketAddr, login: &str, holder: &Holder) -> Self {
        let mut wire = Self::connect(source, to).exchange_keys().greeted();
        assert_eq!(wire.log_in(login, holder), 52);
        wire
    }

    /// A session channel, number 0 at both ends, with this much room for the other side.
    pub(crate) fn open_session(&mut self, window: u32) {
        self.send(&Message::new(90).string("session").number(0).number(window).number(32 << 10).bytes);
        let answer = self.answer().unwrap();
        assert_eq!(answer[0], 91, "{answer:?}");
        self.channel.copy_from_slice(&answer[5..9]);
    }

    /// A request on channel 0; its success is waited for if it is asked for.
    pub(crate) fn request(&mut self, request: &Message) {
        self.send(&request.bytes);
    }

    /// Sends what may break every rule; what is for channel 0, under the server's name of it. The other side may have hung up.
    pub(crate) fn send(&mut self, payload: &[u8]) {
        let sealed = match payload {
            [kind @ 93..=100, 0, 0, 0, 0, rest @ ..] => {
                let named = [&[*kind][..], &self.channel, rest].concat();
                self.seal(&named)
            }
            _ => self.seal(payload),
        };
        let _ = self.stream.write_all(&sealed);
    }

    /// The same, for at most so long: `false` once the other side takes nothing, or has hung up.
    pub(crate) fn send_within(&mut self, limit: Duration, payload: &[u8]) -> bool {
        let sealed = self.seal(payload);
        self.stream.set_write_timeout(Some(limit)).unwrap();
        let sent = self.stream.write_all(&sealed).is_ok();
        self.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        sent
    }

    /// The packet of a message.
    fn seal(&mut self, payload: &[u8]) -> Vec<u8> {
        let block = if self.keys.is_some() { 16 } else { 8 };
        let counted = if self.keys.is_some() { 1 } else { 5 };
        let padding = block + (block - (payload.len() + counted) % block) % block;
        let padding = if padding - block >= 4 { padding - block } else { padding };
        let length = u32::try_from(payload.len() + padding + 1).unwrap().to_be_bytes();
        let mut body = vec![u8::try_from(padding).unwrap()];
        body.extend_from_slice(payload);
        body.resize(body.len() + padding, 0);
        if let Some((_, cipher, _)) = &mut self.keys {
            let nonce = cipher.nonce();
            cipher.key.seal_in_place_append_tag(nonce, Aad::from(length), &mut body).unwrap();
        }
        [&length[..], &body].concat()
    }

    /// The next message; `None` once the other side has hung up.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        let tag = if self.keys.is_some() { 16 } else { 0 };
        let mut body = vec![0; u32::from_be_bytes(length) as usize + tag];
        self.read(&mut body)?;
        if let Some((_, _, cipher)) = &mut self.keys {
            let nonce = cipher.nonce();
            cipher.key.open_in_place(nonce, Aad::from(length), &mut body).unwrap();
            body.truncate(body.len() - tag);
        }
        let padding = usize::from(body[0]);
        Some(body[1..body.len() - padding].to_vec())
    }

    /// The next message that is no small talk.
    pub(crate) fn answer(&mut self) -> Option<Vec<u8>> {
        let began = Instant::now();
        loop {
            // Small talk goes on for ever.
            assert!(began.elapsed() < PATIENCE, "it neither answers nor hangs up");
            match self.receive()? {
                small if matches!(small[0], 2 | 4 | 7 | 53 | 80) => {}
                message => return Some(message),
            }
        }
    }

    /// Answers until one is of this kind.
    pub(crate) fn wait_for(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let answer =
                self.answer().unwrap_or_else(|| panic!("the connection ended before message {kind}"));
            if answer[0] == kind {
                return answer;
            }
            assert!(kind != 99 || answer[0] != 100, "the request was refused");
        }
    }

    /// All that was sent before was read when this is answered; `false` once the other side has hung up.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.send(&Message::new(80).string("keepalive@openssh.com").raw(&[1]).bytes);
        loop {
            match self.answer() {
                Some(answer) if matches!(answer[0], 81 | 82) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    }

    /// Says nothing more and waits until the other side has hung up; returns the kinds of messages that it still sent.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        std::iter::from_fn(|| self.answer().map(|answer| answer[0])).collect()
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                None
            }
            Err(error) => panic!("it neither answers nor hangs up: {error}"),
        }
    }
}

/// The first string, and what follows it.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    bytes[4..].split_at(length)
}

/// The fields of a certificate, one by one, with those within them.
pub(crate) fn fields(certificate: &[u8]) -> Message {
    let field = |message: Message, nested: bool| {
        let (field, _) = split(&certificate[message.bytes.len()..]);
        if !nested {
            return message.string(field);
        }
        let (mut inner, mut left) = (Message::inner(), field);
        while !left.is_empty() {
            let (part, after) = split(left);
            (inner, left) = (inner.string(part), after);
        }
        message.nested(&inner)
    };
    let plain = |message: Message, length: usize| {
        let at = message.bytes.len();
        message.raw(&certificate[at..at + length])
    };
    // Algorithm, nonce, key; serial number and kind; key id, principals; validity.
    let message = [false; 3].into_iter().fold(Message::inner(), field);
    let message = field(field(plain(message, 12), false), true);
    // Options, extensions, reserved, authority, signature.
    let message = [true, true, false, true, true].into_iter().fold(plain(message, 16), field);
    assert!(message.bytes == certificate, "a certificate that was taken apart is the same again");
    message
}
