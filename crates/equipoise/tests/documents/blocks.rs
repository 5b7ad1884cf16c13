//! Documents taken apart: fenced blocks, the steps of a console, the commands of a line of the shell.
//!
//! A block of `console` is what somebody types and sees: a line that begins with `# `, `$ `, or the name of a host before either, is typed,
//! what follows is the answer, and `...` stands for lines that are left out. A block of a configuration whose first line is a comment with a path is
//! that file. Knows nothing of what the commands do.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the repository is.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A document: where it is below the root, and its text.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A fenced block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) language: String,
    /// Of its first line of text, in the document.
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// What somebody does who follows a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Writes a file.
    Write { line: usize, path: String, text: String },
    /// Types a command, on a host or on the only one there is, and sees an answer.
    Type { line: usize, host: String, command: String, answer: Vec<String> },
}

impl Document {
    pub(crate) fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        Self { path: path.to_owned(), text }
    }

    /// All documents for users: `docs/` and what is at the top.
    pub(crate) fn all() -> Vec<Self> {
        let mut paths = vec![
            "README.md".to_owned(),
            "CONTRIBUTING.md".to_owned(),
            "ARCHITECTURE.md".to_owned(),
        ];
        for entry in fs::read_dir(root().join("docs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                paths.push(format!("docs/{name}"));
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in (1..).zip(self.text.lines()) {
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (None, Some(info)) => {
                    let language = info.trim().to_owned();
                    open = Some(Block { language, line: number + 1, text: String::new() });
                }
                (None, None) => {}
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
            }
        }
        assert!(open.is_none(), "{}: a block without an end", self.path);
        blocks
    }

    /// Texts between single backquotes outside of blocks, with their lines.
    pub(crate) fn quoted(&self) -> Vec<(usize, String)> {
        let mut quoted = Vec::new();
        let mut in_block = false;
        for (number, line) in (1..).zip(self.text.lines()) {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
            } else if !in_block {
                let parts = line.split('`').skip(1).step_by(2);
                quoted.extend(parts.map(|part| (number, part.to_owned())));
            }
        }
        quoted
    }

    /// Its scripts, each as a whole.
    pub(crate) fn scripts(&self) -> Vec<String> {
        self.blocks()
            .into_iter()
            .filter(|block| block.language == "sh")
            .map(|block| block.text)
            .collect()
    }

    /// What somebody does who follows it from top to bottom.
    pub(crate) fn steps(&self) -> Vec<Step> {
        self.blocks().iter().flat_map(Block::steps).collect()
    }
}

impl Block {
    pub(crate) fn is_shell(&self) -> bool {
        matches!(&*self.language, "console" | "sh")
    }

    /// The file that it is, where its first line says so.
    pub(crate) fn file(&self) -> Option<&str> {
        let path = self
            .text
            .lines()
            .next()?
            .strip_prefix("# ")
            .or_else(|| self.text.strip_prefix(";; ")?.lines().next())?;
        let is_path = path.starts_with('/') && !path.contains(' ');
        is_path.then_some(path)
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        if !self.is_shell() {
            let write = |path: &str| Step::Write {
                line: self.line,
                path: path.to_owned(),
                text: self.text.clone(),
            };
            return self.file().map(write).into_iter().collect();
        }
        let mut steps: Vec<Step> = Vec::new();
        for (line, text) in (self.line..).zip(self.text.lines()) {
            let typed =
                if self.language == "sh" { Some((String::new(), text)) } else { prompt(text) };
            match (typed, steps.last_mut()) {
                (Some((host, command)), _) => {
                    let command = command.to_owned();
                    steps.push(Step::Type { line, host, command, answer: Vec::new() });
                }
                // A command that goes on in the next line.
                (None, Some(Step::Type { command, answer, .. }))
                    if answer.is_empty() && command.ends_with('\\') =>
                {
                    command.truncate(command.len() - 1);
                    command.push_str(text.trim_start());
                }
                (None, Some(Step::Type { answer, .. })) => answer.push(text.to_owned()),
                (None, _) => panic!("line {line}: an answer to nothing: {text}"),
            }
        }
        steps.retain(
            |step| !matches!(step, Step::Type { command, .. } if commands(command).is_empty()),
        );
        steps
    }
}

