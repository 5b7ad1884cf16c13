//! Who is let in, as the programs are told: the trie of prefixes, written, and asked as they ask it.
//!
//! And the end of flows whose clients have come to be denied: a packet of a flow is not asked for its source, so
//! user space looks through the flows when the lists have changed.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use equipoise_common::access::{Access, AccessKey};
use equipoise_common::flow::Reason;
use equipoise_common::flow::entry::{key, owner};
use equipoise_common::key::{Address, FiveTuple, V6};
use equipoise_core::plan::{Listed, Rule};

use super::flow::Table;
use super::table::io_error;
use super::{Expiry, Farewell, cut};

/// The trie of prefixes.
pub(super) struct AccessList {
    prefixes: LpmTrie<MapData, AccessKey, Access>,
}

impl AccessList {
    pub(super) fn new(prefixes: LpmTrie<MapData, AccessKey, Access>) -> Self {
        Self { prefixes }
    }

    pub(super) fn put(&mut self, listed: &Listed, rule: Rule) -> io::Result<()> {
        let (bits, key) = listed.key();
        self.prefixes.insert(&Key::new(bits, key), rule.value(listed), 0).map_err(io_error)
    }

    pub(super) fn remove(&mut self, listed: &Listed) -> io::Result<()> {
        let (bits, key) = listed.key();
        self.prefixes.remove(&Key::new(bits, key)).map_err(io_error)
    }

    /// All that is in it.
    pub(super) fn all(&self) -> Result<BTreeMap<Listed, Rule>, MapError> {
        let decoded = |entry: Result<(Key<AccessKey>, Access), MapError>| {
            let (key, value) = entry?;
            let listed = Listed::from_key(key.prefix_len(), key.data());
            Ok(listed.map(|listed| (listed, Rule::from_value(value))))
        };
        self.prefixes.iter().map(decoded).filter_map(Result::transpose).collect()
    }

    /// Whether the prefix that decides about this client of a service denies it. One of no prefix is not denied here:
    /// what is in no list is kept out, but not cut off.
    fn denies<A: Address>(&self, service: u32, client: A) -> bool {
        let bits = AccessKey::SCOPE_BITS + if A::IS_V6 { 128 } else { 32 };
        let V6(words) = client.pack();
        let strength = |whose| {
            let key = AccessKey::new(AccessKey::scope(whose, A::IS_V6), V6(words));
            match self.prefixes.get(&Key::new(bits, key), 0) {
                Ok(found) => Some(found.strength()),
                Err(MapError::KeyNotFound) => None,
                Err(error) => {
                    tracing::warn!(%error, "looking for a denied prefix");
                    None
                }
            }
        };
        let strongest = strength(Some(service)).max(strength(None));
        strongest.is_some_and(|strongest| strongest & 1 == Access::DENY)
    }
}

/// Ends all flows of one family whose clients are denied. Both ends of a TCP connection are to get a RST.
pub(super) fn cut<A, const SLOT: usize>(
    table: &Table<'_, A>,
    list: &AccessList,
    expiry: &mut Expiry,
) where
    A: Address + Into<IpAddr>,
{
    let is_denied = |slot: &[AtomicU64; SLOT], meta| {
        let tuple: FiveTuple<A> = key(slot, meta);
        list.denies(owner(slot).0, tuple.source)
    };
    let goodbye = (Reason::Denied, Farewell::Reset);
    cut::cut::<A, SLOT>(table, is_denied, goodbye, expiry);
}
