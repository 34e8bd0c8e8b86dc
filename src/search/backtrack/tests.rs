//! Tests of backtracking: reference values, and what must hold for any values.

use serde::Deserialize;

use super::*;
use crate::search::reference::file;

#[derive(Deserialize)]
struct Case {
    alpha: Vec<Vec<f64>>,
    alpha_after_adam: Vec<Vec<f64>>,
    beta: Vec<f64>,
    beta_after_adam: Vec<f64>,
    grad_beta: Vec<f64>,
    zeta: usize,
    eta1: f64,
    eta2: f64,
    reading: Reading,
    eta_mode: Eta,
    order: Order,
    sign: f64,
    backtracked_edges: Vec<usize>,
    capped: usize,
    alpha_hat: Vec<Vec<f64>>,
}

impl Case {
    fn settings(&self) -> Backtracking {
        let sign = if self.sign > 0.0 { Sign::Ascent } else { Sign::Descent };
        Backtracking {
            eta2: self.eta2,
            reading: self.reading,
            eta: self.eta_mode,
            order: self.order,
            sign,
            ..published()
        }
    }
}

#[test]
fn the_reference_values_are_met() {
    let Some(path) = file("IDARTS_BACKTRACK", "backtrack.json", "") else { return };
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    for (i, case) in cases.iter().enumerate() {
        let (alpha, alpha_after, expected) =
            (case.alpha.concat(), case.alpha_after_adam.concat(), case.alpha_hat.concat());
        let around = Around {
            alpha: &alpha,
            alpha_after: &alpha_after,
            beta: &case.beta,
            beta_after: &case.beta_after_adam,
            beta_gradient: &case.grad_beta,
        };
        let settings = case.settings();
        let found = settings.moves(ArchShape::DARTS, case.zeta, case.eta1, around);
        assert_eq!((&found.edges, found.capped), (&case.backtracked_edges, case.capped), "case {i}");
        for (m, expected) in expected.iter().enumerate() {
            let alpha_hat = alpha_after[m] + found.moves[m];
            assert!(close(alpha_hat, *expected, 1e-6), "case {i}, value {m}: {alpha_hat} instead of {expected}");
            // The moves are much smaller than alpha, so they are compared on their own too.
            let step = expected - alpha_after[m];
            assert!((found.moves[m] - step).abs() < 1e-14, "case {i}, move {m}: {} instead of {step}", found.moves[m]);
        }
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let before = CellValues { alpha: narrow(&alpha), beta: narrow(&case.beta) };
        let mut after = CellValues { alpha: narrow(&alpha_after), beta: narrow(&case.beta_after_adam) };
        settings.apply(ArchShape::DARTS, case.zeta, case.eta1, &before, &mut after, &narrow(&case.grad_beta));
        for (m, expected) in expected.iter().enumerate() {
            let found = f64::from(after.alpha[m]);
            assert!((found - expected).abs() < 1e-7, "case {i} in float32, value {m}: {found} instead of {expected}");
        }
    }
}

#[test]
fn zeta_grows_from_the_start_as_published() {
    let zetas =
        |settings: &Backtracking, epochs: usize| (0..epochs).map(|t| settings.zeta(t, 50, 14)).collect::<Vec<_>>();
    let cifar = published();
    let mut expected = vec![0; 30];
    [(1, 5), (2, 5), (3, 5), (4, 4), (5, 1)].iter().for_each(|&(zeta, times)| expected.extend(vec![zeta; times]));
    assert_eq!(zetas(&cifar, 50), expected);
    let imagenet = Backtracking { start: 40, lambda: 0.05, ..published() };
    assert_eq!(zetas(&imagenet, 50)[39..], [0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 6]);
    for (settings, start, zeta) in [(cifar, 25, 5), (imagenet, 40, 7)] {
        let constant = Backtracking { zeta: Zeta::Constant, ..settings };
        assert_eq!(zetas(&constant, 50), [vec![0; start], vec![zeta; 50 - start]].concat());
    }
}