/// The host and what is typed there, of a line that begins with a prompt.
fn prompt(line: &str) -> Option<(String, &str)> {
    let (before, command) = line.split_once(' ')?;
    let host = before.strip_suffix(['#', '$'])?;
    let is_host = host.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    is_host.then(|| (host.to_owned(), command))
}

/// The simple commands of a line of the shell: their words, without redirections, and what has variables or substitutions as it stands.
pub(crate) fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut is_redirection = false;
    let mut characters = line.chars().peekable();
    let end =
        |word: &mut Option<String>, commands: &mut Vec<Vec<String>>, is_redirection: &mut bool| {
            if let Some(word) = word.take()
                && !std::mem::take(is_redirection)
            {
                commands.last_mut().expect("there is always one").push(word);
            }
        };
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, '#') if word.is_none() => break,
            (None, ' ' | '\t') => end(&mut word, &mut commands, &mut is_redirection),
            (None, '|' | '&' | ';' | '(' | ')' | '`') => {
                end(&mut word, &mut commands, &mut is_redirection);
                commands.push(Vec::new());
            }
            (None, '<' | '>') => {
                // The number of a file before it is none of the command's words.
                if word.as_deref().is_some_and(|word| word.parse::<u8>().is_ok()) {
                    word = None;
                }
                end(&mut word, &mut commands, &mut is_redirection);
                if characters.peek() == Some(&'>') {
                    characters.next();
                }
                is_redirection = true;
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    assert!(quote.is_none(), "a quotation without an end: {line}");
    end(&mut word, &mut commands, &mut is_redirection);
    // Variables of one command alone, and words that only say how another is run.
    for command in &mut commands {
        let is_before = |word: &String| {
            let is_assignment = word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
            });
            is_assignment
                || ["sudo", "exec", "do", "then", "if", "!", "while", "until"].contains(&&**word)
        };
        let before = command.iter().take_while(|word| is_before(word)).count();
        command.drain(..before);
    }
    commands.retain(|command| !command.is_empty());
    commands
}

/// The arguments of those commands of a line that are this program, its name included.
pub(crate) fn ours(line: &str) -> Vec<Vec<String>> {
    let is_ours =
        |command: &Vec<String>| command[0] == "equipoise" || command[0].ends_with("/equipoise");
    commands(line).into_iter().filter(is_ours).collect()
}

/// Whether an answer is what a document shows: words are the same, numbers need only be numbers, and `...` stands for any lines.
pub(crate) fn is_alike(shown: &[String], said: &str) -> bool {
    let said: Vec<_> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let shown: Vec<_> =
        shown.iter().map(|line| line.trim_end()).filter(|line| !line.is_empty()).collect();
    alike(&shown, &said)
}

fn alike(shown: &[&str], said: &[&str]) -> bool {
    match shown.split_first() {
        None => said.is_empty(),
        Some((&"...", rest)) => (0..=said.len()).any(|skipped| alike(rest, &said[skipped..])),
        Some((first, rest)) => said
            .split_first()
            .is_some_and(|(line, below)| shape(first) == shape(line) && alike(rest, below)),
    }
}

/// A line with its numbers made alike, but for those of addresses, and with single blanks.
fn shape(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().map(word_shape).collect();
    words.join(" ")
}

fn word_shape(word: &str) -> String {
    if let Some((address, port)) = word.rsplit_once(':')
        && address.parse::<std::net::IpAddr>().is_ok()
    {
        // Ports of clients are the system's choice.
        let is_chosen = port.parse::<u16>().is_ok_and(|port| port >= 10_000);
        return if is_chosen { format!("{address}:0") } else { word.to_owned() };
    }
    if word.trim_matches(|c: char| !c.is_alphanumeric()).parse::<std::net::IpAddr>().is_ok() {
        return word.to_owned();
    }
    let mut shape = String::new();
    for c in word.chars() {
        let c = if c.is_ascii_digit() { '0' } else { c };
        // 0.25, 12 and 3 are all numbers.
        if c == '0' && (shape.ends_with('0') || shape.ends_with("0.")) {
            if shape.ends_with("0.") {
                shape.pop();
            }
            continue;
        }
        shape.push(c);
    }
    shape
}

