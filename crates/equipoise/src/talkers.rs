//! Which sources have most: counted in memory of a fixed size, however many sources there are.
//!
//! Space-saving (Metwally, Agrawal, El Abbadi, 2005): so many counters; a source that has none takes that of the source with the least, and
//! what that had counted stays as what this one may not have had. So a count is never too low, what it may be too high by is known, and
//! whoever has more than one part in [`Sketch::COUNTERS`] of all is there. Knows neither flows nor packets.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// What counts as one source: an address of IPv4, a network of 64 bits of IPv6, of which one host can have all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

/// Bits of an IPv6 address that are one source.
const PREFIX: u32 = 64;

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => {
                let host = 128 - PREFIX;
                Ipv6Addr::from(u128::from(v6) >> host << host).into()
            }
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/{PREFIX}"),
        }
    }
}

/// How much a source has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talker {
    /// Who.
    pub source: Source,
    /// Not less than this.
    pub at_least: u64,
    /// Not more than this.
    pub at_most: u64,
}

/// Counts of sources.
#[derive(Clone, Debug, Default)]
pub struct Sketch {
    total: u64,
    talkers: Vec<Talker>,
    places: HashMap<Source, usize>,
    /// The least that any has, and places of those that had it when that was looked up: counts only grow, so there are no others.
    floor: u64,
    least: Vec<usize>,
}

impl Sketch {
    /// Sources that are told apart at once.
    pub const COUNTERS: usize = 256;

    /// Counts one for a source.
    pub fn add(&mut self, source: Source) {
        self.total += 1;
        if let Some(&place) = self.places.get(&source) {
            self.talkers[place].at_least += 1;
            self.talkers[place].at_most += 1;
        } else if self.talkers.len() < Self::COUNTERS {
            self.places.insert(source, self.talkers.len());
            self.talkers.push(Talker { source, at_least: 1, at_most: 1 });
        } else {
            let place = self.take_least();
            self.places.remove(&self.talkers[place].source);
            self.places.insert(source, place);
            self.talkers[place] = Talker { source, at_least: 1, at_most: self.floor + 1 };
        }
    }

    /// How much all sources have had together.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Those that surely have the most, first.
    pub fn talkers(&self) -> Vec<Talker> {
        sorted(self.talkers.clone())
    }

    /// How much of both together, as far as it is known.
    pub fn with(&self, other: &Self) -> (u64, Vec<Talker>) {
        let all: BTreeSet<Source> =
            self.places.keys().chain(other.places.keys()).copied().collect();
        let together = |source: Source| {
            let [one, two] = [self, other].map(|of| of.of(source));
            Talker {
                source,
                at_least: one.at_least + two.at_least,
                at_most: one.at_most + two.at_most,
            }
        };
        (self.total + other.total, sorted(all.into_iter().map(together).collect()))
    }

    fn of(&self, source: Source) -> Talker {
        let known = self.places.get(&source).map(|place| self.talkers[*place]);
        // Whoever has no counter has had no more than the least that has one.
        let unknown = || {
            let least = self.talkers.iter().map(|talker| talker.at_most).min();
            let is_full = self.talkers.len() == Self::COUNTERS;
            Talker { source, at_least: 0, at_most: least.filter(|_| is_full).unwrap_or(0) }
        };
        known.unwrap_or_else(unknown)
    }

    /// The place of a talker with the least.
    fn take_least(&mut self) -> usize {
        loop {
            match self.least.pop() {
                Some(place) if self.talkers[place].at_most == self.floor => return place,
                Some(_) => {}
                None => {
                    let all = || self.talkers.iter().map(|talker| talker.at_most).enumerate();
                    self.floor = all().map(|(_, count)| count).min().unwrap_or(0);
                    let least = all().filter(|(_, count)| *count == self.floor);
                    self.least = least.map(|(place, _)| place).collect();
                }
            }
        }
    }
}

fn sorted(mut talkers: Vec<Talker>) -> Vec<Talker> {
    talkers
        .sort_by_key(|talker| (Reverse(talker.at_least), Reverse(talker.at_most), talker.source));
    talkers
}

/// Counts of the last minute or two, by service: of this minute, and of the one before.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// When this minute began.
    began: Duration,
    now: BTreeMap<u32, Sketch>,
    /// When the one before began; none before there has been one.
    before: Option<(Duration, BTreeMap<u32, Sketch>)>,
}

impl Recent {
    /// After so long, counting begins anew beside what has been counted.
    pub const WINDOW: Duration = Duration::from_secs(60);

    /// From this time on; times are by any clock that does not go back.
    pub fn since(began: Duration) -> Self {
        Self { began, ..Self::default() }
    }

    /// Counts one for each of these sources, at the service of that id.
    pub fn add(&mut self, at: Duration, all: impl IntoIterator<Item = (u32, Source)>) {
        self.advance(at);
        for (service, source) in all {
            self.now.entry(service).or_default().add(source);
        }
    }

    /// How much of each service, the sum and by source, and for how long that has been counted.
    pub fn told(&mut self, at: Duration) -> (Duration, BTreeMap<u32, (u64, Vec<Talker>)>) {
        self.advance(at);
        let nothing = Sketch::default();
        let (began, before) = match &self.before {
            Some((began, before)) => (*began, before),
            None => (self.began, &BTreeMap::new()),
        };
        let services: BTreeSet<u32> = self.now.keys().chain(before.keys()).copied().collect();
        let of = |all: &BTreeMap<u32, Sketch>, id: u32| all.get(&id).unwrap_or(&nothing).clone();
        let told = services.into_iter().map(|id| (id, of(&self.now, id).with(&of(before, id))));
        (at.saturating_sub(began), told.collect())
    }

