//! Which id and which address each Egress has. The controller's decision, for all of them at once; what an Egress has
//! already is kept while it is valid, so that nothing moves without need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::external::{ExternalPool, Refusal, choose};
use crate::mark::EgressId;

/// What is known of an Egress.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// When it was created, in seconds since 1970: where two have the same, the older keeps it.
    pub created: i64,
    /// `spec.egressIP`.
    pub wanted: Option<String>,
    /// `spec.externalIPPool`.
    pub pool: Option<String>,
    /// The id in its status.
    pub id: Option<EgressId>,
    /// The address in its status.
    pub address: Option<IpAddr>,
}

/// What an Egress gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Its id.
    pub id: EgressId,
    /// Its address.
    pub address: IpAddr,
}

/// Assigns to all Egresses. `foreign` are addresses that others use (virtual services), with their owner in words.
pub fn assign(
    requests: &[Request],
    pools: &BTreeMap<String, ExternalPool>,
    foreign: &BTreeMap<IpAddr, String>,
) -> BTreeMap<String, Result<Assignment, Refusal>> {
    let mut ordered: Vec<_> = requests.iter().collect();
    ordered.sort_by_key(|request| (request.created, request.name.as_str()));
    let ids = ids(&ordered);
    // Those who wrote an address down come first, then those who have one, then those who need one.
    ordered.sort_by_key(|request| (request.wanted.is_none(), request.address.is_none()));
    let mut used: BTreeSet<_> = foreign.keys().copied().collect();
    let mut answer = BTreeMap::new();
    for request in ordered {
        let address = address(request, pools, foreign, &used);
        if let Ok(address) = &address {
            used.insert(*address);
        }
        let id = ids.get(request.name.as_str()).copied().ok_or(Refusal::NoId);
        answer.insert(request.name.clone(), address.and_then(|address| Ok(Assignment { id: id?, address })));
    }
    answer
}

/// An address that was written down may be shared by several Egresses; one that is chosen here is not.
fn address(
    request: &Request,
    pools: &BTreeMap<String, ExternalPool>,
    foreign: &BTreeMap<IpAddr, String>,
    used: &BTreeSet<IpAddr>,
) -> Result<IpAddr, Refusal> {
    let field = "spec.egressIP";
    let pool = match &request.pool {
        Some(name) => Some(
            pools
                .get(name)
                .ok_or_else(|| Refusal::UnknownPool { pool: name.clone(), field: "spec.externalIPPool" })?,
        ),
        None => None,
    };
    let Some(wanted) = &request.wanted else {
        let nameless = Refusal::UnknownPool { pool: String::new(), field: "spec.externalIPPool" };
        return choose(pool.ok_or(nameless)?, request.address, used);
    };
    let address = wanted.parse::<IpAddr>().ok().filter(IpAddr::is_ipv4);
    let address = address.ok_or_else(|| Refusal::NotAnAddress { field, value: wanted.clone() })?;
    if let Some(by) = foreign.get(&address) {
        return Err(Refusal::InUse { field, address, by: by.clone() });
    }
    match pool {
        Some(pool) if !pool.usable.contains(address) => {
            Err(Refusal::Outside { field, address, pool: pool.name.clone() })
        }
        _ => Ok(address),
    }
}

/// Ids, oldest first: the one in the status is kept unless an older Egress has it.
fn ids<'a>(ordered: &[&'a Request]) -> BTreeMap<&'a str, EgressId> {
    let mut taken = BTreeSet::new();
    let mut ids = BTreeMap::new();
    for request in ordered {
        if let Some(id) = request.id.filter(|id| taken.insert(*id)) {
            ids.insert(request.name.as_str(), id);
        }
    }
    let mut free = (EgressId::FIRST.number()..=EgressId::LAST.number())
        .filter_map(EgressId::new)
        .filter(|id| !taken.contains(id));
    for request in ordered {
        if !ids.contains_key(request.name.as_str())
            && let Some(id) = free.next()
        {
            ids.insert(request.name.as_str(), id);
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::external::tests::pool;

    fn request(name: &str, created: i64) -> Request {
        Request { name: name.into(), created, wanted: None, pool: Some("p".into()), id: None, address: None }
    }

    fn run(requests: &[Request]) -> BTreeMap<String, Result<Assignment, Refusal>> {
        let pools = [("p".to_owned(), pool("p", "172.16.11.200/30"))].into();
        let foreign = [(IpAddr::from([172, 16, 11, 203]), "Service default/nginx1".to_owned())].into();
        assign(requests, &pools, &foreign)
    }

    #[test]
    fn ids_and_addresses_are_each_given_once_and_kept() {
        let mut requests = vec![request("a", 2), request("b", 1)];
        let first = run(&requests);
        for request in &mut requests {
            let given = first[&request.name].clone().unwrap();
            (request.id, request.address) = (Some(given.id), Some(given.address));
        }
        requests.push(request("0-first-by-name", 0));
        let second = run(&requests);
        assert_eq!((&first["a"], &first["b"]), (&second["a"], &second["b"]));
        let distinct: BTreeSet<_> = second.values().map(|one| one.clone().unwrap().address).collect();
        assert_eq!(distinct.len(), 3);
    }

    #[test]
    fn after_a_restore_that_doubled_an_id_the_older_keeps_it() {
        let id = EgressId::new(7);
        let requests = [Request { id, ..request("young", 9) }, Request { id, ..request("old", 1) }];
        let given = run(&requests);
        assert_eq!(given["old"].as_ref().unwrap().id, id.unwrap());
        assert_ne!(given["young"].as_ref().unwrap().id, id.unwrap());
    }

    #[test]
    fn what_cannot_be_assigned_says_why() {
        let wanted = |name: &str, address: &str| Request { wanted: Some(address.into()), ..request(name, 0) };
        let requests = [
            wanted("outside", "10.0.0.1"),
            wanted("rubbish", "zehn"),
            wanted("v6", "fd00::1"),
            wanted("vip", "172.16.11.203"),
            Request { pool: Some("no-such".into()), ..request("poolless", 0) },
            wanted("good", "172.16.11.201"),
        ];
        let given = run(&requests);
        let reason = |name: &str| given[name].as_ref().err().map(Refusal::reason);
        assert_eq!(reason("outside"), Some("AddressOutsidePool"));
        assert_eq!(reason("rubbish"), Some("AddressInvalid"));
        assert_eq!(reason("v6"), Some("AddressInvalid"));
        assert_eq!(reason("vip"), Some("AddressInUse"));
        assert_eq!(reason("poolless"), Some("UnknownPool"));
        assert_eq!(reason("good"), None);
    }
}
