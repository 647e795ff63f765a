//! Certificates and keys of a cluster: made on first start, used again afterwards, made anew when
//! they near their end.
//!
//! Files are written beside their target and renamed, mode 0600; a folder with only half of a pair
//! is refused, since guessing would lock somebody out.

use crate::token::{TokenError, TokenIssuer};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const DAY: i64 = 86_400;
/// Life of the CA.
const CA_DAYS: i64 = 3650;
/// Life of the certificates.
const LEAF_DAYS: i64 = 365;
/// Left life below which a certificate is made anew.
const RENEW_DAYS: i64 = 30;

/// Why the PKI cannot be used. The operator must act on all of them.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write`, `create`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate without its key or a key without its certificate.
    #[error("{} is there without its other half; restore it, or remove both to have new ones made", path.display())]
    Half {
        /// The half that is there.
        path: PathBuf,
    },
    /// A file is no PEM of the kind that it should be.
    #[error("{} is damaged: {why}; restore it, or remove certificate and key to have new ones made", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A certificate could not be made.
    #[error("a certificate could not be made")]
    Make(#[source] rcgen::Error),
    /// The TLS library refused the material.
    #[error("the TLS settings are not usable")]
    Tls(#[source] rustls::Error),
    /// The client-certificate verifier refused the CA.
    #[error("the client CA is not usable")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// The service-account key is not usable.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    /// Certificate.
    pub certificate: String,
    /// PKCS#8 key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair")
    }
}

/// Whom the certificates name.
#[derive(Clone, Debug)]
pub struct Names {
    /// Name of this node.
    pub node_name: String,
    /// Addresses under which this host is reached.
    pub addresses: Vec<IpAddr>,
    /// The address of `default/kubernetes`.
    pub service_ip: IpAddr,
}

/// All certificates and keys of a cluster.
#[derive(Clone, Debug)]
pub struct Pki {
    folder: PathBuf,
    /// The CA that signs all others.
    pub ca: Pair,
    /// The API server's serving certificate.
    pub apiserver: Pair,
    /// `kubernetes-admin` in `system:masters`.
    pub admin: Pair,
    /// What the API server shows to nodes: `kube-apiserver-kubelet-client` in `system:masters`.
    pub kubelet_client: Pair,
    /// `system:node:<name>` in `system:nodes`.
    pub node_client: Pair,
    /// The node agent's serving certificate.
    pub node_serving: Pair,
    /// Private key that signs service-account tokens, PKCS#8 PEM.
    service_account_key: String,
}

struct Leaf<'a> {
    file: &'a str,
    common_name: &'a str,
    organization: &'a str,
    usage: ExtendedKeyUsagePurpose,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Pki {
    /// Reads the folder and makes what is missing or near its end.
    ///
    /// # Errors
    /// [`PkiError`]
    pub fn load_or_create(folder: &Path, names: &Names) -> Result<Self, PkiError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| PkiError::Io { action: "create", path: folder.to_owned(), source })?;
        let ca = authority(folder)?;
        let node = names.node_name.as_str();
        let node_user = format!("system:node:{node}");
        let serving: Vec<String> = [
            node,
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(str::to_owned)
        .to_vec();
        let mut addresses = vec![IpAddr::from([127, 0, 0, 1])];
        for ip in names.addresses.iter().chain([&names.service_ip]) {
            if !addresses.contains(ip) {
                addresses.push(*ip);
            }
        }
        let leaf = |one: Leaf<'_>| leaf(folder, &ca, &one);
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let apiserver = leaf(Leaf {
            file: "apiserver",
            common_name: "kube-apiserver",
            organization: "",
            usage: ExtendedKeyUsagePurpose::ServerAuth,
            names: serving,
            addresses: addresses.clone(),
        })?;
        let user = |file, common_name, organization| Leaf {
            file,
            common_name,
            organization,
            usage: client.clone(),
            names: Vec::new(),
            addresses: Vec::new(),
        };
        let admin = leaf(user("admin", "kubernetes-admin", "system:masters"))?;
        let kubelet_client =
            leaf(user("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"))?;
        let node_client = leaf(user("node-client", &node_user, "system:nodes"))?;
        let node_serving = leaf(Leaf {
            file: "node-serving",
            common_name: &node_user,
            organization: "system:nodes",
            usage: ExtendedKeyUsagePurpose::ServerAuth,
            names: vec![node.to_owned(), "localhost".to_owned()],
            addresses: addresses.clone(),
        })?;
        let service_account_key = signing_key(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            ca,
            apiserver,
            admin,
            kubelet_client,
            node_client,
            node_serving,
            service_account_key,
        })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The issuer of service-account tokens.
    ///
    /// # Errors
    /// [`PkiError::Damaged`]
    pub fn token_issuer(&self, issuer: &str, audiences: &[String]) -> Result<TokenIssuer, PkiError> {
        let path = self.folder.join("sa.key");
        let key = KeyPair::from_pem(&self.service_account_key)
            .map_err(|e| PkiError::Damaged { path, why: e.to_string() })?;
        Ok(TokenIssuer::new(issuer, audiences, &self.service_account_key, key.public_key_raw())?)
    }

    /// TLS settings of the API server's listener: HTTP/2 and HTTP/1.1, client certificates of our
    /// CA optional.
    ///
    /// # Errors
    /// [`PkiError`]
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        server_config(&self.apiserver, &self.ca.certificate)
    }

    /// TLS settings with which the API server calls nodes.
    ///
    /// # Errors
    /// [`PkiError`]
    pub fn kubelet_client_config(&self) -> Result<Arc<rustls::ClientConfig>, PkiError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(&self.ca.certificate)? {
            roots.add(certificate).map_err(PkiError::Tls)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(PkiError::Tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                certificates(&self.kubelet_client.certificate)?,
                key(&self.kubelet_client.key)?,
            )
            .map_err(PkiError::Tls)?;
        Ok(Arc::new(config))
    }

    /// Writes an admin kubeconfig for `server` (`https://host:port`), mode 0600.
    ///
    /// # Errors
    /// [`PkiError::Io`]
    pub fn write_kubeconfig(&self, path: &Path, server: &str) -> Result<(), PkiError> {
        let text = kubeconfig(server, &self.ca.certificate, "kubernetes-admin", &self.admin);
        if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        write(path, &text)
    }
}

