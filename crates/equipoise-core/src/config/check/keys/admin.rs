//! The keys of `[settings.admin]`.

use super::{Absent, Form, Key, Kind, List, Table, word};
use crate::config::check::admin::{MOST_KEYS, SCOPE};

static LISTEN: Form =
    Form { words: "an address and a port", examples: &["127.0.0.1:8081", "[::1]:8081"] };
static FILE: Form =
    Form { words: "the whole path of a file", examples: &["/etc/equipoise/admin.pem"] };
static NAME: Form = Form {
    words: "a name of 1 to 64 letters, digits, `-`, `_`, `.` and `@`",
    examples: &["ci", "ops@example.com"],
};
static SECRET: Form = Form {
    words: "16 to 512 letters, digits and `-._~+/=`",
    examples: &["choose-one-that-nobody-guesses", "dGhpcyBpcyBubyBrZXk="],
};
static ORIGIN: Form = Form {
    words: "the origin of a page, without a path",
    examples: &["https://ops.example.com", "http://localhost:3000"],
};
static KEYS: List = List { of: Kind::Table(&ADMIN_KEY), least: 0, most: Some(MOST_KEYS as u32) };
static ORIGINS: List = List { of: Kind::Text(&ORIGIN), least: 0, most: None };

/// A listener of the admin API.
pub(in crate::config) static ADMIN: Table = Table {
    home: "`admin`",
    doc: "A listener for the admin API, beside its socket. On an address that is not loopback, `tls` and `keys` have to be there.",
    keys: &[
        Key {
            name: "listen",
            kind: Kind::Text(&LISTEN),
            absent: Absent::Value("\"127.0.0.1:8081\""),
            doc: "Its address and port.",
        },
        Key {
            name: "tls",
            kind: Kind::Table(&ADMIN_TLS),
            absent: Absent::Words("plain HTTP"),
            doc: "Who it shows itself to be.",
        },
        Key {
            name: "keys",
            kind: Kind::List(&KEYS),
            absent: Absent::Value("[]"),
            doc: "Who may use it, by `Authorization: Bearer` or `X-API-Key`; without any, everybody of this host may do everything.",
        },
        Key {
            name: "allowed-origins",
            kind: Kind::List(&ORIGINS),
            absent: Absent::Value("[]"),
            doc: "Pages whose scripts may use it (CORS). Requests of scripts of other pages are refused.",
        },
    ],
};

/// TLS of the admin API.
pub(in crate::config) static ADMIN_TLS: Table = Table {
    home: "`tls`",
    doc: "Files in PEM, read at each reload.",
    keys: &[
        Key {
            name: "certificate-file",
            kind: Kind::Text(&FILE),
            absent: Absent::Required,
            doc: "The certificate, and those that lead to its authority.",
        },
        Key {
            name: "key-file",
            kind: Kind::Text(&FILE),
            absent: Absent::Required,
            doc: "Its private key.",
        },
    ],
};

/// Who may use the admin API.
pub(in crate::config) static ADMIN_KEY: Table = Table {
    home: "an entry of `keys`",
    doc: "Who may use the admin API. A key has one of `key` and `key-file`; it is never told by any answer or log.",
    keys: &[
        Key {
            name: "name",
            kind: Kind::Text(&NAME),
            absent: Absent::Required,
            doc: "What the history calls who has it.",
        },
        Key {
            name: "key",
            kind: Kind::Text(&SECRET),
            absent: Absent::Words("that of `key-file`"),
            doc: "The key itself.",
        },
        Key {
            name: "key-file",
            kind: Kind::Text(&FILE),
            absent: Absent::Words("`key`"),
            doc: "A file whose first line is the key, read at each reload.",
        },
        Key {
            name: "scope",
            kind: word!(SCOPE),
            absent: Absent::Value("\"read\""),
            doc: "`\"read\"`: asking alone; `\"write\"`: everything.",
        },
    ],
};