    fn advance(&mut self, at: Duration) {
        let passed = at.saturating_sub(self.began);
        if passed < Self::WINDOW {
            return;
        }
        let last = std::mem::take(&mut self.now);
        // Where nothing has been counted for longer than a window, the last one is not the one before this.
        let is_next = passed < Self::WINDOW * 2;
        self.before = Some(if is_next {
            (self.began, last)
        } else {
            (at.saturating_sub(Self::WINDOW), BTreeMap::new())
        });
        self.began = if is_next { self.began + Self::WINDOW } else { at };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(number: u32) -> Source {
        IpAddr::from(number.to_be_bytes()).into()
    }

    fn counted(sources: impl IntoIterator<Item = u32>) -> Sketch {
        let mut sketch = Sketch::default();
        sources.into_iter().for_each(|number| sketch.add(source(number)));
        sketch
    }

    fn exact(sources: &[u32]) -> BTreeMap<Source, u64> {
        let mut exact = BTreeMap::new();
        for number in sources {
            *exact.entry(source(*number)).or_default() += 1;
        }
        exact
    }

    /// What holds of any counts, whoever they are of.
    fn holds(talkers: &[Talker], exact: &BTreeMap<Source, u64>, total: u64) {
        for talker in talkers {
            let right = exact.get(&talker.source).copied().unwrap_or(0);
            assert!((talker.at_least..=talker.at_most).contains(&right), "{talker:?} {right}");
        }
        for (source, count) in exact {
            let is_told = talkers.iter().any(|talker| talker.source == *source);
            assert!(is_told || *count <= total / Sketch::COUNTERS as u64, "{source} {count}");
        }
    }

    #[test]
    fn sources_that_fit_are_counted_exactly_and_the_most_stand_first() {
        let sketch =
            counted((0..Sketch::COUNTERS as u32).flat_map(|n| vec![n; n as usize % 7 + 1]));
        for Talker { source: of, at_least, at_most } in sketch.talkers() {
            let IpAddr::V4(v4) = of.0 else { panic!() };
            let right = u64::from(u32::from(v4) % 7 + 1);
            assert_eq!((at_least, at_most), (right, right));
        }
        let counts: Vec<u64> = sketch.talkers().iter().map(|talker| talker.at_least).collect();
        assert!(counts.is_sorted_by(|a, b| a >= b));
        assert_eq!(counts.iter().sum::<u64>(), sketch.total());
    }

    #[test]
    fn whoever_has_much_is_there_among_a_million_others_and_memory_does_not_grow() {
        // One in a hundred packets is of each of three sources; all the others are never seen again.
        let stream = (0..1_000_000).map(|n| if n % 100 < 3 { n % 100 } else { n + 1000 });
        let sketch = counted(stream);
        let told = sketch.talkers();
        assert_eq!(told.len(), Sketch::COUNTERS);
        assert!(sketch.least.len() <= Sketch::COUNTERS && sketch.places.len() == Sketch::COUNTERS);
        let mut first: Vec<_> = told[..3].iter().map(|talker| talker.source).collect();
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2].map(source));
        assert!(
            told[..3].iter().all(|talker| talker.at_least <= 10_000 && talker.at_most >= 10_000)
        );
        assert!(told[3].at_least < 100, "{:?}", told[3]);
    }

    #[test]
    fn addresses_of_a_network_of_ipv6_are_one_source_and_of_ipv4_each() {
        let text = |address: &str| Source::from(address.parse::<IpAddr>().unwrap()).to_string();
        assert_eq!(text("192.0.2.1"), "192.0.2.1");
        assert_eq!(text("2001:db8:0:1::7"), "2001:db8:0:1::/64");
        assert_eq!(text("2001:db8:0:1:ffff::1"), "2001:db8:0:1::/64");
    }

    #[test]
    fn last_minutes_are_told_and_older_ones_forgotten() {
        let seconds = Duration::from_secs;
        let mut recent = Recent::since(seconds(100));
        recent.add(seconds(110), [(7, source(1)), (7, source(1)), (8, source(2))]);
        let sums = |recent: &mut Recent, at: u64| {
            let (over, told) = recent.told(seconds(at));
            let sums: Vec<_> = told.iter().map(|(id, (sum, _))| (*id, *sum)).collect();
            (over.as_secs(), sums)
        };
        assert_eq!(sums(&mut recent, 120), (20, vec![(7, 2), (8, 1)]));
        recent.add(seconds(165), [(7, source(3))]);
        assert_eq!(sums(&mut recent, 170), (70, vec![(7, 3), (8, 1)]));
        let (_, told) = recent.told(seconds(171));
        assert_eq!(told[&7].1[0], Talker { source: source(1), at_least: 2, at_most: 2 });
        assert_eq!(sums(&mut recent, 221), (61, vec![(7, 1)]));
        assert_eq!(sums(&mut recent, 400), (60, vec![]));
    }

    proptest! {
        #[test]
        fn no_count_is_beyond_its_bounds_and_nobody_with_much_is_missing(
            sources in prop::collection::vec(prop_oneof![0_u32..40, 0_u32..2000], 0..6000),
            cut in 0.0..1.0_f64,
        ) {
            let whole = counted(sources.iter().copied());
            prop_assert_eq!(whole.total(), sources.len() as u64);
            holds(&whole.talkers(), &exact(&sources), whole.total());
            let (one, two) = sources.split_at((sources.len() as f64 * cut) as usize);
            let (total, talkers) =
                counted(one.iter().copied()).with(&counted(two.iter().copied()));
            prop_assert_eq!(total, sources.len() as u64);
            holds(&talkers, &exact(&sources), total);
        }
    }
}
