//! The admin API on a port: follows the configuration while the program runs.
//!
//! Other keys, origins and certificates hold at once, also for connections that are there; another address is another socket. Where that
//! cannot be had, or a file cannot be read, what was served before goes on, and that is told.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::middleware;
use equipoise_core::config::Admin;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::accept::{Identity, Incoming};
use super::guard::{Gate, Rules, guard};
use super::peer::Peer;
use super::secrets::{Loaded, load};
use super::{Access, routes};
use crate::metrics::Exporter;

/// Why it is not served as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A file of it is wrong.
    #[error("admin API: {0}")]
    Files(String),
    /// The address cannot be had.
    #[error("admin API on {address}: {source}")]
    Address {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// What listens, if anything does.
pub struct Listener {
    access: Access,
    exporter: Exporter,
    serving: Option<Serving>,
    /// What is served by now; none where that is to be made anew.
    followed: Option<Option<Admin>>,
}

struct Serving {
    address: SocketAddr,
    rules: watch::Sender<Option<Arc<Rules>>>,
    identity: watch::Sender<Identity>,
    task: JoinHandle<io::Result<()>>,
}

impl Listener {
    /// Nothing listens yet.
    pub fn new(access: Access, exporter: Exporter) -> Self {
        Self { access, exporter, serving: None, followed: None }
    }

    /// The files may have changed: they are read again when it follows next.
    pub fn look_again(&mut self) {
        self.followed = None;
    }

    /// Is served as the configuration wants it from now on.
    ///
    /// # Errors
    ///
    /// When a file is wrong or the address cannot be had; what was served before goes on.
    pub async fn follow(&mut self, wanted: Option<&Admin>) -> Result<(), ListenError> {
        if self.followed.as_ref().is_some_and(|followed| followed.as_ref() == wanted) {
            return Ok(());
        }
        self.followed = None;
        match wanted {
            Some(admin) => self.serve(admin).await?,
            None => self.end().await,
        }
        self.followed = Some(wanted.cloned());
        Ok(())
    }

    async fn serve(&mut self, admin: &Admin) -> Result<(), ListenError> {
        let Loaded { keys, identity } = load(admin).map_err(ListenError::Files)?;
        let rules = Some(Arc::new(Rules { keys, origins: admin.allowed_origins.clone() }));
        if let Some(serving) = &self.serving
            && serving.address == admin.listen
        {
            serving.identity.send_replace(identity);
            serving.rules.send_replace(rules);
            return Ok(());
        }
        let failed = |source| ListenError::Address { address: admin.listen, source };
        // Before the other one ends: without this one, that is better than none.
        let listener = TcpListener::bind(admin.listen).await.map_err(failed)?;
        let is_safe = identity.is_some();
        let (rules, followed) = watch::channel(rules);
        let (identity, shown) = watch::channel(identity);
        let incoming = Incoming::new(listener, shown).map_err(failed)?;
        self.end().await;
        tracing::info!(address = %admin.listen, tls = is_safe, keys = admin.keys.len(), "admin API");
        let router = routes::router(self.access.clone(), self.exporter.clone())
            .layer(middleware::from_fn_with_state(Gate::new(followed), guard));
        let service = router.into_make_service_with_connect_info::<Peer>();
        let task = tokio::spawn(axum::serve(incoming, service).into_future());
        self.serving = Some(Serving { address: admin.listen, rules, identity, task });
        Ok(())
    }

    async fn end(&mut self) {
        let Some(serving) = self.serving.take() else { return };
        // Connections that are there end with the task; what comes by them before is answered that it has ended.
        serving.rules.send_replace(None);
        serving.task.abort();
        // It has been told to end: that is how it does.
        drop(serving.task.await);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.task.abort();
        }
    }
}
