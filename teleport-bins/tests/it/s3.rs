//! Recordings in a real S3 server: moto, which `.ci/test` installs.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use teleport_backend::conformance;
use teleport_backend::recordings::s3::{HttpTransport, S3Config, S3Credentials, S3RecordingStore};
use teleport_bins::daemon::recordings::Https;
use teleport_core::clock::Timestamp;
use teleport_core::recording::{Completion, Form, Listing, RecordingError, RecordingMeta, RecordingStore};
use teleport_core::secret::SecretString;

use crate::servers::mortal;

/// A server of this test, killed with it.
pub(crate) struct Moto {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Moto {
    pub(crate) async fn start() -> Self {
        // The port is free now; should another program take it meanwhile, the server says so and another one is tried.
        for _ in 0..5 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
            if let Some(moto) = Self::start_at(free).await {
                return moto;
            }
        }
        panic!("moto_server does not start; .ci/test installs it");
    }

    /// `None` if it ends at once.
    pub(crate) async fn start_at(address: SocketAddr) -> Option<Self> {
        let mut command = mortal("moto_server", "KILL");
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut process = command.spawn().expect("moto_server is not installed; .ci/test installs it");
        let log = process.stderr.take().unwrap();
        // Read to its end, so that the server never waits for room in the pipe.
        std::thread::spawn(move || BufReader::new(log).lines().map_while(Result::ok).count());
        let mut moto = Self { process, address };
        let until = tokio::time::Instant::now() + Duration::from_secs(60);
        while tokio::time::Instant::now() < until {
            if moto.process.try_wait().unwrap().is_some() {
                return None;
            }
            if moto.send("GET", "/moto-api/").await.is_some() {
                return Some(moto);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// With a signature that the server does not look at.
    async fn send(&self, method: &str, path: &str) -> Option<http::StatusCode> {
        let uri = format!("http://{}{path}", self.address);
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("authorization", SIGNATURE)
            .body(Bytes::new())
            .unwrap();
        Some(Https::new().unwrap().send(request, 1 << 20).await.ok()?.status())
    }

    pub(crate) async fn make_bucket(&self, name: &str) {
        assert_eq!(self.send("PUT", &format!("/{name}")).await, Some(http::StatusCode::OK));
    }

    async fn remove(&self, path: &str) {
        assert_eq!(self.send("DELETE", path).await, Some(http::StatusCode::NO_CONTENT), "{path}");
    }

    async fn put(&self, path: &str) {
        assert_eq!(self.send("PUT", path).await, Some(http::StatusCode::OK), "{path}");
    }

    /// How many objects there are.
    async fn count(&self, bucket: &str) -> usize {
        let uri = format!("http://{}/{bucket}?list-type=2", self.address);
        let request =
            http::Request::builder().uri(uri).header("authorization", SIGNATURE).body(Bytes::new()).unwrap();
        let answer = Https::new().unwrap().send(request, 1 << 20).await.unwrap();
        String::from_utf8_lossy(answer.body()).matches("<Key>").count()
    }

    /// What is in a bucket.
    pub(crate) async fn objects(&self, bucket: &str) -> Vec<Bytes> {
        let get = async |path: String| {
            let uri = format!("http://{}/{path}", self.address);
            let request = http::Request::builder().uri(uri).header("authorization", SIGNATURE);
            let answer = Https::new().unwrap().send(request.body(Bytes::new()).unwrap(), 4 << 20).await;
            answer.unwrap().into_body()
        };
        let list = get(format!("{bucket}?list-type=2")).await;
        let list = String::from_utf8_lossy(&list);
        let mut objects = Vec::new();
        for key in list.split("<Key>").skip(1) {
            objects.push(get(format!("{bucket}/{}", key.split('<').next().unwrap())).await);
        }
        objects
    }

    pub(crate) async fn ask_for_credentials(&self) -> Option<http::StatusCode> {
        let uri = format!("http://{}/moto-api/reset-auth", self.address);
        let request =
            http::Request::builder().method("POST").uri(uri).body(Bytes::from_static(b"0")).unwrap();
        Some(Https::new().unwrap().send(request, 1 << 20).await.ok()?.status())
    }

    fn config(&self, place: &str) -> S3Config {
        format!("s3://{place}?region=us-east-1&insecure=true&endpoint={}", self.address).parse().unwrap()
    }

    fn store(&self, place: &str) -> S3RecordingStore {
        S3RecordingStore::new(&self.config(place), &key(), Arc::new(Https::new().unwrap())).unwrap()
    }
}

const SIGNATURE: &str =
    "AWS4-HMAC-SHA256 Credential=AKIA/20261121/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00";
const KEY_ID: &str = "AKIACANARYCANARYCANA";
const SECRET: &str = "canary-of-the-secret-access-key";

fn key() -> S3Credentials {
    S3Credentials::Key { id: KEY_ID.to_owned(), secret: SecretString::new(SECRET) }
}

fn meta() -> RecordingMeta {
    RecordingMeta {
        session: "00000001-0000-4000-8000-000000000000".parse().unwrap(),
        cluster: "example.com".parse().unwrap(),
        host_id: "11111111-2222-4333-8444-555555555555".parse().unwrap(),
        host_name: "db-1".parse().unwrap(),
        user: "alice".parse().unwrap(),
        login: "root".parse().unwrap(),
        started: Timestamp::from_unix_millis(1_795_262_400_000),
        command: None,
        terminal: None,
    }
}

/// All that an error says, for people and for those who look closer.
fn whole_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    assert!(!text.contains(SECRET), "the secret is in an error");
    text
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, RecordingError>) -> String {
    match result {
        Err(error @ RecordingError::Unavailable { .. }) => whole_text(&error),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let moto = Moto::start().await;
    moto.make_bucket("recordings").await;
    let count = AtomicUsize::new(0);
    let factory = async || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        // With characters that are encoded on their way.
        Arc::new(moto.store(&format!("recordings/some~team/50%25 größe-{number}"))) as Arc<dyn RecordingStore>
    };
    conformance::recordings::run_all(&factory).await;
}

/// A page of the list is 1000 objects here; time and user are found without reading what is not asked for.
#[tokio::test(flavor = "multi_thread")]
async fn two_services_use_one_bucket() {
    let moto = Moto::start().await;
    moto.make_bucket("recordings").await;
    let (one, other) = (moto.store("recordings"), moto.store("recordings"));
    let meta = meta();
    one.create(&meta, &Form::PLAIN).await.unwrap();
    other.create(&meta, &Form::PLAIN).await.unwrap();
    one.put_part(meta.session, 0, Bytes::from_static(b"zero ")).await.unwrap();
    other.put_part(meta.session, 0, Bytes::from_static(b"zero ")).await.unwrap();
    let error = other.put_part(meta.session, 0, Bytes::from_static(b"ZERO ")).await.unwrap_err();
    assert!(matches!(error, RecordingError::Conflict { .. }), "{error:?}");
    other.put_part(meta.session, 1, Bytes::from_static(b"one")).await.unwrap();
    let (two, one_part) = (Completion::new(2, meta.started), Completion::new(1, meta.started));
    let (right, wrong) =
        tokio::join!(one.complete(meta.session, &two), other.complete(meta.session, &one_part));
    right.unwrap();
    assert!(matches!(wrong, Err(RecordingError::Conflict { .. })), "{wrong:?}");
    let error = one.put_part(meta.session, 2, Bytes::from_static(b"two")).await.unwrap_err();
    assert!(matches!(error, RecordingError::Conflict { .. }), "{error:?}");
    assert_eq!(other.read(meta.session, 5, 100).await.unwrap(), "one");
    // What one has deleted the other one does not remember.
    one.delete(meta.session).await.unwrap();
    for result in [other.read(meta.session, 0, 9).await.map(drop), other.info(meta.session).await.map(drop)] {
        assert!(matches!(result, Err(RecordingError::NotFound)), "{result:?}");
    }
    other.create(&meta, &Form::PLAIN).await.unwrap();
    assert_eq!(other.parts(meta.session).await.unwrap(), 0);
}

/// What is deleted while it is written anew does not come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_deleted_while_it_is_rewritten_stays_deleted() {
    let moto = Moto::start().await;
    moto.make_bucket("recordings").await;
    let (one, other) = (moto.store("recordings"), Arc::new(moto.store("recordings")));
    let meta = meta();
    let session = meta.session;
    for is_deleted in [false, true] {
        one.create(&meta, &Form::PLAIN).await.unwrap();
        one.put_part(meta.session, 0, Bytes::from_static(b"part")).await.unwrap();
        one.complete(meta.session, &Completion::new(1, meta.started)).await.unwrap();
        let (other, runtime) = (Arc::clone(&other), tokio::runtime::Handle::current());
        // Between what is read and what is written.
        let meanwhile = move |_: u32, part: Bytes| {
            let other = Arc::clone(&other);
            let work = async move {
                if is_deleted {
                    other.delete(session).await
                } else {
                    other.rewrite(session, Arc::new(|_, _| Ok(Bytes::from_static(b"mine")))).await
                }
            };
            tokio::task::block_in_place(|| runtime.block_on(work))?;
            Ok(part.to_ascii_uppercase().into())
        };
        let result = one.rewrite(meta.session, Arc::new(meanwhile)).await;
        if is_deleted {
            assert!(matches!(result, Err(RecordingError::NotFound)), "{result:?}");
            assert_eq!(moto.count("recordings").await, 0, "nothing came back");
        } else {
            assert!(matches!(result, Err(RecordingError::Conflict { .. })), "{result:?}");
            assert_eq!(one.read(meta.session, 0, 9).await.unwrap(), "mine");
            one.delete(meta.session).await.unwrap();
        }
    }
}

/// A step of completing or deleting is not done because the service crashed before it; what is there counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_leaves_what_can_be_finished() {
    let moto = Moto::start().await;
    moto.make_bucket("recordings").await;
    let store = moto.store("recordings");
    let meta = meta();
    let all = || Listing::span(Timestamp::EPOCH, Timestamp::MAX, 10);
    let folder = format!("/recordings/sessions/{}", meta.session);
    let marker = format!(
        "/recordings/index/all/{:015}-{}",
        999_999_999_999_999 - meta.started.unix_millis(),
        meta.session
    );
    // Begun, and not listed.
    store.create(&meta, &Form::PLAIN).await.unwrap();
    moto.remove(&marker).await;
    assert!(store.list(&all()).await.unwrap().is_empty());
    store.create(&meta, &Form::PLAIN).await.unwrap();
    assert_eq!(store.list(&all()).await.unwrap().len(), 1);
    for step in 0..5 {
        let store = moto.store("recordings");
        store.create(&meta, &Form::PLAIN).await.unwrap();
        for number in 0..2 {
            store.put_part(meta.session, number, Bytes::from_static(b"part")).await.unwrap();
        }
        store.complete(meta.session, &Completion::new(2, meta.started)).await.unwrap();
        // As deleting does it, up to a step.
        moto.put(&format!("{folder}/deleted")).await;
        let steps = [
            format!("{folder}/complete.json"),
            marker.clone(),
            format!("{folder}/part-00000000"),
            format!("{folder}/meta.json"),
        ];
        for path in &steps[..step] {
            moto.remove(path).await;
        }
        let fresh = moto.store("recordings");
        if step > 0 {
            let info = fresh.info(meta.session).await;
            assert!(matches!(info, Err(RecordingError::NotFound)), "{info:?}");
            assert!(fresh.list(&all()).await.unwrap().is_empty());
        }
        if step % 2 == 0 {
            fresh.delete(meta.session).await.unwrap();
            assert_eq!(moto.count("recordings").await, usize::from(step == 4), "what is left in step {step}");
        }
        // Beginning again removes what was left.
        fresh.create(&meta, &Form::PLAIN).await.unwrap();
        assert_eq!(
            (fresh.parts(meta.session).await.unwrap(), fresh.list(&all()).await.unwrap().len()),
            (0, 1)
        );
        fresh.delete(meta.session).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_away_and_came_back_is_used_again() {
    let moto = Moto::start().await;
    moto.make_bucket("recordings").await;
    let store = moto.store("recordings");
    let meta = meta();
    store.create(&meta, &Form::PLAIN).await.unwrap();
    let address = moto.address;
    drop(moto);
    let error = unavailable(store.put_part(meta.session, 0, Bytes::from_static(b"part")).await);
    assert!(error.contains("cannot be reached") && error.contains("refused"), "{error}");
    assert!(!store.check().await.unwrap_err().is_refusal());
    let again = Moto::start_at(address).await.expect("its port is free again");
    // This server forgets, so everything is new; the pool's broken connections are not.
    let error = store.check().await.unwrap_err();
    assert!(error.is_refusal() && error.to_string().contains("no such bucket"), "{error}");
    again.make_bucket("recordings").await;
    store.check().await.unwrap();
    store.create(&meta, &Form::PLAIN).await.unwrap();
    store.put_part(meta.session, 0, Bytes::from_static(b"part")).await.unwrap();
    assert_eq!(store.read(meta.session, 0, 9).await.unwrap(), "part");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_told() {
    let moto = Moto::start().await;
    moto.make_bucket("recordings").await;
    let store = moto.store("recordings");
    store.check().await.unwrap();
    // From now on the server asks who comes.
    assert_eq!(moto.ask_for_credentials().await, Some(http::StatusCode::OK));
    let error = store.check().await.unwrap_err();
    assert!(error.is_refusal(), "{error}");
    assert!(error.to_string().contains("credentials are not accepted; check AWS_ACCESS_KEY_ID"), "{error}");
    whole_text(&error);
    let error = unavailable(store.create(&meta(), &Form::PLAIN).await);
    assert!(error.contains("credentials are not accepted"), "{error}");
}

/// A server that takes connections and never answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_given_up() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = silent.local_addr().unwrap();
    let transport = Https::new().unwrap().with_timeout(Duration::from_millis(50));
    let config: S3Config = format!("s3://recordings?insecure=true&endpoint={address}").parse().unwrap();
    let store = S3RecordingStore::new(&config, &key(), Arc::new(transport)).unwrap();
    let error = unavailable(store.info(meta().session).await);
    assert!(error.contains("took too long"), "{error}");
}
