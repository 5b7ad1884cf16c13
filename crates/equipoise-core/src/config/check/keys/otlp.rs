//! The keys of `[settings.otlp]`.

use super::{Absent, Form, Key, Kind, Names, Table, duration};
use crate::config::check::otlp;

static ENDPOINT: Form = Form {
    words: "a URL of `http` or `https`",
    examples: &["http://127.0.0.1:4318/v1/metrics", "https://otel.example.com"],
};
static HEADER: Form = Form {
    words: "the name of a header: letters, digits, `-` and `_`",
    examples: &["X-Api-Key", "X_a-b"],
};
static VALUE: Form =
    Form { words: "its value", examples: &["Bearer one-that-nobody-guesses", "ops"] };
static HEADERS: Names = Names { name: &HEADER, of: Kind::Text(&VALUE) };
static FILE: Form =
    Form { words: "the whole path of a file", examples: &["/etc/equipoise/otlp.key"] };
static HEADER_FILES: Names = Names { name: &HEADER, of: Kind::Text(&FILE) };
static ATTRIBUTE: Form = Form {
    words: "the name of an attribute",
    examples: &["service.instance.id", "deployment.environment.name", "rack_row"],
};
static TEXT: Form = Form { words: "text", examples: &["lb-1", "production"] };
static ATTRIBUTES: Names = Names { name: &ATTRIBUTE, of: Kind::Text(&TEXT) };

/// Where metrics are pushed to.
pub(in crate::config) static OTLP: Table = Table {
    home: "`otlp`",
    doc: "A collector of OpenTelemetry that metrics are pushed to, by OTLP over HTTP, whether or not anything listens for scrapers. [reference](metrics.md#pushed)",
    keys: &[
        Key {
            name: "endpoint",
            kind: Kind::Text(&ENDPOINT),
            absent: Absent::Required,
            doc: "The collector. Without a path, that is `/v1/metrics`.",
        },
        Key {
            name: "interval",
            kind: duration(&otlp::INTERVAL),
            absent: Absent::Value("\"10s\""),
            doc: "How often they are pushed. A push that fails is not made again: the next has all that it had.",
        },
        Key {
            name: "timeout",
            kind: duration(&otlp::TIMEOUT),
            absent: Absent::Value("\"5s\""),
            doc: "How long the collector may take for a request.",
        },
        Key {
            name: "headers",
            kind: Kind::Names(&HEADERS),
            absent: Absent::Words("none"),
            doc: "Further headers, for a key. Their values are never told by any answer or log.",
        },
        Key {
            name: "header-files",
            kind: Kind::Names(&HEADER_FILES),
            absent: Absent::Words("none"),
            doc: "Further headers, each with a file whose first line is its value, read at each push.",
        },
        Key {
            name: "attributes",
            kind: Kind::Names(&ATTRIBUTES),
            absent: Absent::Words("none"),
            doc: "What is told of this instance beside `service.name`, `service.version`, `service.instance.id` (the name of the instance) and `host.name`, or in place of one of them.",
        },
        Key {
            name: "ca-file",
            kind: Kind::Text(&FILE),
            absent: Absent::Words("the authorities of this host"),
            doc: "`https`: the authorities that are believed, in PEM.",
        },
    ],
};
