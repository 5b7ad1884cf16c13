//! Bodies of requests, which have so much time to come, and of answers, with which a connection's turn ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::stage::Stage;

/// The body of a request.
pub(super) struct Asked {
    body: Incoming,
    stage: Arc<Stage>,
    within: Duration,
    /// From when it is first waited for.
    late: Option<Pin<Box<Sleep>>>,
}

impl Asked {
    pub(super) fn new(body: Incoming, stage: Arc<Stage>, within: Duration) -> Self {
        Self { body, stage, within, late: None }
    }
}

impl hyper::body::Body for Asked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.stage.answers();
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        let within = this.within;
        let late = this.late.get_or_insert_with(|| Box::pin(sleep(within)));
        if late.as_mut().poll(context).is_ready() {
            this.stage.answers();
            let message = format!("the body has not come within {within:?}");
            return Poll::Ready(Some(Err(message.into())));
        }
        this.stage.waits();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
pub(super) struct Answer {
    body: Body,
    stage: Arc<Stage>,
}

impl Answer {
    pub(super) fn new(body: Body, stage: Arc<Stage>) -> Self {
        Self { body, stage }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.stage.waits();
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