/// TLS settings of a listener with a certificate; clients may show one of `client_ca`.
///
/// # Errors
/// [`PkiError`]
pub fn server_config(pair: &Pair, client_ca: &str) -> Result<Arc<rustls::ServerConfig>, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(client_ca)? {
        roots.add(certificate).map_err(PkiError::Tls)?;
    }
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(PkiError::Verifier)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(PkiError::Tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&pair.certificate)?, key(&pair.key)?)
        .map_err(PkiError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A kubeconfig with embedded certificates.
#[must_use]
pub fn kubeconfig(server: &str, ca: &str, user: &str, pair: &Pair) -> String {
    use base64::Engine;
    let b64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: orlop\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: {user}@orlop\n  context:\n    cluster: orlop\n    user: {user}\n\
         current-context: {user}@orlop\n",
        b64(ca),
        b64(&pair.certificate),
        b64(&pair.key)
    )
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    parsed.map_err(|e| PkiError::Damaged { path: PathBuf::from("certificate"), why: e.to_string() })
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| PkiError::Damaged { path: PathBuf::from("key"), why: e.to_string() })
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Io { action: "read", path: path.to_owned(), source }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let fail = |source| PkiError::Io { action: "write", path: path.to_owned(), source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    std::fs::rename(&beside, path).map_err(fail)
}

fn read_pair(folder: &Path, name: &str) -> Result<Option<Pair>, PkiError> {
    let (certificate_path, key_path) =
        (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
    match (read(&certificate_path)?, read(&key_path)?) {
        (Some(certificate), Some(key)) => Ok(Some(Pair { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(PkiError::Half { path: certificate_path }),
        // The key is written first: a crash in between leaves a key that nobody has used.
        (None, Some(_)) => Ok(None),
    }
}

fn write_pair(folder: &Path, name: &str, pair: &Pair) -> Result<(), PkiError> {
    write(&folder.join(format!("{name}.key")), &pair.key)?;
    write(&folder.join(format!("{name}.crt")), &pair.certificate)
}

fn validity(params: &mut CertificateParams, days: i64) {
    let now = std::time::SystemTime::now();
    // Clocks differ: the certificate is valid from an hour ago.
    params.not_before = (now - std::time::Duration::from_secs(3600)).into();
    params.not_after = (now + std::time::Duration::from_secs(u64::try_from(days * DAY).unwrap_or(0))).into();
}

fn authority(folder: &Path) -> Result<Pair, PkiError> {
    if let Some(pair) = read_pair(folder, "ca")? {
        let issuer_key = KeyPair::from_pem(&pair.key)
            .map_err(|e| PkiError::Damaged { path: folder.join("ca.key"), why: e.to_string() })?;
        Issuer::from_ca_cert_pem(&pair.certificate, issuer_key)
            .map_err(|e| PkiError::Damaged { path: folder.join("ca.crt"), why: e.to_string() })?;
        return Ok(pair);
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Make)?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "kubernetes");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_DAYS);
    let certificate = params.self_signed(&key).map_err(PkiError::Make)?;
    let pair = Pair { certificate: certificate.pem(), key: key.serialize_pem() };
    write_pair(folder, "ca", &pair)?;
    Ok(pair)
}

fn leaf(folder: &Path, ca: &Pair, wanted: &Leaf<'_>) -> Result<Pair, PkiError> {
    if let Some(pair) = read_pair(folder, wanted.file)?
        && still_good(&pair, ca, wanted)
    {
        return Ok(pair);
    }
    let ca_key = KeyPair::from_pem(&ca.key)
        .map_err(|e| PkiError::Damaged { path: folder.join("ca.key"), why: e.to_string() })?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key)
        .map_err(|e| PkiError::Damaged { path: folder.join("ca.crt"), why: e.to_string() })?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Make)?;
    let mut params = CertificateParams::new(wanted.names.clone()).map_err(PkiError::Make)?;
    params.subject_alt_names.extend(wanted.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    let mut name = DistinguishedName::new();
    if !wanted.organization.is_empty() {
        name.push(DnType::OrganizationName, wanted.organization);
    }
    name.push(DnType::CommonName, wanted.common_name);
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![wanted.usage.clone()];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, LEAF_DAYS);
    let certificate = params.signed_by(&key, &issuer).map_err(PkiError::Make)?;
    let pair = Pair { certificate: certificate.pem(), key: key.serialize_pem() };
    write_pair(folder, wanted.file, &pair)?;
    Ok(pair)
}

