//! The keys of `[settings.access-log]` and `[settings.log]`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::keys;
use super::report::{At, Report, shown};
use crate::config::log::{AccessLog, Level, LineFormat, Log, LogFormat, Sample};

pub(super) const LINE_FORMATS: [(&str, LineFormat); 2] =
    [("json", LineFormat::Json), ("clf", LineFormat::Clf)];
pub(super) const LOG_FORMATS: [(&str, LogFormat); 3] =
    [("text", LogFormat::Text), ("json", LogFormat::Json), ("journald", LogFormat::Journald)];
pub(super) const LEVELS: [(&str, Level); 5] = Level::ALL;

/// A terabyte is more than anybody keeps in one file.
pub(super) const MAX_SIZE: RangeInclusive<u32> = 1..=1_048_576;
/// Each is renamed when one more comes.
pub(super) const MAX_FILES: RangeInclusive<u32> = 1..=1_000;
/// None at all is what there is without the table.
pub(super) const SAMPLE: RangeInclusive<u32> = 1..=1_000_000;

const PATH: &str = "the whole path of a file, such as `/var/log/equipoise/access.log`";

/// Checks the log of flows; what is wrong and reported has its default.
pub(super) fn access_log(report: &mut Report<'_>, at: &At<'_>, is_told: bool) -> AccessLog {
    let mut found = AccessLog::default();
    let Some(fields) = report.fields(at, &keys::ACCESS_LOG) else { return found };
    if let Some(format) = fields.get("format").and_then(|at| report.choice(&at, &LINE_FORMATS)) {
        found.format = format;
    }
    let mut has_place = false;
    if let Some(at) = fields.get("path") {
        has_place = true;
        found.path = path(report, &at);
    }
    if let Some(stdout) = fields.get("stdout").and_then(|at| report.boolean(&at)) {
        found.stdout = stdout;
    }
    if let Some(size) = fields.get("max-size-mb").and_then(|at| report.number(&at, &MAX_SIZE)) {
        found.max_size_mb = size;
    }
    if let Some(files) = fields.get("max-files").and_then(|at| report.number(&at, &MAX_FILES)) {
        found.max_files = files;
    }
    if let Some(part) = fields.get("sample").and_then(|at| report.millionths(&at, &SAMPLE)) {
        found.sample = Sample(part);
    }
    if let Some(opened) = fields.get("opened").and_then(|at| report.boolean(&at)) {
        found.opened = opened;
    }
    if !has_place && !found.stdout {
        let allowed = "`path`, or `stdout = true`, or both";
        report.problem(&at.place, "nothing says where flows are written".to_owned(), allowed);
    }
    if !is_told {
        let message = "with `events = false` nothing is told of flows, and none could be written";
        report.problem(&at.place, message.to_owned(), "`events = true`, or no access log");
    }
    found
}

fn path(report: &mut Report<'_>, at: &At<'_>) -> Option<PathBuf> {
    let text = report.text(at, PATH)?;
    let path = Path::new(text);
    if path.is_absolute() && path.file_name().is_some() && !text.ends_with('/') {
        return Some(path.to_owned());
    }
    report.problem(&at.place, format!("{} is not the whole path of a file", shown(text)), PATH);
    None
}

/// Checks how what happens is logged; what is wrong and reported has its default.
pub(super) fn log(report: &mut Report<'_>, at: &At<'_>) -> Log {
    let mut found = Log::default();
    let Some(fields) = report.fields(at, &keys::LOG) else { return found };
    if let Some(level) = fields.get("level").and_then(|at| report.choice(&at, &LEVELS)) {
        found.level = level;
    }
    found.format = fields.get("format").and_then(|at| report.choice(&at, &LOG_FORMATS));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, parse};

    fn read(settings: &str) -> Result<Settings, Vec<String>> {
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.1', port = 80 }}\n\
             backends = [{{ address = '10.0.0.1:80' }}]\n[settings]\n{settings}\n"
        );
        let read = parse("equipoise.toml", &text).map(|checked| checked.config.settings);
        read.map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    fn access(keys: &str) -> Result<Option<AccessLog>, Vec<String>> {
        read(&format!("access-log = {{ {keys} }}")).map(|settings| settings.access_log)
    }

    #[test]
    fn flows_are_written_where_the_table_says() {
        assert_eq!(read("").unwrap().access_log, None);
        let path = Some(PathBuf::from("/var/log/a.log"));
        let plain = AccessLog { path: path.clone(), ..AccessLog::default() };
        assert_eq!(access("path = '/var/log/a.log'"), Ok(Some(plain)));
        let all = AccessLog {
            format: LineFormat::Clf,
            path,
            stdout: true,
            max_size_mb: 1,
            max_files: 1_000,
            sample: Sample(250_000),
            opened: true,
        };
        let text = "path = '/var/log/a.log', stdout = true, format = 'clf', max-size-mb = 1, max-files = 1000, sample = 0.25, opened = true";
        assert_eq!(access(text), Ok(Some(all)));
        let whole = access("stdout = true, sample = 1").unwrap().unwrap();
        assert_eq!((whole.sample, whole.path), (Sample::ALL, None));
    }

    #[test]
    fn what_cannot_be_written_is_told_with_what_can() {
        for (wrong, told) in [
            (
                "",
                "nothing says where flows are written (allowed: `path`, or `stdout = true`, or both)",
            ),
            ("path = 'a.log'", "`a.log` is not the whole path of a file"),
            ("path = '/var/log/'", "`/var/log/` is not the whole path of a file"),
            ("stdout = true, format = 'xml'", "`xml` is not known (allowed: `json` or `clf`)"),
            ("stdout = true, max-size-mb = 0", "`0` is out of range (allowed: 1 to 1048576)"),
            ("stdout = true, max-files = 0", "`0` is out of range (allowed: 1 to 1000)"),
            ("stdout = true, sample = 0", "`0` is out of range (allowed: 0.000001 to 1)"),
            ("stdout = true, sample = 1.5", "`1.5` is out of range (allowed: 0.000001 to 1)"),
            ("stdout = true, sample = -0.1", "`-0.1` is out of range (allowed: 0.000001 to 1)"),
            ("stdout = true, sample = 'all'", "`'all'` is text where a number belongs"),
            ("stdout = true, sample = nan", "`nan` is a decimal number where a number belongs"),
        ] {
            let problems = access(wrong).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(told), "{problems:?} is not {told}");
        }
        let silent = read("events = false\naccess-log = { stdout = true }").unwrap_err();
        assert!(silent[0].contains("with `events = false` nothing is told"), "{silent:?}");
    }

    #[test]
    fn level_and_format_of_the_log_are_words() {
        assert_eq!(read("").unwrap().log, Log::default());
        let log = Log { level: Level::Debug, format: Some(LogFormat::Json) };
        assert_eq!(read("log = { level = 'debug', format = 'json' }").unwrap().log, log);
        let problems = read("log = { level = 'loud', format = 'xml' }").unwrap_err();
        assert!(problems[0].contains("allowed: `error`, `warn`, `info`, `debug` or `trace`"));
        assert!(problems[1].contains("allowed: `text`, `json` or `journald`"), "{problems:?}");
        for (word, level) in Level::ALL {
            assert_eq!(level.name(), word);
        }
    }
}
