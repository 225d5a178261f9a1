//! Label selectors (`meta/v1.LabelSelector`) into core's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use portolan_core::labels::{Operator, Requirement, Selector};

use crate::Invalid;

/// A selector as core knows it.
///
/// # Errors
/// When an expression has an operator that Kubernetes does not define.
pub fn selector(field: &str, from: &LabelSelector) -> Result<Selector, Invalid> {
    let mut match_expressions = Vec::new();
    for expression in from.match_expressions.iter().flatten() {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                return Err(Invalid::new(field, other, "use In, NotIn, Exists or DoesNotExist"));
            }
        };
        let values = expression.values.iter().flatten().cloned().collect();
        match_expressions.push(Requirement { key: expression.key.clone(), operator, values });
    }
    Ok(Selector { match_labels: from.match_labels.clone().unwrap_or_default(), match_expressions })
}
