//! What each operator makes of lists of integers.
//!
//! Takes the node, for its attributes and its name in messages, and the lists that it reads; gives the list that it makes, or
//! an error where that would depend on the batch in another way than as a multiple.

use super::integers::{List, Number};
use super::shaping::{Bounds, range};
use super::view::View;
use crate::onnx::OnnxError;

/// Lists in one row.
pub(super) fn concat(view: &View, lists: &[List]) -> Result<List, OnnxError> {
    view.only(&["axis"])?;
    view.axis(None, 1, false)?;
    if lists.iter().any(|list| list.scalar) {
        return Err(view.error("it joins lists, and one of its inputs is a single number"));
    }
    // A bound on the length beforehand: a node may name one list any number of times.
    let length: usize = lists.iter().map(|list| list.numbers.len()).sum();
    if length > super::constant::MAX_LIST {
        let why = format!("it makes {length} numbers; a list of sizes has at most {}", super::constant::MAX_LIST);
        return Err(view.unsupported(why));
    }
    Ok(List::row(lists.iter().flat_map(|list| list.numbers.iter().copied()).collect()))
}

/// A sum, difference, product or quotient of two lists; one of a single number counts for all of the other.
pub(super) fn pairs(view: &View, operator: &str, lists: &[List]) -> Result<List, OnnxError> {
    view.at_most(2)?;
    view.only(&[])?;
    let [a, b] = lists else { return Err(view.error("it must have two inputs")) };
    let length = match (a.numbers.len(), b.numbers.len()) {
        (n, m) if n == m || m == 1 => n,
        (1, m) => m,
        (n, m) => return Err(view.error(format!("lists of {n} and of {m} numbers do not fit each other"))),
    };
    let of = |list: &List, i: usize| list.numbers[if list.numbers.len() == 1 { 0 } else { i }];
    let numbers = (0..length).map(|i| pair(view, operator, of(a, i), of(b, i))).collect::<Result<_, _>>()?;
    Ok(List { numbers, scalar: a.scalar && b.scalar })
}

fn pair(view: &View, operator: &str, a: Number, b: Number) -> Result<Number, OnnxError> {
    let unknown =
        || view.unsupported(format!("of {a} and {b} it depends on the batch, which is known when the model runs"));
    let zero = Number::known(0);
    let (factor, batch) = match operator {
        "Add" | "Sub" => {
            let batch = match (a, b) {
                (a, b) if a.batch == b.batch => a.batch,
                (a, _) if a == zero => true,
                (_, b) if b == zero => true,
                _ => return Err(unknown()),
            };
            let sum = if operator == "Add" { i64::checked_add } else { i64::checked_sub };
            (sum(a.factor, b.factor), batch)
        }
        "Mul" => match a.batch && b.batch {
            true => return Err(unknown()),
            false => (a.factor.checked_mul(b.factor), a.batch || b.batch),
        },
        // Toward zero.
        _ if b == zero => return Err(view.error("it divides by 0")),
        _ => match (a.batch, b.batch) {
            (true, false) if a.factor.checked_rem(b.factor) == Some(0) => (a.factor.checked_div(b.factor), true),
            (false, true) if a == zero => (Some(0), false),
            (same, other) if same == other => (a.factor.checked_div(b.factor), false),
            _ => return Err(unknown()),
        },
    };
    let factor = factor.ok_or_else(|| view.unsupported(format!("of {a} and {b} it is beyond 64 bits")))?;
    Ok(if batch { Number::batches(factor) } else { Number::known(factor) })
}

/// The numbers of `list` at the places that `indices` names.
pub(super) fn gather(view: &View, list: &List, indices: &Option<List>) -> Result<List, OnnxError> {
    view.at_most(2)?;
    view.only(&["axis"])?;
    view.axis(Some(0), if list.scalar { 0 } else { 1 }, false)?;
    let known = indices.as_ref().and_then(|indices| Some((indices.known()?, indices.scalar)));
    let (places, scalar) = known.ok_or_else(|| view.unsupported("its indices must be known: a number or a list"))?;
    let pick = |place: i64| {
        let length = list.numbers.len();
        let place = if place < 0 { place.checked_add(length as i64) } else { Some(place) };
        let found = place.and_then(|i| list.numbers.get(usize::try_from(i).ok()?)).copied();
        found.ok_or_else(|| view.error(format!("an index is outside of the {length} numbers")))
    };
    Ok(List { numbers: places.into_iter().map(pick).collect::<Result<_, _>>()?, scalar })
}

/// Part of a list.
pub(super) fn slice(view: &View, list: &List, bounds: &[Bounds]) -> Result<List, OnnxError> {
    let mut numbers = list.numbers.clone();
    if bounds.len() > 1 || list.scalar {
        return Err(view.error("a list has one axis"));
    }
    for bounds in bounds {
        view.index(bounds.axis, 1, 1)?;
        let cut = range(0, numbers.len(), bounds);
        let places = (0..cut.len as isize).map(|i| cut.start as isize + i * cut.step);
        numbers = places.filter_map(|i| numbers.get(usize::try_from(i).ok()?).copied()).collect();
    }
    Ok(List::row(numbers))
}

/// A list of one number as that number, or the other way round.
pub(super) fn reshape(view: &View, list: &List, target: &[i64]) -> Result<List, OnnxError> {
    view.at_most(2)?;
    view.only(&["allowzero"])?;
    let length = list.numbers.len() as i64;
    let keeps = view.int("allowzero", 0)? == 0 && !list.scalar;
    match target {
        [] if length == 1 => Ok(List { scalar: true, ..list.clone() }),
        [n] if [-1, length].contains(n) || *n == 0 && keeps => Ok(List::row(list.numbers.clone())),
        _ => Err(view.unsupported(format!("{length} integers as {target:?}; supported are lists and single numbers"))),
    }
}

/// The product of all numbers.
pub(super) fn product(view: &View, list: &List, axes: Option<Vec<i64>>) -> Result<List, OnnxError> {
    view.only(&["axes", "keepdims", "noop_with_empty_axes"])?;
    for axis in axes.into_iter().flatten() {
        view.index(axis, 1, 1)?;
    }
    if view.int("noop_with_empty_axes", 0)? != 0 {
        return Err(view.unsupported("attribute `noop_with_empty_axes` is not supported"));
    }
    let factors = list.numbers.iter();
    let number = factors.copied().try_fold(Number::known(1), |all, n| pair(view, "Mul", all, n))?;
    Ok(List { numbers: vec![number], scalar: list.scalar || view.int("keepdims", 1)? == 0 })
}

/// A list of one number as that number.
pub(super) fn squeeze(view: &View, list: List, axes: Option<Vec<i64>>) -> Result<List, OnnxError> {
    view.at_most(2)?;
    view.only(&["axes"])?;
    let named = axes.is_some_and(|axes| !axes.is_empty());
    match list.numbers.len() {
        1 => Ok(List { scalar: true, ..list }),
        // Without axes only those of size 1 vanish.
        _ if !named => Ok(list),
        n => Err(view.error(format!("it takes away an axis of {n} numbers"))),
    }
}

/// A number as a list of one; a list becomes a matrix, which is none of ours.
pub(super) fn unsqueeze(view: &View, list: &List, axes: Option<Vec<i64>>) -> Result<Option<List>, OnnxError> {
    view.at_most(2)?;
    view.only(&["axes"])?;
    match axes.as_deref() {
        Some([axis]) if list.scalar => {
            view.index(*axis, 1, 1)?;
            Ok(Some(List::row(list.numbers.clone())))
        }
        _ => Ok(None),
    }
}
