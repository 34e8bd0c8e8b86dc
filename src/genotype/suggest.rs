//! "Did you mean": the known name that is nearest to a misspelt one.
//!
//! Takes a name and the known ones, gives the nearest if it is near enough to be a slip of the
//! pen. The wording around it is left to the error that uses it.

/// The candidate with the fewest edits from `name`, if at most a third of the letters differ.
///
/// Case and the choice of `-` or `_` do not count. Of equally near candidates the first wins.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = folded(name);
    let (distance, limit, best) = candidates
        .into_iter()
        .map(|candidate| {
            let other = folded(candidate);
            let limit = (name.len().max(other.len()) / 3).max(1);
            (distance(&name, &other), limit, candidate)
        })
        .min_by_key(|(distance, ..)| *distance)?;
    (distance <= limit).then_some(best)
}

/// What an error message adds to a name that is wrong: ` (did you mean ...?)` or nothing.
pub(super) fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

fn folded(name: &str) -> Vec<char> {
    let lower = name.chars().flat_map(char::to_lowercase);
    lower.map(|c| if c == '-' { '_' } else { c }).collect()
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substituted = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substituted.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_edits_and_swaps() {
        for (a, b, expected) in
            [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("input", "inptu", 1), ("op", "opp", 1)]
        {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            assert_eq!(distance(&chars(a), &chars(b)), expected, "{a} {b}");
            assert_eq!(distance(&chars(b), &chars(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_a_slip_of_the_pen_is_corrected() {
        let known = ["max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "skip_connect"];
        for (name, expected) in [
            ("sep_conv3x3", Some("sep_conv_3x3")),
            ("Sep-Conv-5x5", Some("sep_conv_5x5")),
            ("sepconv_9x9", Some("sep_conv_3x3")),
            ("skip", None),
            ("", None),
            ("zero", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
    }
}