/// Whether a certificate is of our CA, lives long enough, and names all that it must.
fn still_good(pair: &Pair, ca: &Pair, wanted: &Leaf<'_>) -> bool {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).ok();
    let (Some(certificate), Some(ca)) = (der(&pair.certificate), der(&ca.certificate)) else { return false };
    let (Ok((_, certificate)), Ok((_, ca))) =
        (X509Certificate::from_der(&certificate), X509Certificate::from_der(&ca))
    else {
        return false;
    };
    let left = certificate.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
    if left < RENEW_DAYS * DAY || certificate.verify_signature(Some(ca.public_key())).is_err() {
        return false;
    }
    let common_name = certificate.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
    if common_name != Some(wanted.common_name) {
        return false;
    }
    let mut names = Vec::new();
    let mut addresses = Vec::new();
    if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
        for name in &alternatives.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match **bytes {
                    [a, b, c, d] => addresses.push(IpAddr::from([a, b, c, d])),
                    _ => addresses.extend(<[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from)),
                },
                _ => {}
            }
        }
    }
    wanted.names.iter().all(|n| names.contains(n)) && wanted.addresses.iter().all(|a| addresses.contains(a))
}

fn signing_key(folder: &Path) -> Result<String, PkiError> {
    let path = folder.join("sa.key");
    if let Some(pem) = read(&path)? {
        return Ok(pem);
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Make)?;
    let pem = key.serialize_pem();
    write(&folder.join("sa.pub"), &key.public_key_pem())?;
    write(&path, &pem)?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(address: [u8; 4]) -> Names {
        Names {
            node_name: "box".to_owned(),
            addresses: vec![IpAddr::from(address)],
            service_ip: IpAddr::from([10, 96, 0, 1]),
        }
    }

    #[test]
    fn certificates_are_used_again_until_they_no_longer_fit() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("pki");
        let first = Pki::load_or_create(&folder, &names([192, 0, 2, 1])).unwrap();
        let second = Pki::load_or_create(&folder, &names([192, 0, 2, 1])).unwrap();
        assert_eq!(first.apiserver.certificate, second.apiserver.certificate);
        assert_eq!(first.service_account_key, second.service_account_key);
        let moved = Pki::load_or_create(&folder, &names([192, 0, 2, 2])).unwrap();
        assert_ne!(first.apiserver.certificate, moved.apiserver.certificate);
        assert_eq!(first.ca.certificate, moved.ca.certificate);
        assert_eq!(first.admin.certificate, moved.admin.certificate);
        moved.server_config().unwrap();
        moved.kubelet_client_config().unwrap();
        for file in std::fs::read_dir(&folder).unwrap() {
            let mode = file.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn half_a_pair_and_damage_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        Pki::load_or_create(dir.path(), &names([192, 0, 2, 1])).unwrap();
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        assert!(matches!(
            Pki::load_or_create(dir.path(), &names([192, 0, 2, 1])),
            Err(PkiError::Half { .. })
        ));
        std::fs::write(dir.path().join("ca.key"), "x").unwrap();
        assert!(matches!(
            Pki::load_or_create(dir.path(), &names([192, 0, 2, 1])),
            Err(PkiError::Damaged { .. })
        ));
    }
}
