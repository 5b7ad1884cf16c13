//! What the client asks about sources with most.

use hyper::Method;

use super::wire::pairs;
use super::{Client, ClientError};
use crate::status::talkers::{By, DroppedRequest, TalkersRequest, TopTalkers};

impl Client {
    /// The sources with most flows of each service.
    ///
    /// # Errors
    ///
    /// When there is no answer, no such service, or new flows are not told of.
    pub async fn talkers(&self, request: &TalkersRequest) -> Result<TopTalkers, ClientError> {
        let TalkersRequest { service, by, limit } = request;
        let by = by.map(|by| match by {
            By::NewFlows => "new_flows",
            By::LiveFlows => "live_flows",
        });
        let limit = limit.map(|limit| limit.to_string());
        let query =
            pairs(&[("service", service.as_deref()), ("by", by), ("limit", limit.as_deref())]);
        self.ask(Method::GET, &format!("top-talkers?{query}")).await
    }

    /// The sources of most packets that are dropped; answered when they have been looked at for as long as is asked for.
    ///
    /// # Errors
    ///
    /// When there is no answer, no such service, or another is told of packets already.
    pub async fn dropped(&self, request: &DroppedRequest) -> Result<TopTalkers, ClientError> {
        let DroppedRequest { service, for_seconds, limit } = request;
        let [seconds, limit] =
            [for_seconds.map(|seconds| seconds.to_string()), limit.map(|limit| limit.to_string())];
        let query = pairs(&[
            ("service", service.as_deref()),
            ("for_seconds", seconds.as_deref()),
            ("limit", limit.as_deref()),
        ]);
        let path = format!("top-talkers/dropped?{query}");
        self.ask(Method::GET, &path).await
    }
}
