//! What to do next where an instance gives no answer, or says no.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::args::RUN_DIRECTORY;
use crate::admin::client::ClientError;
use crate::known::there_are;

/// What to do next, if there is something to be said.
pub(super) fn of(error: &ClientError) -> Option<String> {
    match error {
        ClientError::NoInstance(socket) => Some(format!(
            "`equipoise run` starts one; another is named by --instance or --socket{}",
            others(socket).map(|others| format!(": {others}")).unwrap_or_default()
        )),
        ClientError::Silent { .. } => {
            Some("packets flow on without it; its log says what it did last".to_owned())
        }
        ClientError::Socket { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            Some("ask as root, or as the user that the instance runs as".to_owned())
        }
        ClientError::Socket { .. } | ClientError::Talk(_) => None,
        ClientError::Problem(problem) => problem.help.as_deref().map(str::to_owned),
    }
}

/// Instances whose sockets are where this one's would be; nothing where it would be elsewhere.
fn others(socket: &Path) -> Option<String> {
    if socket.parent() != Some(Path::new(RUN_DIRECTORY)) {
        return None;
    }
    let sockets = fs::read_dir(RUN_DIRECTORY).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let sockets = sockets.filter(|path| path.extension() == Some(OsStr::new("sock")));
    let name = |path: &Path| Some(path.file_stem()?.to_str()?.to_owned());
    let names: Vec<_> =
        sockets.filter(|path| path != socket).filter_map(|path| name(&path)).collect();
    (!names.is_empty()).then(|| {
        there_are("instances", &name(socket).unwrap_or_default(), names.iter().map(String::as_str))
    })
}
