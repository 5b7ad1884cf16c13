//! Numbers in answers.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

/// Reads a whole number however JSON writes it: to whoever writes `7.0`, that is the same number.
pub(super) fn whole<'de, T: TryFrom<u64>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    let number = Number::deserialize(from)?;
    let of_decimal = |decimal: f64| {
        let whole = decimal as u64;
        (whole as f64 == decimal).then_some(whole)
    };
    let whole = number.as_u64().or_else(|| of_decimal(number.as_f64()?));
    let fitting = whole.and_then(|whole| T::try_from(whole).ok());
    fitting.ok_or_else(|| D::Error::custom(format!("{number} is no whole number that fits here")))
}

/// The same of a number that may be absent.
pub(super) fn whole_if_any<'de, T: TryFrom<u64>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Whole<T: TryFrom<u64>>(#[serde(deserialize_with = "whole")] T);

    Ok(Option::<Whole<T>>::deserialize(from)?.map(|Whole(whole)| whole))
}

/// A number that is whole as a rule, and is written so then.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Deserialize)]
#[serde(transparent)]
pub struct Decimal(pub f64);

impl From<Decimal> for f64 {
    fn from(decimal: Decimal) -> Self {
        decimal.0
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = self.0 as u64;
        if whole as f64 == self.0 {
            whole.serialize(serializer)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_with_and_without_a_point_and_others_are_not() {
        #[derive(Debug, Deserialize)]
        struct Asked {
            #[serde(deserialize_with = "whole")]
            a: u16,
            #[serde(default, deserialize_with = "whole_if_any")]
            b: Option<u32>,
        }
        let read =
            |text: &str| serde_json::from_str::<Asked>(text).map(|Asked { a, b }| (a, b)).ok();
        assert_eq!(read(r#"{"a": 7}"#), Some((7, None)));
        assert_eq!(read(r#"{"a": 7.0, "b": 4294967295.0}"#), Some((7, Some(u32::MAX))));
        assert_eq!(read(r#"{"a": 1e3, "b": null}"#), Some((1000, None)));
        for wrong in ["7.5", "-1", "-1.0", "65536", "65536.0", "1e300", "\"7\"", "null"] {
            assert_eq!(read(&format!("{{\"a\": {wrong}}}")), None, "{wrong}");
        }
    }

    #[test]
    fn whole_numbers_are_written_as_such_and_read_again() {
        for (number, text) in
            [(0.0, "0"), (3.0, "3"), (65535.0, "65535"), (0.25, "0.25"), (20.5, "20.5")]
        {
            assert_eq!(serde_json::to_string(&Decimal(number)).unwrap(), text);
            assert_eq!(serde_json::from_str::<Decimal>(text).unwrap(), Decimal(number));
        }
    }
}
