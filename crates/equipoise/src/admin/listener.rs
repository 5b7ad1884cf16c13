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
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::accept::{Identity, Port};
use super::guard::{Gate, Rules, guard};
use super::secrets::{Loaded, load};
use super::{Access, routes};
use crate::metrics::Exporter;
use crate::serving::{PATIENCE, serve};

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
    /// Also ends it by being dropped.
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
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
        self.end().await;
        tracing::info!(address = %admin.listen, tls = is_safe, keys = admin.keys.len(), "admin API");
        let router = routes::router(self.access.clone(), self.exporter.clone())
            .layer(middleware::from_fn_with_state(Gate::new(followed), guard));
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(async {
            let connections = serve(Port::new(listener, shown), router, ended, PATIENCE).await;
            // The port is free; what has been asked is still answered.
            tokio::spawn(connections.finish());
        });
        self.serving = Some(Serving { address: admin.listen, rules, identity, end, task });
        Ok(())
    }

    async fn end(&mut self) {
        let Some(serving) = self.serving.take() else { return };
        // Connections that are there end when they are answered; what comes by them before is answered that it has ended.
        serving.rules.send_replace(None);
        drop(serving.end);
        if let Err(error) = serving.task.await {
            tracing::error!(%error, "serving the admin API");
        }
    }
}
