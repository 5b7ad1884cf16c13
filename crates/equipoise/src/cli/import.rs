//! `equipoise import`: the configuration of another load balancer, and what of it could not be carried over.

use std::io::{self, Read};
use std::path::Path;

use equipoise_core::config::import::{Imported, Source, import as carry_over};
use serde_json::json;

use super::args::{From, Global, Import};
use super::check::read;
use super::source::Text;
use super::{Exit, Failure, print, print_json};

pub(super) fn import(global: &Global, asked: &Import) -> Result<(), Failure> {
    let Text { name, text } = text(&asked.file)?;
    let source = match asked.source {
        From::Ipvs => Source::Ipvs,
        From::Keepalived => Source::Keepalived,
        From::Haproxy => Source::Haproxy,
    };
    let Imported { text, left_out } = carry_over(source, &text, &asked.interface, asked.format);
    if global.json {
        print_json(&json!({ "config": text, "left_out": left_out }))?;
    } else {
        for left in &left_out {
            eprintln!("{name}:{}: {}\n    {}", left.line, left.reason, left.text);
        }
        if !left_out.is_empty() {
            eprintln!("{} notes on what was not carried over as it was", left_out.len());
        }
    }
    match text {
        Some(_) if global.json => Ok(()),
        Some(text) => print(&text),
        None => Err(Failure::new(Exit::Failed, format!("nothing of {name} could be carried over"))),
    }
}

fn text(path: &Path) -> Result<Text, Failure> {
    if path != Path::new("-") {
        return read(path);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(Failure::failed)?;
    Ok(Text { name: "standard input".to_owned(), text })
}
