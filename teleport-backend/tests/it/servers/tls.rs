//! An authority for servers, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct Authority(tempfile::TempDir);

impl Authority {
    /// With certificates for the server at 127.0.0.1, `server`, and a client, `client`.
    pub(crate) fn new() -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        let directory = authority.0.path();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let req = |more: &[&str]| openssl(directory, &[&["req"], &key[..], more].concat());
        req(&["-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2"]);
        std::fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        for name in ["server", "client"] {
            let (private, request) = (format!("{name}.key"), format!("{name}.csr"));
            req(&["-new", "-keyout", &private, "-out", &request, "-subj", &format!("/CN={name}")]);
            let certificate = format!("{name}.pem");
            let by =
                ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"];
            openssl(directory, &[&["x509", "-req", "-in", &request, "-out", &certificate], &by[..]].concat());
        }
        authority
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").current_dir(directory).args(arguments).output().expect("openssl");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
