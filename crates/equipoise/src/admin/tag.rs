//! Which configuration an answer is of, and which one a request is for (RFC 9110 sections 8.8.3 and 13.1.1).

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::header::{self, HeaderValue};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::ProblemDetails;

/// An answer with the generation of the configuration that it is of.
#[derive(Debug)]
pub(super) struct Tagged<T> {
    pub(super) generation: u64,
    pub(super) answer: T,
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.answer).into_response();
        if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", self.generation)) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

/// The generations that a request is for; none for whichever runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected(Option<Vec<u64>>);

impl Expected {
    /// Whether it is for this one.
    pub fn is_met_by(&self, generation: u64) -> bool {
        self.0.as_ref().is_none_or(|wanted| wanted.contains(&generation))
    }

    /// From a header's value. What no generation has as its tag is for none.
    fn parse(text: &str) -> Option<Self> {
        if text.trim() == "*" {
            return Some(Self(None));
        }
        let tag = |text: &str| {
            let text = text.trim();
            // A weak one is never the same (RFC 9110 section 8.8.3.2).
            let quoted = text.strip_prefix("W/").unwrap_or(text);
            let inside = quoted.strip_prefix('"')?.strip_suffix('"')?;
            let number = inside.parse().ok().filter(|_| quoted == text);
            Some(number)
        };
        let all = text.split(',').map(tag).collect::<Option<Vec<Option<u64>>>>()?;
        Some(Self(Some(all.into_iter().flatten().collect())))
    }
}

impl<S: Sync> FromRequestParts<S> for Expected {
    type Rejection = ProblemDetails;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemDetails> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(Self::default()) };
        let parsed = value.to_str().ok().and_then(Self::parse);
        parsed.ok_or_else(|| {
            ProblemDetails::bad_request("If-Match: `*`, or tags in quotes such as \"7\"")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_met_by_their_generation_alone() {
        let met = |text: &str| {
            let expected = Expected::parse(text)?;
            Some((1..=3).map(|number| expected.is_met_by(number)).collect::<Vec<_>>())
        };
        assert_eq!(met("*"), Some(vec![true; 3]));
        assert_eq!(met("\"2\""), Some(vec![false, true, false]));
        assert_eq!(met("\"2\", \"3\""), Some(vec![false, true, true]));
        for never in ["W/\"2\"", "\"two\"", "\"\""] {
            assert_eq!(met(never), Some(vec![false; 3]), "{never}");
        }
        for wrong in ["2", "", "\"2", "\"2\" \"3\","] {
            assert_eq!(met(wrong), None, "{wrong}");
        }
        assert!(Expected::default().is_met_by(9));
    }
}
