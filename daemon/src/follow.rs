//! Following one kind of the API server: a store that a task keeps current, for as long as the process lives.
//!
//! The task repairs its watch with backoff, says so once a minute at most, and calls back at every change. What no one
//! reads (managed fields, and what [`follow_part`]'s caller takes out) is not kept.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::flood::Flood;
use crate::tasks::Tasks;

/// The same trouble is told this often.
const SAME_TROUBLE: Duration = Duration::from_secs(60);

/// Follows a kind. `name` is the task's, and stands in the log.
pub fn follow<K>(
    client: &Client,
    config: watcher::Config,
    tasks: &mut Tasks,
    name: &'static str,
    changed: impl Fn() + Send + Sync + 'static,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    follow_part(client, config, tasks, name, |_| {}, changed)
}

/// Follows a kind and keeps of each object what `keep` leaves of it.
pub fn follow_part<K>(
    client: &Client,
    config: watcher::Config,
    tasks: &mut Tasks,
    name: &'static str,
    keep: impl Fn(&mut K) + Send + Sync + 'static,
    changed: impl Fn() + Send + Sync + 'static,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let api = Api::<K>::all(client.clone());
    tasks.spawn(name, async move {
        let mut flood = Flood::new(SAME_TROUBLE);
        let stream = watcher(api, config)
            .default_backoff()
            .modify(move |object| {
                object.managed_fields_mut().clear();
                keep(object);
            })
            .reflect(writer)
            .inspect_err(|error| {
                if let Some(repeated) = flood.admit(&error.to_string(), Instant::now()) {
                    tracing::warn!(%error, repeated, "{name} is interrupted and will be repeated");
                }
            });
        stream.for_each(|_| async { changed() }).await;
    });
    reader
}
