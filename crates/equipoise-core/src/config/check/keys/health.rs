//! The keys of health checks, recovery, panic, breakers and drains.

use super::service::BACKEND;
use super::{Absent, Form, Key, Kind, List, Names, Table, duration, number, word};
use crate::config::breaker::OnTimeout;
use crate::config::check::{breaker, health, panic};
use crate::config::health::{Rcode, RecordType};

/// How backends are checked.
pub(in crate::config) static HEALTH_CHECK: Table = Table {
    home: "`health-check`",
    doc: "How backends are checked. It may stand in `settings`, a service, a route and a backend: merged key by key, the nearest wins. \
          Defaults are what holds where no table says anything; a key of another type than the check's is kept for tables that say that type.",
    keys: &[
        Key {
            name: "type",
            kind: word!(health::KINDS),
            absent: Absent::Words("`\"tcp\"`"),
            doc: "What a backend is asked; `\"none\"`: nothing.",
        },
        Key {
            name: "port",
            kind: Kind::Number(1, 65_535),
            absent: Absent::Words("the backend's"),
            doc: "The port that is asked. A backend without a port needs it.",
        },
        Key {
            name: "interval",
            kind: duration(&health::INTERVAL),
            absent: Absent::Words("`\"10s\"`"),
            doc: "From one check to the next.",
        },
        Key {
            name: "timeout",
            kind: duration(&health::TIMEOUT),
            absent: Absent::Words("`\"3s\"`"),
            doc: "How long an answer may take.",
        },
        Key {
            name: "fast-interval",
            kind: duration(&health::INTERVAL),
            absent: Absent::Words("`\"2s\"`"),
            doc: "From one check to the next while the verdict may change, where it is shorter than `interval`.",
        },
        Key {
            name: "healthy-threshold",
            kind: number!(health::THRESHOLD),
            absent: Absent::Words("`2`"),
            doc: "Good answers in a row that make a backend healthy.",
        },
        Key {
            name: "unhealthy-threshold",
            kind: number!(health::THRESHOLD),
            absent: Absent::Words("`3`"),
            doc: "Bad answers in a row that make it unhealthy.",
        },
        Key {
            name: "method",
            kind: Kind::Text(&METHOD),
            absent: Absent::Words("`\"GET\"`"),
            doc: "`http`, `https`: the method.",
        },
        Key {
            name: "path",
            kind: Kind::Text(&PATH),
            absent: Absent::Words("`\"/health\"`"),
            doc: "`http`, `https`: path and query.",
        },
        Key {
            name: "host",
            kind: Kind::Text(&HOST),
            absent: Absent::Words("the address that is asked"),
            doc: "`http`, `https`: what `Host` says.",
        },
        Key {
            name: "headers",
            kind: Kind::Names(&HEADERS),
            absent: Absent::Words("none"),
            doc: "`http`, `https`: further headers.",
        },
        Key {
            name: "expected-codes",
            kind: Kind::List(&CODES),
            absent: Absent::Words("`[200, 201, 202, 204]`"),
            doc: "`http`, `https`: status codes that are good, from 100 to 599.",
        },
        Key {
            name: "expected-body",
            kind: Kind::Text(&BODY),
            absent: Absent::Words("anything"),
            doc: "`http`, `https`: what the body must contain.",
        },
        Key {
            name: "follow-redirects",
            kind: Kind::Boolean,
            absent: Absent::Words("`false`"),
            doc: "`http`, `https`: whether redirects to the same address are followed.",
        },
        Key {
            name: "server-name",
            kind: Kind::Text(&SERVER_NAME),
            absent: Absent::Words("the address"),
            doc: "`https`, `grpc`: the name that is asked for and that the certificate must have.",
        },
        Key {
            name: "ca-file",
            kind: Kind::Text(&PEM),
            absent: Absent::Words("the authorities of this host"),
            doc: "`https`, `grpc`: the authorities that are believed.",
        },
        Key {
            name: "client-certificate",
            kind: Kind::Text(&PEM),
            absent: Absent::Words("none"),
            doc: "`https`, `grpc`: the certificate that is shown. Goes with `client-key`.",
        },
        Key {
            name: "client-key",
            kind: Kind::Text(&PEM),
            absent: Absent::Words("none"),
            doc: "`https`, `grpc`: its key.",
        },
        Key {
            name: "insecure",
            kind: Kind::Boolean,
            absent: Absent::Words("`false`"),
            doc: "`https`, `grpc`: `true` believes any certificate.",
        },
        Key {
            name: "grpc-service",
            kind: Kind::Text(&GRPC_SERVICE),
            absent: Absent::Words("the server as a whole"),
            doc: "`grpc`: the service that is to be serving.",
        },
        Key {
            name: "tls",
            kind: Kind::Boolean,
            absent: Absent::Words("`false`"),
            doc: "`grpc`: over TLS.",
        },
        Key {
            name: "send",
            kind: Kind::Text(&PAYLOAD),
            absent: Absent::Words("nothing: an empty datagram"),
            doc: "`udp`: what is sent.",
        },
        Key {
            name: "expect",
            kind: Kind::Text(&PAYLOAD),
            absent: Absent::Words("anything"),
            doc: "`udp`: what the answer must contain. No answer is a bad one.",
        },
        Key {
            name: "query",
            kind: Kind::Text(&QUERY),
            absent: Absent::Words("`dns` needs it"),
            doc: "`dns`: the name that is looked up.",
        },
        Key {
            name: "query-type",
            kind: word!(RecordType::ALL),
            absent: Absent::Words("`\"A\"`"),
            doc: "`dns`: of which records.",
        },
        Key {
            name: "expected-rcode",
            kind: word!(Rcode::ALL),
            absent: Absent::Words("`\"NOERROR\"`"),
            doc: "`dns`: the answer's code.",
        },
        Key {
            name: "command",
            kind: Kind::List(&COMMAND),
            absent: Absent::Words("`exec` needs it"),
            doc: "`exec`: a program by its whole path, and its arguments; good when it ends with 0. Needs `settings.exec-checks`.",
        },
    ],
};

