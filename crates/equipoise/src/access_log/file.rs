//! The file of the log: appended to, put aside when it is full, opened anew when it has been moved.
//!
//! Others may move, cut or remove it at any time; its size is what the kernel says it is. Of a line that could be written only in
//! part nothing stays.
//!
//! The crate `file-rotate` (0.8) does the same of what goes well, but lines are lost by it without a word while the file cannot be opened, and a
//! folder that cannot be made, or a file that another moves at the wrong moment, makes it panic. Here such is told, counted and tried
//! again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use equipoise_core::config::AccessLog as Wanted;

/// The log's file, open.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    most: u64,
    kept: u32,
}

/// How large the file may grow, bytes.
pub(super) fn most(wanted: &Wanted) -> u64 {
    u64::from(wanted.max_size_mb) << 20
}

impl LogFile {
    /// Opens it, and makes it and its folder where they are missing. What is in it stays and counts.
    pub(super) fn open(path: &Path, wanted: &Wanted) -> io::Result<Self> {
        let file = opened(path)?;
        let size = file.metadata()?.len();
        let (most, kept) = (most(wanted), wanted.max_files);
        Ok(Self { path: path.to_owned(), file, size, most, kept })
    }

    /// Bytes in it.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether so many more bytes belong into another file.
    pub(super) fn is_full_with(&self, bytes: usize) -> bool {
        self.size > 0 && self.size + bytes as u64 > self.most
    }

    /// Appends whole lines. So many bytes of them are in the file, all of them or, where it fails, again whole lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < lines.len() {
            match self.file.write(&lines[written..]) {
                Ok(0) => {
                    return (self.cut(&lines[..written]), Err(io::ErrorKind::WriteZero.into()));
                }
                Ok(some) => written += some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (self.cut(&lines[..written]), Err(error)),
            }
        }
        self.look();
        (written, Ok(()))
    }

    /// Takes the part of a line that has been written off again; so many bytes of whole lines stay.
    fn cut(&mut self, written: &[u8]) -> usize {
        let whole = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.look();
        let rest = (written.len() - whole) as u64;
        // Where that is refused, too, a part of a line stays, and the next begins behind it.
        if rest > 0 && self.file.set_len(self.size.saturating_sub(rest)).is_ok() {
            self.look();
        }
        whole
    }

    fn look(&mut self) {
        if let Ok(metadata) = self.file.metadata() {
            self.size = metadata.len();
        }
    }

    /// Puts the file aside as `NAME.1`, the one of before as `NAME.2` and so on, and begins a new one. The oldest goes.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.kept).rev() {
            moved(&aside(&self.path, number), &aside(&self.path, number + 1))?;
        }
        moved(&self.path, &aside(&self.path, 1))?;
        self.file = opened(&self.path)?;
        self.look();
        Ok(())
    }
}

fn opened(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().append(true).create(true).open(path)
}

/// Renames a file over another one; one that is not there is none.
fn moved(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn aside(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(folder: &Path) -> Vec<(String, String)> {
        let mut texts: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        texts.sort();
        texts
    }

    #[test]
    fn full_file_is_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/a.log");
        let wanted = Wanted { max_files: 2, ..Wanted::default() };
        let mut file = LogFile { most: 8, ..LogFile::open(&path, &wanted).unwrap() };
        for line in ["one\n", "two\n", "three\n", "four\n", "five, which is long\n", "six\n"] {
            if file.is_full_with(line.len()) {
                file.rotate().unwrap();
            }
            file.append(line.as_bytes()).1.unwrap();
        }
        let expected =
            [("a.log", "six\n"), ("a.log.1", "five, which is long\n"), ("a.log.2", "four\n")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(texts(path.parent().unwrap()), expected);
        assert_eq!(file.size(), 4);
    }

    #[test]
    fn what_is_there_stays_and_counts_and_what_others_cut_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, "of before\n").unwrap();
        let mut file = LogFile { most: 12, ..LogFile::open(&path, &Wanted::default()).unwrap() };
        assert!(file.is_full_with(3) && !file.is_full_with(2));
        fs::write(&path, "").unwrap();
        file.append(b"x\n").1.unwrap();
        assert_eq!((file.size(), fs::read_to_string(&path).unwrap().as_str()), (2, "x\n"));
        assert!(!file.is_full_with(10));
    }

    #[test]
    fn part_of_a_line_that_could_not_be_written_is_taken_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut file = LogFile::open(&path, &Wanted::default()).unwrap();
        file.append(b"one\n").1.unwrap();
        // As a disk that has filled up leaves it.
        file.file.write_all(b"two\nthr").unwrap();
        assert_eq!(file.cut(b"two\nthr"), 4);
        assert_eq!((file.size(), fs::read_to_string(&path).unwrap().as_str()), (8, "one\ntwo\n"));
    }
}