#[test]
fn lines_of_the_shell_are_taken_apart() {
    let apart = |line: &str| -> Vec<String> {
        commands(line).iter().map(|words| words.join("|")).collect()
    };
    assert_eq!(apart("equipoise status   # how it is"), ["equipoise|status"]);
    assert_eq!(
        apart(
            "ipvsadm -Sn | equipoise import ipvs - > equipoise.toml 2>>log && echo 'it is; done'"
        ),
        ["ipvsadm|-Sn", "equipoise|import|ipvs|-", "echo|it is; done"]
    );
    assert_eq!(apart("EQUIPOISE_LOG=debug equipoise run"), ["equipoise|run"]);
    assert_eq!(
        apart("if ! equipoise status; then exit 1; fi"),
        ["equipoise|status", "exit|1", "fi"]
    );
    assert_eq!(apart("# nothing"), [""; 0]);
    assert_eq!(ours("/usr/sbin/equipoise stop; echo equipoise"), [["/usr/sbin/equipoise", "stop"]]);
}

#[test]
fn answers_are_alike_but_for_their_numbers() {
    let is_like = |shown: &str, said: &str| {
        let shown: Vec<_> = shown.lines().map(str::to_owned).collect();
        is_alike(&shown, said)
    };
    assert!(is_like("a 12.5 ms of 10.0.0.1:8080", "a   3 ms of 10.0.0.1:8080\n"));
    assert!(!is_like("a 12 ms of 10.0.0.1:8080", "a 12 ms of 10.0.0.2:8080\n"));
    assert!(!is_like("healthy 3", "unhealthy 3\n"));
    assert!(is_like("one\n...\nfour", "one\ntwo\nthree\nfour\n"));
    assert!(is_like("one\n...", "one\n"));
    assert!(!is_like("one", "one\ntwo\n"));
    assert!(is_like("tcp 198.51.100.11:55248", "tcp 198.51.100.11:10001"));
    assert!(!is_like("tcp 198.51.100.11:80", "tcp 198.51.100.11:10001"));
}

#[test]
fn steps_are_files_and_what_is_typed() {
    let text = "```toml\n# /etc/a.toml\nx = 1\n```\n```console\nlb# one \\\n  two\nsaid\nclient$ three\n```\n```sh\n# why\nfour\n```\n";
    let document = Document { path: "a.md".to_owned(), text: text.to_owned() };
    let typed = |line, host: &str, command: &str, answer: &[&str]| Step::Type {
        line,
        host: host.to_owned(),
        command: command.to_owned(),
        answer: answer.iter().map(|&line| line.to_owned()).collect(),
    };
    assert_eq!(
        document.steps(),
        [
            Step::Write {
                line: 2,
                path: "/etc/a.toml".to_owned(),
                text: "# /etc/a.toml\nx = 1\n".to_owned()
            },
            typed(6, "lb", "one two", &["said"]),
            typed(9, "client", "three", &[]),
            typed(13, "", "four", &[]),
        ]
    );
    assert_eq!(document.scripts(), ["# why\nfour\n"]);
}

#[test]
fn quotations_are_those_of_running_text() {
    let text = "a `b c` d `e`\n```sh\n`f`\n```\n`g`\n";
    let document = Document { path: "a.md".to_owned(), text: text.to_owned() };
    let quoted: Vec<_> =
        document.quoted().into_iter().map(|(line, text)| format!("{line} {text}")).collect();
    assert_eq!(quoted, ["1 b c", "1 e", "5 g"]);
    assert!(Document::all().iter().any(|document| document.path == "docs/start.md"));
}
