//! Max pooling over a mirrored border.
//!
//! Takes a window and the size of an image; says whether padding by reflection gives the maxima that padding with minus infinity
//! gives. It does where every window that reaches into the border also holds the pixels that the border mirrors: then it adds
//! nothing to their maximum. Writer and reader use it for runtimes whose pools have no padding of their own.

use crate::ir::Window;

/// Whether the border of `window` around an image of `size` may be a mirror.
pub(super) fn is_exact(window: &Window, size: [usize; 2]) -> bool {
    !window.ceil
        && (0..2).all(|axis| {
            let border = window.padding[axis].max(window.padding[axis + 2]);
            // From the border's outermost pixel to the one that it mirrors it is twice the border.
            border == 0 || window.dilation[axis] == 1 && window.kernel[axis] > 2 * border && size[axis] > border
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maxima along a row, with the border mirrored or left out.
    fn maxima(row: &[i32], window: &Window, mirrored: bool) -> Vec<i32> {
        let n = row.len() as i64;
        let at = |i: i64| match i {
            i if (0..n).contains(&i) => Some(row[i as usize]),
            _ if !mirrored => None,
            i if i < 0 => row.get(-i as usize).copied(),
            i => usize::try_from(2 * (n - 1) - i).ok().and_then(|i| row.get(i).copied()),
        };
        let first = |out: usize| (out * window.stride[1]) as i64 - window.padding[1] as i64;
        let taps = |out| (0..window.kernel[1]).filter_map(move |k| at(first(out) + (k * window.dilation[1]) as i64));
        let outputs = window.output(row.len(), 1).unwrap_or(0);
        (0..outputs).map(|out| taps(out).max().unwrap_or(i32::MIN)).collect()
    }

    #[test]
    fn a_mirror_changes_no_maximum_where_it_is_exact() {
        let mut exact = 0;
        for case in 0..2 * 5 * 3 * 3 * 3 * 8 {
            let mut rest = case;
            let mut choose = |n: usize| {
                let chosen = rest % n;
                rest /= n;
                chosen
            };
            let (dilation, kernel, stride) = (1 + choose(2), 1 + choose(5), 1 + choose(3));
            let (before, behind, n) = (choose(3), choose(3), 1 + choose(8));
            let padding = [0, before, 0, behind];
            let window =
                Window { kernel: [1, kernel], stride: [1, stride], padding, dilation: [1, dilation], ceil: false };
            if !is_exact(&window, [1, n]) {
                continue;
            }
            exact += 1;
            for seed in 0..20i64 {
                let row: Vec<i32> = (0..n as i64).map(|i| ((i + 1) * (seed + 3) * 7919 % 101) as i32 - 50).collect();
                assert_eq!(maxima(&row, &window, true), maxima(&row, &window, false), "{window:?} of {n}");
            }
        }
        assert!(exact > 300, "{exact}");
    }

    #[test]
    fn a_border_wider_than_half_the_window_is_no_mirror() {
        let pool = |kernel, border| Window::new([kernel; 2], [1; 2], [border; 2], [1; 2]);
        for (window, size, expected) in [
            (pool(3, 1), [2, 2], true),
            (pool(2, 1), [8, 8], false),
            (pool(5, 2), [3, 3], true),
            (pool(5, 2), [8, 2], false),
            (pool(3, 0), [1, 1], true),
            (Window { ceil: true, ..pool(3, 1) }, [8, 8], false),
            (Window { dilation: [2, 2], ..pool(3, 1) }, [8, 8], false),
        ] {
            assert_eq!(is_exact(&window, size), expected, "{window:?} of {size:?}");
        }
    }
}
