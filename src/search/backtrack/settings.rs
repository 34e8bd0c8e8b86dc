//! Every value of backtracking is a setting that does what it says.

use super::tests::{close, published};
use super::*;
use crate::search::config::SearchConfig;

#[test]
fn the_limit_of_the_ratio_and_the_guard_are_settings() {
    let shape = ArchShape::new(1, 1, None).unwrap();
    // Beta moves ten times as far as alpha on the first edge; alpha all but stands still on the second.
    let around = Around {
        alpha: &[0.5, 0.5],
        alpha_after: &[0.501, 0.5 - 1e-9],
        beta: &[0.2, 0.2],
        beta_after: &[0.21, 0.2 + 1e-4],
        beta_gradient: &[1.0, 1.0],
    };
    for (ratio_limit, guard, expected) in
        [(1.0, 1e-5, [1.0, -1.0]), (4.0, 1e-5, [4.0, -4.0]), (100.0, 1e-5, [10.0, -10.0]), (100.0, 1e-3, [10.0, -0.1])]
    {
        let settings =
            Backtracking { reading: Reading::Element, eta: Eta::Eta2, cap: false, ratio_limit, guard, ..published() };
        for (found, ratio) in settings.moves(shape, 2, 6e-4, around).moves.iter().zip(expected) {
            assert!(close(*found, 0.04 * ratio, 1e-6), "limit {ratio_limit}, guard {guard}: {found} for {ratio}");
        }
    }
    // The guard divides in the edge reading too: 1e-9 counts as 1e-5, and 0 as positive.
    for (alpha, expected) in [(1e-9, 1e-9 / 1e-5), (-1e-9, 1e-9 / 1e-5), (0.0, 0.0)] {
        let around = Around { alpha: &[alpha, 0.5], alpha_after: &[alpha + 0.001, 0.5], ..around };
        let settings = Backtracking { eta: Eta::Eta2, cap: false, ..published() };
        let found = settings.moves(shape, 2, 6e-4, around).moves[0];
        assert!((found - 0.04 * expected).abs() < 1e-12, "alpha {alpha}: {found}");
    }
}

#[test]
fn every_switch_is_a_key_of_the_configuration() {
    let read = |setting: &str| {
        let mut layers = SearchConfig::layers("cifar10").unwrap();
        layers.set(&format!("backtracking.{setting}")).unwrap();
        SearchConfig::resolved(&layers).unwrap().0.backtracking
    };
    type Change<'a> = &'a dyn Fn(&mut Backtracking);
    let cases: [(&str, Change); 20] = [
        ("zeta=growing", &|s| s.zeta = Zeta::Growing),
        ("zeta=constant", &|s| s.zeta = Zeta::Constant),
        ("order=ascending", &|s| s.order = Order::Ascending),
        ("order=descending", &|s| s.order = Order::Descending),
        ("rank=raw", &|s| s.rank = Rank::Raw),
        ("rank=softmax", &|s| s.rank = Rank::Softmax),
        ("reading=edge", &|s| s.reading = Reading::Edge),
        ("reading=element", &|s| s.reading = Reading::Element),
        ("alpha=raw", &|s| s.alpha = Alpha::Raw),
        ("alpha=softmax", &|s| s.alpha = Alpha::Softmax),
        ("eta=product", &|s| s.eta = Eta::Product),
        ("eta=eta2", &|s| s.eta = Eta::Eta2),
        ("sign=ascent", &|s| s.sign = Sign::Ascent),
        ("sign=descent", &|s| s.sign = Sign::Descent),
        ("cadence=step", &|s| s.cadence = Cadence::Step),
        ("cadence=epoch", &|s| s.cadence = Cadence::Epoch),
        ("ratio_limit=3", &|s| s.ratio_limit = 3.0),
        ("guard=1e-3", &|s| s.guard = 1e-3),
        ("cap=false", &|s| s.cap = false),
        ("eta2=0.5", &|s| s.eta2 = 0.5),
    ];
    for (setting, change) in cases {
        let mut expected = published();
        change(&mut expected);
        assert_eq!(read(setting), expected, "{setting}");
    }
}
