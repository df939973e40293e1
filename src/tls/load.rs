//! From files to certificates, keys and authorities, each checked when it is read.

use super::{
    certificate::{Malformed, Particulars},
    provider,
};
use crate::model::{Authorities, Identity, Source, Stamp, Validity};
use rustls::{
    Error as TlsError, InconsistentKeys, RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    sync::Arc,
};

/// The largest file that is read, in bytes. A system's collection of authorities has a quarter.
const MAX_FILE: u64 = 1024 * 1024;

const CERTIFICATE: &str = "a PEM file with a certificate, then those that lead to its authority";
const KEY: &str = "a PEM file with the private key of the certificate, not encrypted";
const AUTHORITIES: &str = "a PEM file with the certificates of authorities";

/// What is wrong with a file, and what should be in its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct FileError {
    /// What was found.
    pub problem: String,
    /// What was expected.
    pub expected: &'static str,
}

/// Which of the two files of an identity something is wrong with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// That of the certificates.
    #[error(transparent)]
    Certificate(FileError),
    /// That of the key.
    #[error(transparent)]
    Key(FileError),
}

impl IdentityError {
    /// The same, whichever file it is.
    pub fn into_file_error(self) -> FileError {
        let (Self::Certificate(error) | Self::Key(error)) = self;
        error
    }
}

/// Reads a certificate and its key.
///
/// # Errors
/// When a file cannot be read or does not hold what it should, or when the two do not fit.
pub fn identity(cert: &Path, key: &Path) -> Result<Identity, IdentityError> {
    let (cert, chain) = read_certificates(cert, CERTIFICATE).map_err(IdentityError::Certificate)?;
    let particulars = Particulars::of(&chain[0])
        .map_err(|problem| IdentityError::Certificate(malformed(problem, &cert, CERTIFICATE)))?;
    let (key, secret) = read_key(key).map_err(IdentityError::Key)?;
    let certified = certified(chain, &secret, &cert, &key)?;
    Ok(Identity {
        cert,
        key,
        certified: Arc::new(certified),
        secret: Arc::new(secret),
        names: particulars.names,
        validity: particulars.validity,
    })
}

/// Puts a chain and a key together, which must fit.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    secret: &PrivateKeyDer<'static>,
    cert: &Source,
    key: &Source,
) -> Result<CertifiedKey, IdentityError> {
    let (cert, key) = (cert.path.display(), key.path.display());
    let wrong_key = |problem| IdentityError::Key(FileError { problem, expected: KEY });
    let signing = provider().key_provider.load_private_key(secret.clone_key()).map_err(|_| {
        wrong_key(format!(
            "the key in {key} is of a kind that is not supported (RSA of 2048 bits or more, ECDSA \
             P-256 and P-384 and Ed25519 are)"
        ))
    })?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(TlsError::InconsistentKeys(_)) => {
            Err(wrong_key(format!("the key in {key} does not fit the certificate in {cert}")))
        }
        Err(error) => Err(IdentityError::Certificate(FileError {
            problem: format!("the certificate in {cert} cannot be used: {error}"),
            expected: CERTIFICATE,
        })),
    }
}

/// Reads the certificates of authorities.
///
/// # Errors
/// When the file cannot be read, has none, or has one that cannot serve as an authority's.
pub fn authorities(path: &Path) -> Result<Authorities, FileError> {
    let (file, certificates) = read_certificates(path, AUTHORITIES)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        Particulars::of(certificate).map_err(|problem| malformed(problem, &file, AUTHORITIES))?;
        roots.add(certificate.clone()).map_err(|_| malformed(Malformed, &file, AUTHORITIES))?;
    }
    Ok(Authorities { file: Some(file), certificates: certificates.into(), roots: Arc::new(roots) })
}

/// The authorities that the system trusts. What is odd among them is left out: it is not ours to
/// mend.
///
/// # Errors
/// When the system has none.
pub fn system_authorities() -> Result<Authorities, FileError> {
    let none = |why: String| FileError {
        problem: format!("the system has no certificates of authorities{why}"),
        expected: "the package ca-certificates, or the key \"ca\" with a file",
    };
    let mut certificates =
        rustls_native_certs::load_native_certs().map_err(|error| none(format!(": {error}")))?;
    let mut roots = RootCertStore::empty();
    certificates.retain(|certificate| {
        Particulars::of(certificate).is_ok() && roots.add(certificate.clone()).is_ok()
    });
    if certificates.is_empty() {
        return Err(none(String::new()));
    }
    Ok(Authorities { file: None, certificates: certificates.into(), roots: Arc::new(roots) })
}

/// What is wrong with `validity` at `now`, in seconds since 1970, if anything is.
pub fn untimely(validity: Validity, now: i64) -> Option<String> {
    let day = |second: i64| {
        let time = jiff::Timestamp::from_second(second);
        time.map_or_else(|_| "a day far away".to_owned(), |time| time.strftime("%F").to_string())
    };
    if now > validity.until {
        return Some(format!("a certificate that expired on {}", day(validity.until)));
    }
    if now < validity.from {
        return Some(format!("a certificate that is not valid before {}", day(validity.from)));
    }
    None
}

fn malformed(problem: Malformed, source: &Source, expected: &'static str) -> FileError {
    FileError { problem: format!("{} has {problem}", source.path.display()), expected }
}

fn read_certificates(
    path: &Path,
    expected: &'static str,
) -> Result<(Source, Vec<CertificateDer<'static>>), FileError> {
    let (source, bytes) = read(path, expected)?;
    let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let error = |what| FileError { problem: format!("{} {what}", path.display()), expected };
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(error("has no certificate")),
        Ok(certificates) => Ok((source, certificates)),
        Err(_) => Err(error("is not a valid PEM file")),
    }
}

