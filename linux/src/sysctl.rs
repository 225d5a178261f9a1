//! Kernel settings under `/proc/sys/net`, of the calling thread's network namespace.

use std::{fs, path::PathBuf};

use crate::{Error, Result};

const ROOT: &str = "/proc/sys/net";

/// A setting we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Packets for others are forwarded (IPv4, all devices). 0 or 1.
    Forwarding4,
    /// Packets for others are forwarded (IPv6, all devices). 0 or 1.
    Forwarding6,
    /// Reverse-path filter of a device, or of `all` or `default`: 0 off, 1 strict, 2 loose. The kernel
    /// applies the larger of the device's value and that of `all`.
    ReversePath(String),
    /// ARP is answered for addresses behind other devices. 0 or 1.
    ProxyArp(String),
    /// ICMP redirects are sent through this device. 0 or 1.
    SendRedirects(String),
    /// Duplicate address detection on this device. 0 off, 1 on.
    AcceptDad(String),
    /// Router advertisements are heeded on this device: 0 never, 1 unless packets are forwarded, 2 always.
    AcceptRa(String),
}

impl Setting {
    /// The file that holds it.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        let below = match self {
            Self::Forwarding4 => "ipv4/ip_forward".to_owned(),
            Self::Forwarding6 => "ipv6/conf/all/forwarding".to_owned(),
            Self::ReversePath(dev) => format!("ipv4/conf/{dev}/rp_filter"),
            Self::ProxyArp(dev) => format!("ipv4/conf/{dev}/proxy_arp"),
            Self::SendRedirects(dev) => format!("ipv4/conf/{dev}/send_redirects"),
            Self::AcceptDad(dev) => format!("ipv6/conf/{dev}/accept_dad"),
            Self::AcceptRa(dev) => format!("ipv6/conf/{dev}/accept_ra"),
        };
        PathBuf::from(ROOT).join(below)
    }

    /// Lets IPv6 packets for others be forwarded. A node that learns its own default route from router advertisements on
    /// `uplink` goes on learning it: a forwarding node heeds them only where it is told to, and that has to be said
    /// first, or the kernel throws away what it has learnt. Returns whether anything was changed.
    pub fn forward_ipv6(uplink: &str) -> Result<bool> {
        if Self::Forwarding6.read()? != "0" {
            return Ok(false);
        }
        let heeded = Self::AcceptRa(uplink.to_owned());
        if heeded.read()? == "1" {
            heeded.ensure(2)?;
        }
        Self::Forwarding6.ensure(1)
    }

    /// The present value.
    pub fn read(&self) -> Result<String> {
        let file = self.file();
        fs::read_to_string(&file)
            .map(|text| text.trim().to_owned())
            .map_err(|source| Error::Sysctl { file: file.display().to_string(), source })
    }

    /// Makes it so; a value that is there already is not written. Returns whether it was changed.
    pub fn ensure(&self, value: u32) -> Result<bool> {
        let text = value.to_string();
        if self.read()? == text {
            return Ok(false);
        }
        let file = self.file();
        fs::write(&file, text)
            .map(|()| true)
            .map_err(|source| Error::Sysctl { file: file.display().to_string(), source })
    }
}
