//! A configuration from one format to another, and one in memory to a file.
//!
//! What is converted is what the file says, not what it means: no default is filled in, and variables stay. What it includes
//! becomes a part of it. A configuration that is wrong is not converted, and what the other format cannot say is a problem that names
//! the key: nothing is ever lost.

use super::file::{Format, Node};
use super::problem::{Places, Problem, problem_at, settle};
use super::write::{self, Data};
use super::{
    Around, Changes, Checked, Config, Route, Service, check_parts, parts, path, variables, written,
};

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
    let Checked { config, ignored: unheard, notes } = checked;
    if ignored == Ignored::Refused && !unheard.is_empty() {
        return Err(unheard);
    }
    let notes = [unheard, notes].concat();
    if to == Format::Edn {
        if let Some(mut tree) = tree {
            let mut variables = variables::find(&mut tree);
            if !variables.is_empty() {
                settle(&texts, &mut variables);
                return Err(variables);
            }
        }
        let text = edn(&config)?;
        return Ok(Converted { text, notes: [notes, several_names(&config)].concat() });
    }
    let data = tree.as_ref().and_then(Data::of);
    let Some(data) = data else {
        let span = tree.map(|Node { span, .. }| span);
        let mut problems = vec![Problem::new("", span, NO_WORDS.to_owned())];
        settle(&texts, &mut problems);
        return Err(problems);
    };
    Ok(Converted { text: text_of(&data.ordered(), to), notes })
}

/// Routes that become several.
fn several_names(config: &Config) -> Vec<Problem> {
    let mut notes = Vec::new();
    for (position, service) in config.services.iter().enumerate() {
        for (at, route) in service.name_routes.iter().enumerate().filter(|(_, r)| r.names.len() > 1)
        {
            let key = format!("service[{position}].name-route[{at}].names");
            let message = format!("in EDN these {} names have a route each", route.names.len());
            notes.push(problem_at(&config.places, &key, message, None));
        }
    }
    notes
}

const NO_WORDS: &str = "this holds values that no key takes";

/// A configuration in memory as the text of a file, with every default filled in.
///
/// # Errors
///
/// What the format cannot say, by its keys; never nothing.
pub fn write(config: &Config, to: Format) -> Result<String, Vec<Problem>> {
    if to == Format::Edn { edn(config) } else { Ok(from_json(written(config), to)) }
}

/// JSON with the keys of a file as TOML, or as another format with the same keys.
pub fn from_json(value: serde_json::Value, to: Format) -> String {
    let data = Data::of_json(value).unwrap_or(Data::Table(Vec::new()));
    text_of(&data.ordered(), to)
}

/// EDN has keys of its own, which do not say all: TOML stands in for it where the keys are ours.
fn text_of(data: &Data, to: Format) -> String {
    match to {
        Format::Toml | Format::Edn => write::toml(data),
        Format::Json => write::json(data),
        Format::Yaml => write::yaml(data),
    }
}

/// As EDN, read back: what is not the same then has no counterpart in it.
fn edn(config: &Config) -> Result<String, Vec<Problem>> {
    let told = |key: &str, what: &str| {
        let message = format!("{what} has no counterpart in EDN");
        problem_at(&config.places, key, message, None)
    };
    let mut problems = Vec::new();
    for (position, service) in config.services.iter().enumerate() {
        let key = format!("service[{position}]");
        let routes = [("source-route", &service.routes), ("name-route", &service.name_routes)];
        let pools = routes.into_iter().flat_map(|(list, routes)| {
            let of = |(position, route): (usize, &Route)| {
                let is_said = write::edn::has_shares(&route.backends, &route.named);
                (format!("{key}.{list}[{position}].backends"), is_said)
            };
            routes.iter().enumerate().map(of).collect::<Vec<_>>()
        });
        let own = write::edn::has_shares(&service.backends, &service.named);
        for (key, is_said) in [(format!("{key}.backends"), own)].into_iter().chain(pools) {
            if !is_said {
                problems.push(told(&key, "a pool of more than 8 backends, or of several whose weights are not 1 to 100 and 100 in sum,"));
            }
        }
    }
    // Each by itself: what cannot be said of one may make two of them meet.
    for (position, service) in config.services.iter().enumerate() {
        let settings = config.settings.clone();
        let one = Config { services: vec![service.clone()], settings, places: Places::default() };
        for (key, what) in unsaid(&one) {
            let key = in_file(&key, (position, service));
            if !problems.iter().any(|problem| key.starts_with(&problem.key)) {
                problems.push(told(&key, &what));
            }
        }
    }
    if problems.is_empty() {
        problems.extend(unsaid(config).iter().map(|(key, what)| told(key, what)));
    }
    if problems.is_empty() { Ok(write::edn::write(config)) } else { Err(problems) }
}

