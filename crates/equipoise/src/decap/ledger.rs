//! What has been changed on this host, on file: so that it is put back exactly, also by the next process.
//!
//! A change is written down before it is made. What is on file and was never made is no harm: an address that
//! is not there, or a setting that has its old value, is left alone. The file goes when nothing is on it. Knows
//! nothing of why something is to be changed.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::{HostError, Machine, Reading, Scope};

/// What has been changed, and where that is written down.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    content: Content,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    /// The network namespace that it is about, by its inode.
    network_namespace: u64,
    addresses: Vec<Address>,
    settings: Vec<Setting>,
}

/// An address that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Address {
    interface: String,
    address: IpAddr,
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Setting {
    /// Below `/proc/sys/net`.
    path: String,
    before: String,
    after: String,
}

/// Why something could not be changed, or put back.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be read or written.
    #[error("{}, where changes of this host are written down: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The machine refuses.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Ledger {
    /// Opens the ledger at `path`, with what an earlier process has left in it.
    ///
    /// # Errors
    ///
    /// When there is a file that cannot be read.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |reason: String| LedgerError::File { path: path.to_owned(), reason };
        let here = fs::metadata("/proc/self/ns/net").map_err(|e| failed(e.to_string()))?.ino();
        let empty = Content { network_namespace: here, ..Content::default() };
        let content = match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => empty,
            Err(error) => return Err(failed(error.to_string())),
        };
        let mut ledger = Self { path: path.to_owned(), content };
        if ledger.content.network_namespace != here {
            // Of a container that is gone, most likely, and with it all that was changed there.
            let Content { addresses, settings, .. } = &ledger.content;
            tracing::warn!(file = %path.display(), ?addresses, ?settings, "an earlier process has left this in another network namespace; nothing of it is put back");
            ledger.content = Content { network_namespace: here, ..Content::default() };
        }
        Ok(ledger)
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.content.addresses.is_empty() && self.content.settings.is_empty()
    }

    /// Gives a setting a value.
    ///
    /// # Errors
    ///
    /// When it cannot be written down, or the kernel refuses.
    pub fn set<M: Machine>(
        &mut self,
        machine: &mut M,
        path: &str,
        after: &str,
    ) -> Result<(), LedgerError> {
        let Some(before) = machine.setting(path) else {
            return Ok(());
        };
        self.content.settings.retain(|setting| setting.path != path);
        let (path, after) = (path.to_owned(), after.to_owned());
        tracing::info!(setting = path, before, after, "kernel setting changed");
        self.content.settings.push(Setting { path: path.clone(), before, after: after.clone() });
        self.write()?;
        Ok(machine.set(&path, &after)?)
    }

    /// Puts an address on an interface, valid on this host alone.
    ///
    /// # Errors
    ///
    /// When it cannot be written down, or the kernel refuses.
    pub async fn add<M: Machine>(
        &mut self,
        machine: &mut M,
        (interface, index): (&str, u32),
        address: IpAddr,
    ) -> Result<(), LedgerError> {
        let entry = Address { interface: interface.to_owned(), address };
        let is_known = self.content.addresses.contains(&entry);
        if !is_known {
            self.content.addresses.push(entry.clone());
            self.write()?;
        }
        if machine.add_address(index, address, Scope::Host).await? {
            tracing::info!(%address, interface, "address added");
        } else if !is_known {
            // Somebody else has just done so.
            self.content.addresses.retain(|other| *other != entry);
            self.write()?;
        }
        Ok(())
    }

    /// Puts back what is no longer wanted: addresses first, so that nobody is told of them once the settings go that
    /// kept quiet about them. What cannot be put back is said, and stays written down.
    ///
    /// # Errors
    ///
    /// The first thing that cannot be put back.
    pub async fn put_back<M: Machine>(
        &mut self,
        machine: &mut M,
        reading: &Reading,
        keep: &Keep<'_>,
    ) -> Result<(), LedgerError> {
        let mut failed = Ok(());
        let before = self.content.clone();
        for entry in self.content.addresses.clone() {
            let Address { interface, address } = &entry;
            if (keep.address)(*address) {
                continue;
            }
            if let Some(device) = reading.devices.get(interface) {
                if let Err(error) = machine.remove_address(device.index, *address).await {
                    tracing::warn!(%address, interface, %error, "an address that was added stays");
                    failed = failed.and(Err(error));
                    continue;
                }
                tracing::info!(%address, interface, "address removed again");
            }
            self.content.addresses.retain(|other| *other != entry);
        }
        for setting in self.content.settings.clone().into_iter().rev() {
            if (keep.setting)(&setting.path) {
                continue;
            }
            if let Err(error) = undo(machine, &setting) {
                tracing::warn!(%error, "a kernel setting stays changed");
                failed = failed.and(Err(error));
                continue;
            }
            self.content.settings.retain(|other| *other != setting);
        }
        if self.content != before {
            self.write()?;
        }
        failed.map_err(LedgerError::from)
    }

    fn write(&self) -> Result<(), LedgerError> {
        let failed = |reason: io::Error| LedgerError::File {
            path: self.path.clone(),
            reason: reason.to_string(),
        };
        if self.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let text =
            serde_json::to_vec_pretty(&self.content).map_err(|error| failed(error.into()))?;
        // Whole or not at all: this is what a process that is killed leaves to the next.
        let draft = self.path.with_extension("draft");
        fs::write(&draft, text).map_err(failed)?;
        fs::rename(&draft, &self.path).map_err(failed)
    }
}

