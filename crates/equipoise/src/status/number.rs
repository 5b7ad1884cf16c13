//! Numbers in answers.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

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
    fn whole_numbers_are_written_as_such_and_read_again() {
        for (number, text) in
            [(0.0, "0"), (3.0, "3"), (65535.0, "65535"), (0.25, "0.25"), (20.5, "20.5")]
        {
            assert_eq!(serde_json::to_string(&Decimal(number)).unwrap(), text);
            assert_eq!(serde_json::from_str::<Decimal>(text).unwrap(), Decimal(number));
        }
    }
}
