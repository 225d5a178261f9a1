//! Mutual TLS, the same three files on both sides.

use std::io;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// A certificate with its key, and the authority that the other side's certificate must come from; all PEM.
#[derive(Clone)]
pub struct Credentials {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Vec<u8>,
}

/// A file of the credentials is not right.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{what}: no PEM block {label:?} in it")]
    NotPem {
        /// The file's role.
        what: &'static str,
        /// The label that is looked for.
        label: &'static str,
    },
}

impl Credentials {
    /// From three PEM texts: the certificate chain, its private key, and the other side's authority.
    ///
    /// # Errors
    /// When a text has no PEM block of its kind.
    pub fn new(
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
        authority: impl Into<Vec<u8>>,
    ) -> Result<Self, CredentialsError> {
        let credentials =
            Self { certificate: certificate.into(), key: key.into(), authority: authority.into() };
        check("the certificate", &credentials.certificate, "CERTIFICATE-----")?;
        check("the private key", &credentials.key, "PRIVATE KEY-----")?;
        check("the authority", &credentials.authority, "CERTIFICATE-----")?;
        Ok(credentials)
    }

    /// From three files.
    ///
    /// # Errors
    /// When a file cannot be read or is not PEM.
    pub fn read(certificate: &Path, key: &Path, authority: &Path) -> Result<Self, CredentialsError> {
        let read = |file: &Path| {
            std::fs::read(file).map_err(|source| CredentialsError::Read { file: file.to_owned(), source })
        };
        Self::new(read(certificate)?, read(key)?, read(authority)?)
    }

    /// For the side that listens: clients without a certificate of the authority are refused in the handshake.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.identity()).client_ca_root(self.authority())
    }

    /// For the side that dials: the server's certificate must be of the authority and valid for `server_name`.
    pub fn client(&self, server_name: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity())
            .ca_certificate(self.authority())
            .domain_name(server_name)
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }

    fn authority(&self) -> Certificate {
        Certificate::from_pem(&self.authority)
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// The TLS library says "no keys" at best; a swapped file should be named.
fn check(what: &'static str, text: &[u8], label: &'static str) -> Result<(), CredentialsError> {
    let found = text.windows(label.len()).any(|window| window == label.as_bytes());
    if found { Ok(()) } else { Err(CredentialsError::NotPem { what, label }) }
}
