//! The known word that a misspelt one was most likely meant to be.

/// The nearest of some words, if one is near: a letter in three may be wrong, missing, too much or
/// swapped with its neighbour, or the end may be missing.
pub fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    if word.len() > LONGEST {
        return None;
    }
    let typo = |other: &str| {
        let distance = strsim::osa_distance(word, other);
        let short_for = word.len() >= 3 && other.starts_with(word);
        let near = distance <= (word.len().max(other.len()) / 3).max(1);
        (near || short_for).then_some(distance)
    };
    known.iter().filter_map(|other| Some((typo(other)?, *other))).min().map(|(_, other)| other)
}

/// Longer than any word that a key could be meant to be: bounds the work for absurd ones.
const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 5] = ["algorithm", "backends", "listen", "manage-address", "name"];

    #[test]
    fn misspelt_words_find_the_one_that_was_meant() {
        for (word, meant) in [
            ("algoritm", "algorithm"),
            ("bakcends", "backends"),
            ("manage_address", "manage-address"),
            ("listen-", "listen"),
            ("nmae", "name"),
            ("algo", "algorithm"),
            ("Name", "name"),
        ] {
            assert_eq!(nearest(word, &KNOWN), Some(meant), "{word}");
        }
    }

    #[test]
    fn other_words_find_none() {
        for word in ["mode", "", "health-check", "x", "ab"] {
            assert_eq!(nearest(word, &KNOWN), None, "{word}");
        }
    }
}