fn read_key(path: &Path) -> Result<(Source, PrivateKeyDer<'static>), FileError> {
    let (source, bytes) = read(path, KEY)?;
    let error = |what| FileError { problem: format!("{} {what}", path.display()), expected: KEY };
    let is_encrypted = memchr::memmem::find(&bytes, b"ENCRYPTED").is_some();
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok((source, key)),
        Err(_) if is_encrypted => Err(error("has an encrypted key")),
        Err(pem::Error::NoItemsFound) => Err(error("has no private key")),
        Err(_) => Err(error("is not a valid PEM file")),
    }
}

fn read(path: &Path, expected: &'static str) -> Result<(Source, Vec<u8>), FileError> {
    read_bounded(path).map_err(|error| FileError {
        problem: format!("cannot read {}: {error}", path.display()),
        expected,
    })
}

/// Reads a file as it is now. The stamp is taken first: what changes while it is read is noticed
/// later.
fn read_bounded(path: &Path) -> io::Result<(Source, Vec<u8>)> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        // Opening a pipe would wait for somebody to write to it.
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1MiB"));
    }
    Ok((Source { path: path.to_path_buf(), stamp: Stamp::of(&metadata) }, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
    use std::path::PathBuf;

    /// A folder with a certificate and its key in it.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            folder.write("a.pem", certificate.pem());
            folder.write("a.key", key.serialize_pem());
            folder
                .write("other.key", KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem());
            folder
        }

        fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.path(name);
            fs::write(&path, content).unwrap();
            path
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn identity(&self, cert: &str, key: &str) -> Result<Identity, String> {
            let shown = |error: &IdentityError| {
                let folder = format!("{}/", self.0.path().display());
                error.to_string().replace(&folder, "")
            };
            identity(&self.path(cert), &self.path(key)).map_err(|error| shown(&error))
        }
    }

    #[test]
    fn a_certificate_and_its_key_are_an_identity() {
        let folder = Folder::new();
        let identity = folder.identity("a.pem", "a.key").unwrap();
        assert_eq!(identity.names, ["a.example"]);
        assert_eq!(identity.certified.cert.len(), 1);
        assert_eq!(identity.cert.path, folder.path("a.pem"));
    }

    #[test]
    fn both_may_be_in_one_file_in_any_order() {
        let folder = Folder::new();
        let text = |name| fs::read_to_string(folder.path(name)).unwrap();
        folder.write("both.pem", text("a.key") + &text("a.pem"));
        folder.identity("both.pem", "both.pem").unwrap();
    }

    #[test]
    fn what_is_no_identity_is_explained() {
        let folder = Folder::new();
        let text = |name| fs::read_to_string(folder.path(name)).unwrap();
        folder.write("empty", "");
        folder.write("cut.pem", &text("a.pem")[..200]);
        folder.write("cut.key", &text("a.key")[..60]);
        folder.write(
            "nonsense.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        );
        folder.write(
            "nonsense.key",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        );
        folder.write(
            "encrypted.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        folder.write("large", vec![b'x'; 1024 * 1024 + 1]);
        for (cert, key, expected) in [
            ("none.pem", "a.key", "cannot read none.pem: No such file or directory (os error 2)"),
            ("a.pem", "none.key", "cannot read none.key: No such file or directory (os error 2)"),
            (".", "a.key", "cannot read .: it is not a file"),
            ("large", "a.key", "cannot read large: it is larger than 1MiB"),
            ("empty", "a.key", "empty has no certificate"),
            ("a.key", "a.key", "a.key has no certificate"),
            ("cut.pem", "a.key", "cut.pem is not a valid PEM file"),
            ("nonsense.pem", "a.key", "nonsense.pem has a certificate that cannot be understood"),
            ("a.pem", "empty", "empty has no private key"),
            ("a.pem", "a.pem", "a.pem has no private key"),
            ("a.pem", "cut.key", "cut.key is not a valid PEM file"),
            ("a.pem", "encrypted.key", "encrypted.key has an encrypted key"),
            ("a.pem", "other.key", "the key in other.key does not fit the certificate in a.pem"),
            (
                "a.pem",
                "nonsense.key",
                "the key in nonsense.key is of a kind that is not supported (RSA of 2048 bits or \
                 more, ECDSA P-256 and P-384 and Ed25519 are)",
            ),
        ] {
            let found = folder.identity(cert, key).map(|_| ());
            assert_eq!(found, Err(expected.to_owned()), "{cert} {key}");
        }
    }

    #[test]
    fn authorities_are_a_file_of_certificates() {
        let folder = Folder::new();
        let authorities = authorities(&folder.path("a.pem")).unwrap();
        assert_eq!((authorities.certificates.len(), authorities.roots.len()), (1, 1));
        let error = super::authorities(&folder.path("a.key")).unwrap_err();
        assert!(error.problem.ends_with("a.key has no certificate"), "{error}");
        assert_eq!(error.expected, AUTHORITIES);
    }

    #[test]
    fn a_certificate_is_valid_from_its_first_to_its_last_second() {
        let validity = Validity { from: 1_577_836_800, until: 1_609_459_200 };
        assert_eq!(untimely(validity, validity.from), None);
        assert_eq!(untimely(validity, validity.until), None);
        let early = untimely(validity, validity.from - 1).unwrap();
        assert_eq!(early, "a certificate that is not valid before 2020-01-01");
        let late = untimely(validity, validity.until + 1).unwrap();
        assert_eq!(late, "a certificate that expired on 2021-01-01");
    }
}
