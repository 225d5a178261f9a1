//! Ranges as users write them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Range;

/// A value that is not what its field asks for. The object is named by who knows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?}: {remedy}")]
pub struct Invalid {
    /// The field, as a path from the object's root.
    pub field: String,
    /// What was written.
    pub value: String,
    /// What to write instead.
    pub remedy: String,
}

impl Invalid {
    /// A value that its field does not take.
    pub fn new(field: impl Into<String>, value: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.into(), remedy: remedy.into() }
    }
}

/// The most addresses one range may have: 2^20.
const MOST: u128 = 1 << 20;

/// A range from a CIDR, or from start and end.
///
/// # Errors
/// Malformed, empty, oversized (more than 2^20 addresses), of two families, or neither form or both.
pub fn range(
    field: &str,
    cidr: Option<&str>,
    start: Option<&str>,
    end: Option<&str>,
) -> Result<Range, Invalid> {
    let range = match (cidr, start, end) {
        (Some(cidr), None, None) => network(&format!("{field}.cidr"), cidr)?,
        (None, Some(start), Some(end)) => {
            let (first, last) = (ip(&format!("{field}.start"), start)?, ip(&format!("{field}.end"), end)?);
            let remedy = "start must not come after end, and both must be of one family";
            Range::new(first, last).ok_or_else(|| Invalid::new(field, format!("{start} to {end}"), remedy))?
        }
        _ => return Err(Invalid::new(field, "", "give either cidr, or start and end")),
    };
    if range.len() > MOST {
        let value = cidr.map_or_else(|| format!("{} to {}", range.first(), range.last()), str::to_owned);
        return Err(Invalid::new(field, value, format!("a range may have at most {MOST} addresses")));
    }
    Ok(range)
}

fn network(field: &str, text: &str) -> Result<Range, Invalid> {
    let net: IpNet =
        text.parse().map_err(|_| Invalid::new(field, text, "write a CIDR such as 10.20.0.0/24"))?;
    if net.trunc() != net {
        return Err(Invalid::new(
            field,
            text,
            format!("bits are set behind the prefix; did you mean {}?", net.trunc()),
        ));
    }
    Ok(Range::of(net))
}

fn ip(field: &str, text: &str) -> Result<IpAddr, Invalid> {
    text.parse().map_err(|_| Invalid::new(field, text, "write an IP address such as 10.20.0.1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_range_is_refused_with_field_value_and_remedy() {
        for (cidr, start, end, word) in [
            (Some("10.20.0.0/33"), None, None, "CIDR"),
            (Some("10.20.0.1/24"), None, None, "10.20.0.0/24"),
            (Some("10.0.0.0/8"), None, None, "at most"),
            (None, Some("10.0.0.9"), Some("10.0.0.1"), "after end"),
            (None, Some("10.0.0.9"), Some("fd00::1"), "one family"),
            (None, Some("10.0.0.9"), None, "either"),
            (Some("10.0.0.0/24"), Some("10.0.0.1"), Some("10.0.0.2"), "either"),
            (None, Some("zehn"), Some("10.0.0.1"), "IP address"),
        ] {
            let error = range("spec.ipRanges[0]", cidr, start, end).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("spec.ipRanges[0]"), "{error}");
        }
    }

    #[test]
    fn the_smallest_networks_are_ranges() {
        assert_eq!(range("f", Some("10.0.0.0/31"), None, None).unwrap().len(), 2);
        assert_eq!(range("f", Some("10.0.0.1/32"), None, None).unwrap().len(), 1);
        assert_eq!(range("f", Some("fd00::/128"), None, None).unwrap().len(), 1);
    }
}
