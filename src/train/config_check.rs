//! Checks that several configurations make of their values.
//!
//! Takes a key and its value; gives a [`Fault`] if the value makes no sense. Where the value was given is added by
//! [`super::config_merge::Layers::blame`].

use super::config_merge::Fault;

/// Whether the upper end of a range belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It does.
    Included,
    /// It does not.
    Excluded,
}

/// The fault that `key` is `found`, but `rule`.
pub fn fault(key: &'static str, found: impl ToString, rule: impl Into<String>) -> Fault {
    Fault { key, found: found.to_string(), rule: rule.into() }
}

/// Checks that none of the counts is 0.
///
/// # Errors
/// One is; the first such.
pub fn above_zero(counts: impl IntoIterator<Item = (&'static str, usize)>) -> Result<(), Fault> {
    match counts.into_iter().find(|(_, count)| *count == 0) {
        Some((key, count)) => Err(fault(key, count, "it must be at least 1")),
        None => Ok(()),
    }
}

/// As [`above_zero`], of counts that may be absent.
///
/// # Errors
/// One is 0; the first such.
pub fn absent_or_above_zero(counts: impl IntoIterator<Item = (&'static str, Option<usize>)>) -> Result<(), Fault> {
    above_zero(counts.into_iter().filter_map(|(key, count)| Some((key, count?))))
}

/// Checks that a value is finite and above 0.
///
/// # Errors
/// It is not.
pub fn positive(key: &'static str, value: f64) -> Result<(), Fault> {
    if value > 0.0 && value.is_finite() { Ok(()) } else { Err(fault(key, value, "it must be above 0 and finite")) }
}

/// Checks that a value is between `low` and `high`; [`f64::MAX`] stands for no limit.
///
/// # Errors
/// It is not.
pub fn within(key: &'static str, value: f64, low: f64, high: f64, end: End) -> Result<(), Fault> {
    if (low..=high).contains(&value) && (end == End::Included || value < high) {
        return Ok(());
    }
    let rule = match end {
        _ if high == f64::MAX => format!("it must be {low} or more, and finite"),
        End::Included => format!("it must be between {low} and {high}"),
        End::Excluded => format!("it must be {low} or more and below {high}"),
    };
    Err(fault(key, value, rule))
}
