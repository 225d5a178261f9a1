//! Is a pod's link as it was made? (CNI CHECK)

use std::net::IpAddr;

use super::{PodLink, PodView, alone, everything};
use crate::{Kernel, Link, Result};

impl Kernel {
    /// Compares a pod's link with what is desired, on both ends. Each deviation is one sentence; none
    /// means that all is well.
    pub fn check_pod(&mut self, pod: &PodLink<'_>) -> Result<Vec<String>> {
        let mut deviations = Vec::new();
        let view = self.observe_pod(pod.netns, &pod.container_name)?;
        match &view {
            None => deviations.push(format!("{} does not exist in the pod", pod.container_name)),
            Some(view) => inside(pod, view, &mut deviations),
        }
        match self.link(&pod.host_name)? {
            None => deviations.push(format!("{} does not exist on the node", pod.host_name)),
            Some(link) => self.outside(pod, &link, &mut deviations)?,
        }
        self.entries(pod, &mut deviations)?;
        Ok(deviations)
    }

    fn entries(&mut self, pod: &PodLink<'_>, deviations: &mut Vec<String>) -> Result<()> {
        let wanted = pod.host_neighbours();
        if wanted.is_empty() {
            return Ok(());
        }
        let there = self.neighbours()?;
        let missing = wanted.into_iter().filter(|entry| !there.contains(entry));
        deviations.extend(missing.map(|entry| format!("the node has no permanent entry {entry}")));
        Ok(())
    }

    fn outside(&mut self, pod: &PodLink<'_>, link: &Link, deviations: &mut Vec<String>) -> Result<()> {
        if !link.up {
            deviations.push(format!("{} is down", link.name));
        }
        if link.mac != Some(pod.host_mac) {
            deviations.push(format!("{} has not the hardware address {}", link.name, pod.host_mac));
        }
        let routes = self.routes()?;
        let missing = pod.host_routes().into_iter().filter(|route| !routes.contains(route));
        deviations.extend(missing.map(|route| format!("the node has no route {route}")));
        Ok(())
    }
}

fn inside(pod: &PodLink<'_>, view: &PodView, deviations: &mut Vec<String>) {
    let name = &pod.container_name;
    if !view.link.up {
        deviations.push(format!("{name} is down in the pod"));
    }
    if view.link.mtu != pod.mtu {
        deviations.push(format!("{name} has MTU {} in the pod, not {}", view.link.mtu, pod.mtu));
    }
    let missing = pod.addresses.iter().filter(|ip| !view.addresses.contains(&alone(**ip)));
    deviations.extend(missing.map(|ip| format!("{name} has not the address {ip}")));
    for gateway in &pod.gateways {
        through(pod, view, *gateway, deviations);
    }
}

fn through(pod: &PodLink<'_>, view: &PodView, gateway: IpAddr, deviations: &mut Vec<String>) {
    let default = everything(gateway);
    if !view.routes.iter().any(|route| route.prefix == default && route.via == Some(gateway)) {
        deviations.push(format!("the pod has no default route through {gateway}"));
    }
    if !view.neighbours.iter().any(|entry| entry.ip == gateway && entry.mac == pod.host_mac) {
        deviations.push(format!("the pod has no permanent entry {gateway} lladdr {}", pod.host_mac));
    }
}
