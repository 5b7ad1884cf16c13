//! Words of lines: quotes, escapes, comments.

/// The words of a line up to a comment, which one of some signs begins.
pub(super) fn words(line: &str, comments: &[char]) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut signs = line.chars();
    while let Some(sign) = signs.next() {
        match (quote, sign) {
            (Some(open), sign) if sign == open => quote = None,
            (Some('\''), sign) => word.get_or_insert_default().push(sign),
            (_, '\\') => word.get_or_insert_default().extend(signs.next()),
            (Some(_), sign) => word.get_or_insert_default().push(sign),
            (None, '"' | '\'') => {
                quote = Some(sign);
                word.get_or_insert_default();
            }
            (None, sign) if sign.is_whitespace() => words.extend(word.take()),
            (None, sign) if comments.contains(&sign) => break,
            (None, sign) => word.get_or_insert_default().push(sign),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quotes_escapes_and_comments_are_those_of_a_shell() {
        for (line, right) in [
            ("", vec![]),
            ("  a  b # c", vec!["a", "b"]),
            ("a \"b c\" 'd \"\\' e\\ f \"\" # x", vec!["a", "b c", "d \"\\", "e f", ""]),
            ("a \"b", vec!["a", "b"]),
        ] {
            assert_eq!(words(line, &['#']), right, "{line}");
        }
    }
}