#[test]
fn zeta_is_never_more_than_all_edges() {
    for zeta in [Zeta::Growing, Zeta::Constant] {
        let settings = Backtracking { lambda: 1e30, zeta, ..published() };
        assert_eq!(settings.zeta(49, 50, 14), 14, "{zeta:?}");
        assert_eq!(Backtracking { start: 60, ..settings }.zeta(70, 50, 14), if zeta == Zeta::Growing { 14 } else { 0 });
    }
}

#[test]
fn without_eta2_or_zeta_every_bit_stays() {
    for settings in all_settings() {
        for (eta2, zeta) in [(0.0, 14), (0.04, 0), (0.0, 0)] {
            let (before, after, gradient) = example(1);
            let mut moved = after.clone();
            let settings = Backtracking { eta2, ..settings.clone() };
            let found = settings.apply(ArchShape::DARTS, zeta, 6e-4, &before, &mut moved, &gradient);
            assert_eq!(bits(&moved), bits(&after), "{settings:?}");
            assert_eq!((found.edges.len(), found.move_norm, found.capped), (zeta, 0.0, 0));
        }
    }
}

#[test]
fn edges_that_are_not_selected_and_beta_keep_every_bit() {
    for settings in all_settings() {
        let (before, after, gradient) = example(2);
        let mut moved = after.clone();
        let found = settings.apply(ArchShape::DARTS, 5, 6e-4, &before, &mut moved, &gradient);
        assert_eq!(found.edges.len(), 5);
        assert_eq!(moved.beta, after.beta);
        for edge in 0..14 {
            let same = moved.alpha[edge * 8..][..8].iter().zip(&after.alpha[edge * 8..][..8]);
            let same = same.filter(|(x, y)| x.to_bits() == y.to_bits()).count();
            assert_eq!(same == 8, !found.edges.contains(&edge), "edge {edge} with {settings:?}");
        }
    }
}

#[test]
fn with_one_primitive_both_readings_agree() {
    let shape = ArchShape::new(4, 1, None).unwrap();
    let (before, after, gradient) = example(3);
    let (before, after) = (one_primitive(&before), one_primitive(&after));
    let around =
        Around { beta_gradient: &gradient.iter().map(|&g| f64::from(g)).collect::<Vec<_>>(), ..before.to(&after) };
    for alpha in [Alpha::Raw, Alpha::Softmax] {
        let moves = |reading| Backtracking { reading, alpha, ..published() }.moves(shape, 14, 6e-4, around).moves;
        for (edge, element) in moves(Reading::Edge).iter().zip(moves(Reading::Element)) {
            assert!(close(*edge, element, 1e-12) && element != 0.0, "{alpha:?}: {edge} and {element}");
        }
    }
}

#[test]
fn the_element_reading_is_eta_times_gradient_times_ratio() {
    // Ratios of 0.5, -0.25, of a change near 0 (guarded: 2e-6 / 1e-5) and of one that is clamped to -1.
    let after = [0.104, 0.192, 0.3 + 1e-9, 0.4 - 1e-3];
    let changes = [0.002, 0.002, 2e-6, 0.002];
    let shape = ArchShape::new(1, 2, None).unwrap();
    let expected = [0.5, -0.25, 0.2, -2e-6 / 1e-3];
    let around = Around {
        alpha: &[0.1, 0.2, 0.3, 0.4],
        alpha_after: &after,
        beta: &[0.0, 0.0],
        beta_after: &[changes[0], changes[2]],
        beta_gradient: &[0.03, -0.07],
    };
    for (sign, factor) in [(Sign::Ascent, 1.0), (Sign::Descent, -1.0)] {
        let settings = Backtracking { reading: Reading::Element, sign, ..published() };
        let found = settings.moves(shape, 2, 6e-4, around);
        for (m, (found, ratio)) in found.moves.iter().zip(expected).enumerate() {
            let expected = factor * 6e-4 * 0.04 * around.beta_gradient[m / 2] * ratio;
            assert!(close(*found, expected, 1e-9), "move {m}: {found} instead of {expected}");
        }
    }
    let clamped = Around { beta_after: &[0.02, -0.02], ..around };
    let found = Backtracking { reading: Reading::Element, eta: Eta::Eta2, cap: false, ..published() };
    let found = found.moves(shape, 2, 6e-4, clamped).moves;
    for (found, expected) in found.iter().zip([0.0012, -0.0012, 0.0028, -0.0028]) {
        assert!(close(*found, expected, 1e-9), "{found} instead of {expected}");
    }
}

