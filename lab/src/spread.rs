//! Whether counts follow weights, or differ more than chance does.

use std::collections::BTreeMap;

/// Pearson's chi-square of counts against the shares that weights promise.
///
/// A name that has a count but no weight makes it infinite: that backend should have got nothing.
pub fn chi_square(counts: &BTreeMap<String, u64>, weights: &BTreeMap<String, u64>) -> f64 {
    let total = counts.values().sum::<u64>() as f64;
    let weight = weights.values().sum::<u64>() as f64;
    if counts.iter().any(|(name, count)| *count > 0 && weights.get(name).copied().unwrap_or(0) == 0)
    {
        return f64::INFINITY;
    }
    let positive = weights.iter().filter(|(_, share)| **share > 0);
    positive
        .map(|(name, share)| {
            let expected = total * *share as f64 / weight;
            let seen = counts.get(name).copied().unwrap_or(0) as f64;
            (seen - expected).powi(2) / expected
        })
        .sum()
}

/// What a chi-square of `freedom` degrees exceeds by chance once in 10 000 times.
///
/// By the Wilson-Hilferty approximation: above the exact value, by eight percent at one degree and less at more.
pub fn chi_square_limit(freedom: u32) -> f64 {
    /// The quantile of the normal distribution for 0.9999.
    const Z: f64 = 3.719;
    let k = f64::from(freedom);
    let spread = 2.0 / (9.0 * k);
    k * (1.0 - spread + Z * spread.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(values: &[(&str, u64)]) -> BTreeMap<String, u64> {
        values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn counts_in_proportion_give_zero() {
        let weights = named(&[("a", 50), ("b", 30), ("c", 20)]);
        assert_eq!(chi_square(&named(&[("a", 500), ("b", 300), ("c", 200)]), &weights), 0.0);
    }

    #[test]
    fn a_skew_goes_over_the_limit_and_chance_does_not() {
        let weights = named(&[("a", 50), ("b", 30), ("c", 20)]);
        assert!(
            chi_square(&named(&[("a", 1540), ("b", 880), ("c", 580)]), &weights)
                < chi_square_limit(2)
        );
        assert!(
            chi_square(&named(&[("a", 1000), ("b", 1000), ("c", 1000)]), &weights)
                > chi_square_limit(2)
        );
    }

    #[test]
    fn a_backend_that_got_nothing_counts() {
        let weights = named(&[("a", 1), ("b", 1)]);
        assert!(chi_square(&named(&[("a", 100)]), &weights) > chi_square_limit(1));
    }

    #[test]
    fn a_backend_without_weight_must_get_nothing() {
        let weights = named(&[("a", 1), ("b", 0)]);
        assert_eq!(chi_square(&named(&[("a", 10), ("b", 0)]), &weights), 0.0);
        assert_eq!(chi_square(&named(&[("a", 10), ("b", 1)]), &weights), f64::INFINITY);
    }

    #[test]
    fn limits_are_a_little_above_those_of_the_tables() {
        for (freedom, exact) in [(1, 15.137), (2, 18.421), (5, 25.745), (10, 35.564)] {
            let limit = chi_square_limit(freedom);
            assert!((exact..1.08 * exact).contains(&limit), "{freedom}: {limit} against {exact}");
        }
    }
}
