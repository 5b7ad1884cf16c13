//! Metrics are pushed as the configuration says.

use equipoise_core::config::Otlp;

use super::Driver;
use crate::dataplane::DataPlane;
use crate::host::Machine;

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Pushes to this collector from now on, or to none. What is in the way of it is for the log: packets flow without it.
    pub(super) async fn follow_otlp(&mut self, wanted: Option<&Otlp>) {
        let resolvers = &self.state.config().settings.dns.resolvers;
        if let Err(error) = self.pusher.follow(wanted, resolvers).await {
            tracing::error!(%error, "metrics cannot be pushed: there is no thread for it");
        }
    }
}