#[test]
fn the_softmaxed_alpha_divides_and_multiplies_in_the_edge_reading() {
    let shape = ArchShape::new(1, 2, None).unwrap();
    // Softmaxed 1/4 and 3/4 on both edges; the ratios are 1/2 and 1.
    let around = Around {
        alpha: &[0.0, 3f64.ln(), 0.0, 3f64.ln()],
        alpha_after: &[0.04, 3f64.ln() + 0.02, 0.0, 3f64.ln()],
        beta: &[0.0, 0.5],
        beta_after: &[0.02, 0.5],
        beta_gradient: &[0.1, 0.1],
    };
    let settings = Backtracking { alpha: Alpha::Softmax, eta: Eta::Eta2, cap: false, ..published() };
    let gamma = 0.1 * (0.5 / 0.25 + 1.0 / 0.75);
    for (found, expected) in settings.moves(shape, 2, 6e-4, around).moves.iter().zip([0.25, 0.75, 0.0, 0.0]) {
        let expected = 0.04 * gamma * expected;
        assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
    }
}

#[test]
fn ranking_goes_by_size_with_ties_to_the_lower_index() {
    let beta = [0.3, -0.3, -0.1, 0.1, 0.0];
    let shape = ArchShape::new(2, 1, None).unwrap();
    for (order, rank, zeta, expected) in [
        (Order::Ascending, Rank::Raw, 1, vec![4]),
        (Order::Ascending, Rank::Raw, 2, vec![2, 4]),
        (Order::Ascending, Rank::Raw, 4, vec![0, 2, 3, 4]),
        (Order::Descending, Rank::Raw, 1, vec![0]),
        (Order::Descending, Rank::Raw, 3, vec![0, 1, 2]),
        // Softmaxed: 0.65 and 0.35 into the first node; 0.30, 0.37 and 0.33 into the second.
        (Order::Ascending, Rank::Softmax, 3, vec![1, 2, 4]),
        (Order::Descending, Rank::Softmax, 2, vec![0, 3]),
    ] {
        let settings = Backtracking { order, rank, ..published() };
        assert_eq!(settings.select(shape, zeta, &beta), expected, "{order:?} {rank:?} {zeta}");
    }
}

#[test]
fn the_cap_is_one_optimiser_step_and_can_be_lifted() {
    let (before, after, gradient) = example(4);
    let gradient: Vec<f32> = gradient.iter().map(|g| g * 1e4).collect();
    let run = |cap| {
        let settings = Backtracking { cap, reading: Reading::Element, ..published() };
        settings.apply(ArchShape::DARTS, 3, 6e-4, &before, &mut after.clone(), &gradient)
    };
    let (capped, free) = (run(true), run(false));
    let large = free.moves.iter().filter(|m| m.abs() > 6e-4).count();
    assert!(large > 0 && large == capped.capped && free.capped == 0, "{large} of {}", capped.capped);
    for (capped, free) in capped.moves.iter().zip(&free.moves) {
        assert_eq!(*capped, free.clamp(-6e-4, 6e-4));
    }
}

