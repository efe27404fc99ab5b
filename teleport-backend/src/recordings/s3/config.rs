//! Where the bucket is: `s3://bucket/prefix?region=…`.

use std::collections::BTreeMap;
use std::fmt;

use teleport_core::secret::SecretString;

/// The parameters that a URL may have.
pub const PARAMETERS: &[&str] =
    &["region", "endpoint", "insecure", "sse_kms_key", "use_virtual_style_addressing"];

/// A place in an S3-compatible object storage. Credentials are no part of it: they come from the environment, from files that
/// it names, or from the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct S3Config {
    /// The bucket. It must exist.
    pub bucket: String,
    /// What all names of objects begin with, without slashes at its ends; may be empty.
    pub prefix: String,
    /// The region.
    pub region: Option<String>,
    /// Another server than Amazon's, as a URL.
    pub endpoint: Option<String>,
    /// Whether the endpoint may be reached without TLS.
    pub insecure: bool,
    /// The key by which the server encrypts.
    pub sse_kms_key: Option<String>,
    /// Whether the bucket is part of the host's name and not of the path.
    pub virtual_hosted: bool,
}

/// Who we are to the object storage.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum S3Credentials {
    /// As the environment says, by the variables that Amazon's own tools read (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`, …); without them, as the instance says on which the process runs.
    #[default]
    Environment,
    /// A key.
    Key {
        /// Its name.
        id: String,
        /// The secret.
        secret: SecretString,
    },
}

/// The text does not name a bucket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum S3ConfigError {
    /// The bucket has no name, or one that no bucket has.
    #[error(
        "the name of a bucket has 3 to 63 small letters, digits, dots and hyphens, as in s3://bucket/prefix"
    )]
    Bucket,
    /// A parameter's value cannot be used.
    #[error("`{name}` is {rule}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// A parameter that there is not.
    #[error("there is no parameter {name:?}; known are {}", PARAMETERS.join(", "))]
    Parameter {
        /// What was written.
        name: String,
    },
    /// Credentials stand where everybody can read them.
    #[error("credentials do not belong into the URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    Credentials,
    /// It is no such URL.
    #[error("write s3://bucket/prefix?region=…")]
    Form,
}

impl std::str::FromStr for S3Config {
    type Err = S3ConfigError;

    fn from_str(text: &str) -> Result<Self, S3ConfigError> {
        let rest = text.strip_prefix("s3://").ok_or(S3ConfigError::Form)?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if place.contains('@') {
            return Err(S3ConfigError::Credentials);
        }
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(letters) {
            return Err(S3ConfigError::Bucket);
        }
        let mut given: BTreeMap<String, String> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        if let Some(name) = given.keys().find(|name| !PARAMETERS.contains(&name.as_str())) {
            let name = name.clone();
            // The value is not repeated: it may be a key that was put into the wrong place.
            return Err(if name.to_ascii_lowercase().contains("key") || name.contains("token") {
                S3ConfigError::Credentials
            } else {
                S3ConfigError::Parameter { name }
            });
        }
        let insecure = switch(given.remove("insecure"), "insecure")?;
        let endpoint = given.remove("endpoint").map(|text| endpoint(&text, insecure)).transpose()?;
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
            region: given.remove("region"),
            endpoint,
            insecure,
            sse_kms_key: given.remove("sse_kms_key"),
            virtual_hosted: switch(
                given.remove("use_virtual_style_addressing"),
                "use_virtual_style_addressing",
            )?,
        })
    }
}

/// The URL that says the same.
impl S3Config {
    /// Which objects they are, and not how they are reached: what several services have in common that keep recordings in one place.
    pub fn place(&self) -> String {
        let (slash, prefix) = (if self.prefix.is_empty() { "" } else { "/" }, &self.prefix);
        let place = format!("s3://{}{slash}{prefix}", self.bucket);
        // Elsewhere than at AWS names of buckets are those of one server.
        match &self.endpoint {
            Some(endpoint) => format!("{place}?endpoint={endpoint}"),
            None => place,
        }
    }
}

impl fmt::Display for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let optional = [
            ("region", self.region.as_deref()),
            ("endpoint", self.endpoint.as_deref()),
            ("insecure", self.insecure.then_some("true")),
            ("sse_kms_key", self.sse_kms_key.as_deref()),
            ("use_virtual_style_addressing", self.virtual_hosted.then_some("true")),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let (slash, query) = (if self.prefix.is_empty() { "" } else { "/" }, query.finish());
        let question = if query.is_empty() { "" } else { "?" };
        write!(f, "s3://{}{slash}{}{question}{query}", self.bucket, self.prefix)
    }
}

fn switch(value: Option<String>, name: &'static str) -> Result<bool, S3ConfigError> {
    match value.as_deref() {
        None | Some("false" | "no") => Ok(false),
        Some("true" | "yes") => Ok(true),
        Some(_) => Err(S3ConfigError::Value { name, rule: "`true` or `false`" }),
    }
}

/// The server's URL; a name alone gets the scheme that `insecure` says.
fn endpoint(text: &str, insecure: bool) -> Result<String, S3ConfigError> {
    let value = |rule| S3ConfigError::Value { name: "endpoint", rule };
    let text = match text.split_once("://") {
        Some(_) => text.to_owned(),
        None => format!("{}://{text}", if insecure { "http" } else { "https" }),
    };
    let url = url::Url::parse(&text).map_err(|_| value("a server's name or its URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(S3ConfigError::Credentials);
    }
    match url.scheme() {
        "https" => {}
        "http" if insecure => {}
        "http" => return Err(value("without TLS; say `insecure=true` if that is meant")),
        _ => return Err(value("a server's name or its https URL")),
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn parse(text: &str) -> Result<S3Config, String> {
        text.parse().map_err(|error: S3ConfigError| error.to_string())
    }

    #[test]
    fn reads_the_original_form() {
        let config =
            parse("s3://rec-1.example/a/b/?region=eu-west-1&endpoint=minio.example.com:9000").unwrap();
        assert_eq!((config.bucket.as_str(), config.prefix.as_str()), ("rec-1.example", "a/b"));
        assert_eq!(config.region.as_deref(), Some("eu-west-1"));
        assert_eq!(config.endpoint.as_deref(), Some("https://minio.example.com:9000"));
        let config = parse("s3://rec?insecure=true&endpoint=127.0.0.1:9000").unwrap();
        assert_eq!(config.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(config.prefix, "");
        for text in [
            "s3://rec",
            "s3://rec/a/b?region=r&endpoint=http%3A%2F%2Fh%3A1&insecure=true&use_virtual_style_addressing=true",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_repeating_secrets() {
        for (text, expected) in [
            ("s3:/x", "write s3://"),
            ("s3://", "name of a bucket"),
            ("s3://Rec", "name of a bucket"),
            ("s3://rec?reigon=x", "\"reigon\""),
            ("s3://rec?insecure=perhaps", "`true` or `false`"),
            ("s3://rec?endpoint=http://x", "insecure=true"),
            ("s3://rec?endpoint=ftp://x", "https URL"),
            ("s3://AKIA:SECRET@rec/x", "AWS_ACCESS_KEY_ID"),
            ("s3://rec?secret_access_key=SECRET", "AWS_ACCESS_KEY_ID"),
            ("s3://rec?endpoint=https://AKIA:SECRET@host", "AWS_ACCESS_KEY_ID"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                error.contains(expected) && !error.contains("SECRET ") && !error.contains("AKIA"),
                "{error}"
            );
        }
    }
}
