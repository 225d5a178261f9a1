//! Network configurations as runtimes hand them to plugins.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// Versions of the specification that this program knows, oldest first.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A configuration list, in memory.
#[derive(Debug, Clone)]
pub struct List {
    /// Its `plugins`, each with the list's name.
    pub plugins: Vec<Config>,
}

/// The configuration of one plugin: what its standard input is made from.
#[derive(Debug, Clone)]
pub struct Config(Map<String, Value>);

impl List {
    /// Reads a list, or a configuration of one plugin, which is a list of one.
    ///
    /// # Errors
    /// Names the file, and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let whole: Map<String, Value> = serde_json::from_str(text).context("not a JSON object")?;
        let name = whole.get("name").and_then(Value::as_str).context("it has no name")?.to_owned();
        let Some(plugins) = whole.get("plugins") else {
            return Ok(Self { plugins: vec![Config(whole)] });
        };
        let plugins = plugins.as_array().filter(|all| !all.is_empty()).context("plugins is no list")?;
        let plugins = plugins.iter().map(|plugin| {
            let fields = plugin.as_object().with_context(|| format!("{plugin} in plugins is no object"))?;
            Ok(Config(fields.clone()).with("name", json!(name)))
        });
        let plugins = plugins.collect::<Result<_>>()?;
        Ok(Self { plugins })
    }

    /// The first of its plugins.
    pub fn first(&self) -> Result<Config> {
        self.plugins.first().cloned().context("a list without plugins")
    }
}

impl Config {
    /// The same with another field.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// The same for a version of the specification.
    #[must_use]
    pub fn version(self, version: &str) -> Self {
        self.with("cniVersion", json!(version))
    }

    /// A field that is text.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A field that is an object.
    pub fn object(&self, name: &str) -> Option<&Map<String, Value>> {
        self.0.get(name).and_then(Value::as_object)
    }

    /// Whether it declares a capability; then the runtime hands over what belongs to it.
    pub fn has_capability(&self, name: &str) -> bool {
        self.0.get("capabilities").and_then(|all| all.get(name)) == Some(&Value::Bool(true))
    }

    /// What a plugin reads. `capabilities` is the runtime's and never sent (rule 5).
    pub fn stdin(&self) -> String {
        let sent: Map<_, _> = self
            .0
            .iter()
            .filter(|(name, _)| *name != "capabilities")
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        Value::Object(sent).to_string()
    }
}

/// A version, so that it can be compared; what is none comes before all.
pub fn number(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or_default());
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_its_name_to_its_plugins_and_one_plugin_is_a_list() {
        let list = List::parse(
            r#"{"name":"n","plugins":[{"type":"a","capabilities":{"portMappings":true}},{"type":"b"}]}"#,
        )
        .unwrap();
        assert_eq!(list.plugins.len(), 2);
        let first = list.first().unwrap();
        assert_eq!((first.text("name"), first.text("type")), ("n", "a"));
        assert!(first.has_capability("portMappings") && !first.has_capability("bandwidth"));
        let one = List::parse(r#"{"name":"n","type":"a","ipam":{"type":"x"}}"#).unwrap();
        assert_eq!((one.plugins.len(), one.first().unwrap().object("ipam").unwrap().len()), (1, 1));
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in ["", "[]", "{}", r#"{"name":"n","plugins":[]}"#, r#"{"name":"n","plugins":[1]}"#] {
            assert!(List::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn rule_5_capabilities_are_not_sent() {
        let list = List::parse(r#"{"name":"n","type":"a","capabilities":{"bandwidth":true}}"#).unwrap();
        let sent: Value = serde_json::from_str(&list.first().unwrap().version("1.0.0").stdin()).unwrap();
        assert_eq!(sent, json!({ "name": "n", "type": "a", "cniVersion": "1.0.0" }));
    }

    #[test]
    fn versions_are_numbers_and_not_text() {
        assert!(number("0.4.0") > number("0.3.1") && number("1.10.0") > number("1.9.0"));
        assert_eq!(number("rubbish"), (0, 0, 0));
    }
}