/// How a backend gets its share again.
pub(in crate::config) static RECOVERY: Table = Table {
    home: "`recovery`",
    doc: "How a backend that has become healthy gets its share again; from unhealthy alone. It may stand in `settings`, a service and a route: \
          merged key by key, the nearest wins.",
    keys: &[
        Key {
            name: "mode",
            kind: word!(panic::MODES),
            absent: Absent::Words("`\"steps\"`"),
            doc: "A quarter more with each good check, more and more over `slow-start`, or all at once.",
        },
        Key {
            name: "slow-start",
            kind: duration(&crate::config::check::policy::TIMEOUT),
            absent: Absent::Words("`\"30s\"`"),
            doc: "How long a linear one takes.",
        },
    ],
};

/// What becomes of a pool in trouble.
pub(in crate::config) static PANIC: Table = Table {
    home: "`panic`",
    doc: "What becomes of a pool of which too few backends are usable. It may stand in `settings`, a service and a route: merged key by key, the \
          nearest wins.",
    keys: &[
        Key {
            name: "threshold",
            kind: number!(panic::THRESHOLD),
            absent: Absent::Words("`0`"),
            doc: "Percent of the backends that are usable, at or below which it is so; 0: when none is.",
        },
        Key {
            name: "policy",
            kind: word!(panic::POLICIES),
            absent: Absent::Words("`\"all\"`"),
            doc: "Health is ignored, nobody is chosen (`on-empty`), or `fallback-backends` take the pool's place.",
        },
        Key {
            name: "fallback-backends",
            kind: Kind::List(&FALLBACK),
            absent: Absent::Words("none"),
            doc: "For `policy = \"fallback\"`: backends that the pool does not have. Not in `settings`.",
        },
    ],
};