#[test]
fn the_norms_are_those_of_the_moves_and_of_the_steps() {
    let (before, after, gradient) = example(5);
    let found = published().apply(ArchShape::DARTS, 4, 6e-4, &before, &mut after.clone(), &gradient);
    let step = |i: usize| f64::from(after.alpha[i]) - f64::from(before.alpha[i]);
    let over =
        |keep: &dyn Fn(usize) -> bool| (0..112).filter(|i| keep(i / 8)).map(|i| step(i).powi(2)).sum::<f64>().sqrt();
    assert!(close(found.step_norm, over(&|_| true), 1e-12));
    assert!(close(found.edges_step_norm, over(&|edge| found.edges.contains(&edge)), 1e-12));
    assert!(
        close(found.move_norm, found.moves.iter().map(|m| m * m).sum::<f64>().sqrt(), 1e-12) && found.move_norm > 0.0
    );
}

#[test]
fn the_epoch_cadence_waits_for_the_last_step() {
    let due = |cadence| (0..4).map(|step| Backtracking { cadence, ..published() }.due(step, 4)).collect::<Vec<_>>();
    assert_eq!(due(Cadence::Step), [true; 4]);
    assert_eq!(due(Cadence::Epoch), [false, false, false, true]);
}

/// The settings of the CIFAR-10 preset.
pub(super) fn published() -> Backtracking {
    Backtracking {
        start: 25,
        lambda: 0.015,
        eta2: 0.04,
        zeta: Zeta::Growing,
        order: Order::Ascending,
        rank: Rank::Raw,
        reading: Reading::Edge,
        alpha: Alpha::Raw,
        eta: Eta::Product,
        sign: Sign::Ascent,
        cadence: Cadence::Step,
        ratio_limit: 1.0,
        guard: 1e-5,
        cap: true,
    }
}

/// Every combination of the switches that say what a move is.
fn all_settings() -> Vec<Backtracking> {
    let mut all = vec![published()];
    let mut double = |change: &dyn Fn(&mut Backtracking)| {
        let mut changed = all.clone();
        changed.iter_mut().for_each(change);
        all.append(&mut changed);
    };
    double(&|s| s.order = Order::Descending);
    double(&|s| s.rank = Rank::Softmax);
    double(&|s| s.reading = Reading::Element);
    double(&|s| s.alpha = Alpha::Softmax);
    double(&|s| s.eta = Eta::Eta2);
    double(&|s| s.sign = Sign::Descent);
    double(&|s| s.cap = false);
    all
}

/// Values before and after a step, and the gradient of beta. Large gradients, so that moves do not vanish in float32;
/// some zeros of both signs.
fn example(seed: u32) -> (CellValues, CellValues, Vec<f32>) {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut draw = |scale: f32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        scale * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    let mut before = CellValues::zeros(ArchShape::DARTS);
    before.alpha.iter_mut().chain(&mut before.beta).for_each(|x| *x = draw(0.05));
    let mut after = before.clone();
    after.alpha.iter_mut().chain(&mut after.beta).for_each(|x| *x += draw(6e-4));
    after.alpha.iter_mut().step_by(8).for_each(|x| *x = -0.0);
    let gradient = (0..14).map(|_| draw(1.0) + 2.0).collect();
    (before, after, gradient)
}

/// Values in float64 that own what [`Around`] borrows.
struct Wide {
    alpha: Vec<f64>,
    beta: Vec<f64>,
}

impl Wide {
    fn to<'a>(&'a self, after: &'a Wide) -> Around<'a> {
        Around {
            alpha: &self.alpha,
            alpha_after: &after.alpha,
            beta: &self.beta,
            beta_after: &after.beta,
            beta_gradient: &self.beta,
        }
    }
}

/// The second primitive of each edge: the first is zero in the example.
fn one_primitive(values: &CellValues) -> Wide {
    Wide {
        alpha: values.alpha.iter().skip(1).step_by(8).map(|&x| f64::from(x)).collect(),
        beta: values.beta.iter().map(|&x| f64::from(x)).collect(),
    }
}

fn bits(values: &CellValues) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

pub(super) fn close(found: f64, expected: f64, relative: f64) -> bool {
    (found - expected).abs() <= relative * expected.abs()
}
