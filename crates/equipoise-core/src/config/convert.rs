//! A configuration from one format to another, and one in memory to a file.
//!
//! What is converted is what the file says, not what it means: no default is filled in, and variables stay. What it includes
//! becomes a part of it. A configuration that is wrong is not converted, and what the other format cannot say is a problem that names
//! the key: nothing is ever lost.

use super::file::{Format, Node};
use super::problem::{Problem, settle};
use super::write::{self, Data};
use super::{Around, Changes, Checked, Config, check_parts, parts, written};

/// A configuration in another format.
#[derive(Clone, Debug)]
pub struct Converted {
    /// Its text.
    pub text: String,
    /// What was left out because it was asked to be, and what works less than it seems to.
    pub notes: Vec<Problem>,
}

/// What becomes of what a text says and nobody listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// It is a problem.
    Refused,
    /// It is left out.
    LeftOut,
}

/// Converts the text of a file.
///
/// # Errors
///
/// All that is wrong with it, or that the other format cannot say; never nothing.
pub fn convert(
    (name, text): (&str, &str),
    to: Format,
    around: &Around<'_>,
    ignored: Ignored,
) -> Result<Converted, Vec<Problem>> {
    let whole = parts::read(name, text, around);
    let tree = whole.root.clone();
    let texts = whole.texts.clone();
    let checked = check_parts(whole, around, &Changes::default())?.checked;
    let Checked { ignored: unheard, notes, .. } = checked;
    if ignored == Ignored::Refused && !unheard.is_empty() {
        return Err(unheard);
    }
    let data = tree.as_ref().and_then(Data::of);
    let Some(data) = data else {
        let mut problems =
            vec![Problem::new("", tree.map(|Node { span, .. }| span), NO_WORDS.to_owned())];
        settle(&texts, &mut problems);
        return Err(problems);
    };
    Ok(Converted { text: text_of(&data.ordered(), to), notes: [unheard, notes].concat() })
}

const NO_WORDS: &str = "this holds values that no key takes";

/// A configuration in memory as the text of a file, with every default filled in.
pub fn write(config: &Config, to: Format) -> String {
    from_json(written(config), to)
}

/// JSON with the keys of a file as the text of one.
pub fn from_json(value: serde_json::Value, to: Format) -> String {
    let data = Data::of_json(value).unwrap_or(Data::Table(Vec::new()));
    text_of(&data.ordered(), to)
}

fn text_of(data: &Data, to: Format) -> String {
    match to {
        Format::Toml => write::toml(data),
        Format::Json => write::json(data),
        Format::Yaml => write::yaml(data),
    }
}