/// A configuration with a route for each name, as EDN has them: each leads where all of them have led.
fn apart(config: &Config) -> Config {
    let mut config = config.clone();
    for service in &mut config.services {
        let each = |route: Route| {
            let names = route.names.clone();
            names.into_iter().map(move |name| Route { names: vec![name], ..route.clone() })
        };
        service.name_routes =
            std::mem::take(&mut service.name_routes).into_iter().flat_map(each).collect();
    }
    config
}

/// The key in the file, of one of a service by itself whose names have routes of their own.
fn in_file(key: &str, (position, service): (usize, &Service)) -> String {
    const LIST: &str = ".name-route[";
    let key = key.replacen("service[0]", &format!("service[{position}]"), 1);
    let parts =
        key.split_once(LIST).and_then(|(before, rest)| Some((before, rest.split_once(']')?)));
    let Some((before, (at, after))) = parts else { return key };
    let names = service.name_routes.iter().enumerate();
    let mut names =
        names.flat_map(|(at, route)| (0..route.names.len()).map(move |name| (at, name)));
    let Some((route, name)) = at.parse().ok().and_then(|at| names.nth(at)) else { return key };
    let after = after.replacen(".names[0]", &format!(".names[{name}]"), 1);
    format!("{before}{LIST}{route}]{after}")
}

/// The keys that are not the same once a configuration was EDN, and what they are.
fn unsaid(config: &Config) -> Vec<(String, String)> {
    let again = match super::parse("x.edn", &write::edn::write(config)) {
        Ok(checked) => checked.config,
        Err(faults) => {
            let why: Vec<_> = faults.iter().map(ToString::to_string).collect();
            return vec![("service[0]".to_owned(), format!("this ({})", why.join("; ")))];
        }
    };
    let mut keys = Vec::new();
    differences(&written(&apart(config)), &written(&again), &mut String::new(), &mut keys);
    keys
}

/// Whether a key is only there in the place of SRV records, which are told themselves.
fn stands_in(one: &serde_json::Map<String, serde_json::Value>, name: &str) -> bool {
    one.contains_key("srv") && ["host", "port"].contains(&name)
}

/// The keys that are not the same, and what they are.
fn differences(
    one: &serde_json::Value,
    other: &serde_json::Value,
    key: &mut String,
    found: &mut Vec<(String, String)>,
) {
    use serde_json::Value::{Array, Null, Object};
    let length = key.len();
    match (one, other) {
        (Object(one), Object(other)) => {
            let more =
                other.keys().filter(|name| !one.contains_key(*name) && !stands_in(one, name));
            for name in one.keys().chain(more) {
                path::push_field(key, name);
                let (one, other) = (one.get(name), other.get(name));
                differences(one.unwrap_or(&Null), other.unwrap_or(&Null), key, found);
                key.truncate(length);
            }
        }
        (Array(one), Array(other)) if one.len() == other.len() => {
            for (position, (one, other)) in one.iter().zip(other).enumerate() {
                path::push_item(key, position);
                differences(one, other, key, found);
                key.truncate(length);
            }
        }
        (one, other) if one == other => {}
        (Null, _) => found.push((key.clone(), "that there is none".to_owned())),
        (one, _) => found.push((key.clone(), format!("`{one}`"))),
    }
}
