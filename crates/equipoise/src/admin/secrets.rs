//! What the files of `[settings.admin]` hold: keys, and the certificate that it shows.
//!
//! Read when a configuration is taken and at each reload, so that what has been changed in a file holds from then on. What is wrong is
//! told with the name of the file and never with what is in it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use equipoise_core::config::Admin;
use equipoise_core::config::admin::{AdminKey, AdminTls, KeySource, Scope, Secret};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::accept::Identity;

/// A key, as requests are compared with it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) secret: Secret,
    pub(super) scope: Scope,
}

/// What was read.
pub(super) struct Loaded {
    pub(super) keys: Vec<Known>,
    pub(super) identity: Identity,
}

/// Reads the files of a configuration.
///
/// # Errors
///
/// A sentence, for the first that cannot be read or is not what it should be.
pub(super) fn load(admin: &Admin) -> Result<Loaded, String> {
    let keys = admin.keys.iter().map(known).collect::<Result<_, _>>()?;
    let identity = admin.tls.as_ref().map(identity).transpose()?;
    Ok(Loaded { keys, identity })
}

/// All that is wrong with the files of a configuration: the key below `settings.admin` that names one, and a sentence.
pub(crate) fn faults(admin: &Admin) -> Vec<(String, String)> {
    let keys = admin.keys.iter().enumerate();
    let keys = keys.filter_map(|(at, key)| Some((format!("keys[{at}]"), known(key).err()?)));
    let tls = admin.tls.iter().filter_map(|tls| Some(("tls".to_owned(), identity(tls).err()?)));
    keys.chain(tls).collect()
}

fn known(key: &AdminKey) -> Result<Known, String> {
    let secret = match &key.secret {
        KeySource::Key(secret) => secret.clone(),
        KeySource::KeyFile(file) => {
            let (least, most) = (Secret::LEAST, Secret::MOST);
            let wrong =
                format!("is no key, which is {least} to {most} letters, digits and `-._~+/=`");
            from_file(file, Secret::new, &wrong)?
        }
    };
    Ok(Known { name: key.name.clone(), secret, scope: key.scope })
}

/// The secret in the first line of a file; a sentence with what is wrong with that line, for one that is none.
pub(crate) fn from_file(
    file: &str,
    read: fn(&str) -> Option<Secret>,
    wrong: &str,
) -> Result<Secret, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let line = text.lines().next().unwrap_or_default().trim();
    read(line).ok_or_else(|| format!("{file}: its first line {wrong}"))
}

fn identity(tls: &AdminTls) -> Result<Arc<ServerConfig>, String> {
    let AdminTls { certificate_file, key_file } = tls;
    let chain = CertificateDer::pem_file_iter(Path::new(certificate_file));
    let chain = chain.and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| format!("{certificate_file}: {error}"))?;
    if chain.is_empty() {
        return Err(format!("{certificate_file}: there is no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(Path::new(key_file));
    let key = key.map_err(|error| format!("{key_file}: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let config = builder.with_no_client_auth().with_single_cert(chain, key);
    let mut config =
        config.map_err(|error| format!("{certificate_file} with {key_file}: {error}"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