/// When backends are taken out for their failures.
pub(in crate::config) static BREAKER: Table = Table {
    home: "`breaker`",
    doc: "When a backend is taken out for its failures. There is none unless a table says so, be it empty. It may stand in `settings`, a service and a route: \
          merged key by key, the nearest wins.",
    keys: &[
        Key {
            name: "error-threshold",
            kind: number!(breaker::ERRORS),
            absent: Absent::Words("`50`"),
            doc: "Failures that open it, percent of all outcomes: so many or more.",
        },
        Key {
            name: "min-requests",
            kind: number!(breaker::REQUESTS),
            absent: Absent::Words("`10`"),
            doc: "Outcomes below which it stays closed.",
        },
        Key {
            name: "window",
            kind: duration(&breaker::WINDOW),
            absent: Absent::Words("`\"60s\"`"),
            doc: "How long an outcome counts.",
        },
        Key {
            name: "open-for",
            kind: duration(&breaker::WINDOW),
            absent: Absent::Words("`\"30s\"`"),
            doc: "How long it is open, the first time.",
        },
        Key {
            name: "half-open-successes",
            kind: number!(breaker::SUCCESSES),
            absent: Absent::Words("`3`"),
            doc: "Successes that close it again.",
        },
        Key {
            name: "max-ejected",
            kind: number!(breaker::EJECTED),
            absent: Absent::Words("`50`"),
            doc: "The part of a pool that may be out at a time, percent.",
        },
    ],
};

/// How drains go.
pub(in crate::config) static DRAIN: Table = Table {
    home: "`drain`",
    doc: "How drains go where nothing else is asked for.",
    keys: &[
        Key {
            name: "timeout",
            kind: duration(&breaker::DRAIN),
            absent: Absent::Value("\"30s\""),
            doc: "How long flows may take to end.",
        },
        Key {
            name: "on-timeout",
            kind: word!(OnTimeout::ALL),
            absent: Absent::Value("\"keep\""),
            doc: "What becomes of those that are left then.",
        },
    ],
};

static METHOD: Form = Form { words: "a method of HTTP", examples: &["GET", "HEAD"] };
static PATH: Form =
    Form { words: "a path that begins with `/`", examples: &["/health", "/ready?deep=1"] };
static HOST: Form = Form { words: "the value of a header", examples: &["example.com"] };
static HEADER: Form = Form {
    words: "the name of a header: letters, digits, `-` and `_`",
    examples: &["X-Check", "X_a-b"],
};
static HEADERS: Names = Names { name: &HEADER, of: Kind::Text(&HOST) };
static CODE_RANGE: Form = Form { words: "a range of codes", examples: &["200-299", "404"] };
static CODES: List = List {
    of: Kind::Either(&[Kind::Number(100, 599), Kind::Text(&CODE_RANGE)]),
    least: 1,
    most: None,
};
static BODY: Form = Form { words: "text of the body", examples: &["ok", "\"up\": true\n"] };
static SERVER_NAME: Form = Form { words: "a host name", examples: &["example.com"] };
static PEM: Form =
    Form { words: "the path of a PEM file", examples: &["/etc/ssl/ours.pem", "/etc/key.pem"] };
static GRPC_SERVICE: Form = Form { words: "the name of a service", examples: &["web.v1.Web"] };
static PAYLOAD: Form = Form {
    words: "text, or `hex:` and pairs of digits",
    examples: &["PING\r\n", "hex:00ff0a", "\u{7f}\u{85}\t\"\\#{é}"],
};
static QUERY: Form = Form { words: "a name of DNS", examples: &["example.com", "example.com."] };
static ARGUMENT: Form = Form { words: "text", examples: &["/bin/true", "/usr/bin/check it"] };
static COMMAND: List = List { of: Kind::Text(&ARGUMENT), least: 1, most: None };
static FALLBACK: List = List {
    of: Kind::Table(&BACKEND),
    least: 1,
    most: Some(equipoise_common::limit::POOL_BACKENDS),
};
