//! Writing a status: only where it differs, and only over the version that was looked at, so that a leader that was
//! deposed meanwhile cannot undo what its successor says.

use anyhow::{Context, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Several outcomes as one: everything has been tried, and every trouble is told.
pub fn all(outcomes: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let troubles: Vec<_> =
        outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if troubles.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(troubles.join("; "))) }
}

/// This moment, for conditions.
pub fn now() -> Time {
    Time(Timestamp::now())
}

/// Makes an object's status what it should be.
///
/// # Errors
/// What the API server says. That the object is gone is none, and a conflict means that it has changed: the next pass
/// looks again.
pub async fn write<K, S>(api: &Api<K>, object: &K, before: &S, after: &S) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    S: Serialize,
{
    let Some(change) = difference(&serde_json::to_value(before)?, &serde_json::to_value(after)?) else {
        return Ok(());
    };
    let patch = json!({ "metadata": { "resourceVersion": object.resource_version() }, "status": change });
    let name = object.name_any();
    match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("status of {} {name}", K::kind(&()))),
    }
}

/// The merge patch (RFC 7396) from one object to another, by whole fields; `None` where they are the same.
fn difference(before: &Value, after: &Value) -> Option<Value> {
    let (old, new) = (before.as_object()?, after.as_object()?);
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed =
        new.iter().filter(|(key, value)| old.get(*key) != Some(value)).map(|(k, v)| (k.clone(), v.clone()));
    let change: serde_json::Map<_, _> = gone.chain(changed).collect();
    (!change.is_empty()).then_some(Value::Object(change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_where_nothing_differs_and_what_is_gone_is_cleared() {
        let before = json!({ "egressIP": "172.16.11.200", "egressNode": "node-1" });
        assert_eq!(difference(&before, &before), None);
        let after = json!({ "egressIP": "172.16.11.201" });
        assert_eq!(
            difference(&before, &after),
            Some(json!({ "egressIP": "172.16.11.201", "egressNode": null }))
        );
    }
}
