//! `equipoise doctor`: what of this machine breaks a load balancer on it, the worst first; with `--fix`, puts right what is safe.
//!
//! Goes by the file of `-c`, else by what runs, else by the default file where it is there, else by the machine alone.

use equipoise_core::config::Config;
use serde::Serialize;

use super::args::{Doctor, Global};
use super::{Exit, Failure, check, print, print_json};
use crate::admin::client::ClientError;
use crate::doctor::fix::{Done, fix};
use crate::doctor::measured::measure;
use crate::doctor::{Case, Finding, Level, examine};
use crate::host::Netlink;
use crate::running_config;
use crate::status::Status;

/// The answer in JSON.
#[derive(Serialize)]
struct Answer<'a> {
    /// The worst level.
    level: Level,
    /// By what was judged.
    by: &'a str,
    findings: &'a [Finding],
    /// With `--fix`, what was done before these were found.
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed: Option<&'a [Done]>,
}

pub(super) async fn doctor(global: &Global, asked: &Doctor) -> Result<(), Failure> {
    let running = match global.client().status().await {
        Ok(status) => Some(status),
        Err(ClientError::NoInstance(_)) => None,
        // It is there and does not let us ask: that is no reason to look at nothing.
        Err(error) => {
            eprintln!("note: the running instance was not asked: {error}");
            None
        }
    };
    let (config, by) = wanted(global, running.as_ref()).await?;
    let mut machine = Netlink::open().map_err(Failure::failed)?;
    let measured = measure(&mut machine, config.as_ref()).await.map_err(Failure::failed)?;
    let mut case = Case { config, running, measured, verified: None };
    case.verified = case.verify();
    let mut findings = examine(&case);
    let mut done = None;
    if asked.fix {
        let fixed = fix(&mut machine, &findings);
        // What has been done may not have been enough.
        case.measured =
            measure(&mut machine, case.config.as_ref()).await.map_err(Failure::failed)?;
        findings = examine(&case);
        done = Some(fixed);
    }
    let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if global.json {
        print_json(&Answer { level, by: &by, findings: &findings, fixed: done.as_deref() })?;
    } else {
        let detail = if global.verbose > 0 { Detail::All } else { Detail::Wrong };
        print(&in_words(&by, &findings, done.as_deref(), detail))?;
    }
    if level == Level::Problem { Err(Failure::said(Exit::Failed)) } else { Ok(()) }
}

/// The configuration to go by, and what it is called.
async fn wanted(
    global: &Global,
    running: Option<&Status>,
) -> Result<(Option<Config>, String), Failure> {
    let from_file = || {
        let loaded = check::load(global, None)?;
        Ok((Some(loaded.config), loaded.text.name))
    };
    if global.config.is_some() {
        return from_file();
    }
    if let Some(status) = running {
        let told = global.client().config().await?;
        let by = format!("what instance {} runs", status.instance);
        return match running_config::read_back(told) {
            Ok(config) => Ok((Some(config), by)),
            Err(problems) => {
                let first = problems.first().map(ToString::to_string).unwrap_or_default();
                Err(Failure::new(
                    Exit::Failed,
                    format!("{by} is not understood: {first}; name its file with -c"),
                ))
            }
        };
    }
    if global.config().exists() {
        return from_file();
    }
    Ok((None, "the machine alone: there is no configuration".to_owned()))
}

/// What is shown to people.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// What is not as it should be.
    Wrong,
    /// Everything.
    All,
}

fn in_words(by: &str, findings: &[Finding], done: Option<&[Done]>, detail: Detail) -> String {
    let mut text = String::new();
    for Done { did, back, failed } in done.unwrap_or_default() {
        text.push_str(&match failed {
            None => format!("done     {did}\n         to take it back: {back}\n"),
            Some(why) => format!("failed   {did}: {why}\n"),
        });
    }
    if done.is_some_and(<[Done]>::is_empty) {
        text.push_str("nothing that can be set safely is wrong\n");
    }
    let shown =
        findings.iter().filter(|finding| detail == Detail::All || finding.level > Level::Ok);
    for finding in shown {
        text.push_str(&one(finding, done));
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let of = |level, one: &str, many: &str| {
        let n = count(level);
        format!("{n} {}", if n == 1 { one } else { many })
    };
    text.push_str(&format!(
        "{}, {}, {}, {} ok; by {by}\n",
        of(Level::Problem, "problem", "problems"),
        of(Level::Warning, "warning", "warnings"),
        of(Level::Notice, "notice", "notices"),
        count(Level::Ok)
    ));
    text
}

fn one(finding: &Finding, done: Option<&[Done]>) -> String {
    let Finding { level, rule, subject, measured, effect, help, .. } = finding;
    let about = if subject.is_empty() { String::new() } else { format!(" {subject}") };
    let mut text = format!("{level:<8} {rule}{about}: {measured}\n");
    if !effect.is_empty() {
        text.push_str(&format!("         {effect}\n"));
    }
    if !help.is_empty() {
        let by_itself =
            if finding.is_to_be_fixed() && done.is_none() { " (--fix does it)" } else { "" };
        text.push_str(&format!("         help: {help}{by_itself}\n"));
    }
    text
}