/// What is to stay as it has been changed.
pub struct Keep<'a> {
    /// Whether an address stays.
    pub address: &'a dyn Fn(IpAddr) -> bool,
    /// Whether a setting stays.
    pub setting: &'a dyn Fn(&str) -> bool,
}

impl Keep<'_> {
    /// Nothing stays.
    pub const NOTHING: Keep<'static> = Keep { address: &|_| false, setting: &|_| false };
}

fn undo<M: Machine>(machine: &mut M, setting: &Setting) -> Result<(), HostError> {
    let Setting { path, before, after } = setting;
    // The interface may be gone, and its settings with it; and what somebody else has set is theirs.
    if machine.setting(path).as_ref() != Some(after) {
        return Ok(());
    }
    machine.set(path, before)?;
    tracing::info!(setting = path, value = before, "kernel setting put back");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Device;
    use crate::host::simulated::{Simulated, World};
    use std::collections::BTreeSet;
    use tempfile::TempDir;

    const SETTING: &str = "ipv4/conf/eth0/arp_ignore";

    fn machine() -> Simulated {
        let lo = Device {
            index: 1,
            addresses: vec!["203.0.113.9".parse().unwrap()],
            ..Device::default()
        };
        let reading = Reading { devices: [("lo".to_owned(), lo)].into(), ..Reading::default() };
        let settings = [(SETTING.to_owned(), "0".to_owned())].into();
        Simulated::new(World { reading, settings, ..World::default() }).0
    }

    async fn read(machine: &mut Simulated) -> Reading {
        machine.read(&BTreeSet::new()).await.unwrap()
    }

    async fn addresses(machine: &mut Simulated) -> Vec<IpAddr> {
        read(machine).await.devices["lo"].addresses.clone()
    }

    #[tokio::test]
    async fn what_a_killed_process_has_changed_is_put_back_by_the_next() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger.json");
        let mut machine = machine();
        let vip: IpAddr = "203.0.113.10".parse().unwrap();
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.set(&mut machine, SETTING, "1").unwrap();
        ledger.add(&mut machine, ("lo", 1), vip).await.unwrap();
        drop(ledger);
        assert_eq!(addresses(&mut machine).await.len(), 2);

        let mut next = Ledger::open(&path).unwrap();
        assert!(!next.is_empty());
        let reading = read(&mut machine).await;
        next.put_back(&mut machine, &reading, &Keep::NOTHING).await.unwrap();
        assert_eq!(addresses(&mut machine).await, ["203.0.113.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(machine.setting(SETTING).as_deref(), Some("0"));
        assert!(next.is_empty() && !path.exists());
    }

    #[tokio::test]
    async fn an_address_that_was_there_before_stays() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger.json");
        let mut machine = machine();
        let mut ledger = Ledger::open(&path).unwrap();
        let there: IpAddr = "203.0.113.9".parse().unwrap();
        ledger.add(&mut machine, ("lo", 1), there).await.unwrap();
        assert!(ledger.is_empty() && !path.exists());
        let reading = read(&mut machine).await;
        ledger.put_back(&mut machine, &reading, &Keep::NOTHING).await.unwrap();
        assert_eq!(addresses(&mut machine).await, [there]);
    }

    #[tokio::test]
    async fn a_setting_that_somebody_else_has_changed_is_theirs() {
        let folder = TempDir::new().unwrap();
        let mut machine = machine();
        let mut ledger = Ledger::open(&folder.path().join("ledger.json")).unwrap();
        ledger.set(&mut machine, SETTING, "1").unwrap();
        machine.set(SETTING, "2").unwrap();
        let reading = read(&mut machine).await;
        ledger.put_back(&mut machine, &reading, &Keep::NOTHING).await.unwrap();
        assert_eq!(machine.setting(SETTING).as_deref(), Some("2"));
        assert!(ledger.is_empty());
    }

    #[tokio::test]
    async fn what_is_wanted_still_stays_on_file() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger.json");
        let mut machine = machine();
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.set(&mut machine, SETTING, "1").unwrap();
        let reading = read(&mut machine).await;
        let keep = Keep { address: &|_| true, setting: &|path| path == SETTING };
        ledger.put_back(&mut machine, &reading, &keep).await.unwrap();
        assert_eq!(machine.setting(SETTING).as_deref(), Some("1"));
        assert!(!Ledger::open(&path).unwrap().is_empty());
    }

    #[test]
    fn what_is_of_another_network_namespace_is_not_put_back_here() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger.json");
        let content = Content {
            network_namespace: 7,
            addresses: vec![Address {
                interface: "lo".to_owned(),
                address: "203.0.113.10".parse().unwrap(),
            }],
            settings: Vec::new(),
        };
        fs::write(&path, serde_json::to_vec(&content).unwrap()).unwrap();
        assert!(Ledger::open(&path).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_no_ledger_is_an_error_that_names_it() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger.json");
        fs::write(&path, "{").unwrap();
        let error = Ledger::open(&path).unwrap_err().to_string();
        assert!(error.contains("ledger.json"), "{error}");
    }
}
