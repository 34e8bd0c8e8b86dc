//! The built-in data set: ten classes of textured shapes, drawn from a seed.
//!
//! Takes a seed and two numbers of images; gives a [`Dataset`] of 32x32 RGB images in memory. A class is one of five shapes with
//! one of two textures. Colours, place, size, turn, phase, background and noise are random and say nothing about the class, and
//! no single pixel does: a linear model stays near chance, a small convolutional network does not. It needs no files, so that
//! every command can be tried without any.

use std::f32::consts::{PI, TAU};
use std::sync::Arc;

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Normal};
use rayon::prelude::*;

use super::image_set::Pixels;
use super::rng::{Purpose, stream};
use super::{DataError, Dataset, ImageSet, Normalise};

const SIDE: usize = 32;
const SHAPES: [Shape; 5] = [Shape::Disc, Shape::Square, Shape::Triangle, Shape::Ring, Shape::Cross];
const TEXTURES: [Texture; 2] = [Texture::Stripes, Texture::Checks];
/// Standard deviation of the noise on every colour value, of a range of 1.
const NOISE: f32 = 0.05;

/// Draws the set. Image `i` is of class `i % 10` and depends on the seed, on its set and on `i` only.
///
/// # Errors
/// [`DataError::Empty`] if one of the numbers is 0.
pub(super) fn dataset(seed: u64, train: usize, test: usize) -> Result<Dataset, DataError> {
    let classes: Vec<String> =
        (0..10).map(|class| format!("{:?}_{:?}", TEXTURES[class % 2], SHAPES[class / 2]).to_lowercase()).collect();
    let shared: Arc<[String]> = classes.clone().into();
    let draw_set = |name, sub, count: usize| {
        let mut rgb = vec![0; count * SIDE * SIDE * 3];
        rgb.par_chunks_exact_mut(SIDE * SIDE * 3).enumerate().for_each(|(i, image)| {
            let mut rng = stream(Purpose::Synthetic, seed, sub, i as u64, 0);
            draw(SHAPES[i % 10 / 2], TEXTURES[i % 2], &mut rng, image);
        });
        let normalise = Normalise::measure(&rgb);
        let labels = (0..count).map(|i| (i % 10) as u32).collect();
        let set = ImageSet::new(name, shared.clone(), labels, Pixels::Memory { size: [SIDE; 2], rgb })?;
        Ok((set, normalise))
    };
    let (train, Normalise { mean, std }) = draw_set("training", 0, train)?;
    let (test, _) = draw_set("test", 1, test)?;
    Ok(Dataset { name: "synthetic".into(), classes, train, test, mean, std, image_size: [SIDE; 2] })
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Disc,
    Square,
    Triangle,
    Ring,
    Cross,
}

impl Shape {
    /// Signed distance from the outline at a point, negative inside, in units in which the shape is about 2 across.
    fn distance(self, [x, y]: [f32; 2]) -> f32 {
        let radius = x.hypot(y);
        let bar = |a: f32, b: f32| (x.abs() - a).max(y.abs() - b);
        match self {
            Shape::Disc => radius - 0.95,
            Shape::Square => bar(0.85, 0.85),
            Shape::Triangle => {
                let sides = [0.0, TAU / 3.0, -TAU / 3.0].map(|angle| x * angle.sin() + y * angle.cos());
                sides[0].max(sides[1]).max(sides[2]) - 0.6
            }
            Shape::Ring => (radius - 0.72).abs() - 0.3,
            Shape::Cross => bar(1.1, 0.36).min(bar(0.36, 1.1)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Texture {
    Stripes,
    Checks,
}

impl Texture {
    /// The share of the second colour, 0 to 1, where the two waves of the pattern have the phases `u` and `v`.
    fn mix(self, u: f32, v: f32) -> f32 {
        let wave = match self {
            Texture::Stripes => u.sin(),
            Texture::Checks => u.sin() * v.sin() * 1.5,
        };
        (0.5 + 1.5 * wave).clamp(0.0, 1.0)
    }
}

fn draw(shape: Shape, texture: Texture, rng: &mut impl Rng, image: &mut [u8]) {
    let noise = Normal::new(0.0, NOISE).expect("the deviation is a positive constant");
    let radius = rng.random_range(8.0..12.0f32);
    let centre = [0; 2].map(|_| rng.random_range(radius - 1.0..SIDE as f32 - radius + 1.0));
    let turn = rng.random_range(0.0..TAU);
    let pattern_turn = rng.random_range(0.0..PI);
    let phases = [0; 2].map(|_| rng.random_range(0.0..TAU));
    let frequency = TAU / rng.random_range(4.5..6.5f32);
    let background = colour(rng);
    let tilt = [0; 3].map(|_| [0; 2].map(|_| rng.random_range(-0.006..0.006f32)));
    let first = far_colour(rng, &[background], 0.35);
    let second = far_colour(rng, &[background, first], 0.45);

    for (i, pixel) in image.chunks_exact_mut(3).enumerate() {
        let at = [(i % SIDE) as f32 + 0.5, (i / SIDE) as f32 + 0.5];
        let offset = [at[0] - centre[0], at[1] - centre[1]];
        let [x, y] = turned(offset, turn);
        // One pixel of transition at the outline.
        let cover = (0.5 - shape.distance([x / radius, y / radius]) * radius).clamp(0.0, 1.0);
        let [u, v] = turned(offset, pattern_turn);
        let mix = texture.mix(u * frequency + phases[0], v * frequency + phases[1]);
        for (c, value) in pixel.iter_mut().enumerate() {
            let ground = background[c] + tilt[c][0] * (at[0] - 16.0) + tilt[c][1] * (at[1] - 16.0);
            let figure = first[c] + (second[c] - first[c]) * mix;
            let value_here = ground + (figure - ground) * cover + noise.sample(rng);
            // A float-to-integer cast saturates.
            *value = (value_here * 255.0 + 0.5) as u8;
        }
    }
}

fn turned([x, y]: [f32; 2], angle: f32) -> [f32; 2] {
    let (sin, cos) = angle.sin_cos();
    [x * cos + y * sin, y * cos - x * sin]
}

fn colour(rng: &mut impl Rng) -> [f32; 3] {
    [0; 3].map(|_| rng.random_range(0.0..1.0))
}

/// A colour at least `distance` from the others; if twenty draws give none, the last.
fn far_colour(rng: &mut impl Rng, others: &[[f32; 3]], distance: f32) -> [f32; 3] {
    let apart = |a: &[f32; 3], b: &[f32; 3]| (0..3).map(|c| (a[c] - b[c]).powi(2)).sum::<f32>().sqrt();
    let mut drawn = colour(rng);
    for _ in 0..20 {
        if others.iter().all(|other| apart(&drawn, other) >= distance) {
            break;
        }
        drawn = colour(rng);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(set: &ImageSet, i: usize) -> Vec<u8> {
        set.picture(i).unwrap().rgb.into_owned()
    }

    #[test]
    fn the_seed_decides_everything_and_the_sets_differ() {
        let (a, b, c) = (dataset(1, 40, 20).unwrap(), dataset(1, 30, 20).unwrap(), dataset(2, 40, 20).unwrap());
        for i in 0..30 {
            assert_eq!(bytes(&a.train, i), bytes(&b.train, i), "more images do not change the first ones");
            assert_ne!(bytes(&a.train, i), bytes(&c.train, i));
        }
        assert_ne!(bytes(&a.train, 0), bytes(&a.test, 0));
        assert_eq!(a.train.class_counts(), [4; 10]);
        assert_eq!((a.classes[0].as_str(), a.classes[9].as_str()), ("stripes_disc", "checks_cross"));
        assert!(matches!(dataset(1, 10, 0), Err(DataError::Empty { set }) if set == "test"));
    }

    #[test]
    fn shapes_are_inside_at_most_1_2_and_cover_similar_areas() {
        for shape in SHAPES {
            let grid = |i: usize| (i as f32 + 0.5) / 50.0 - 1.5;
            let inside: Vec<[f32; 2]> =
                (0..150 * 150).map(|i| [grid(i % 150), grid(i / 150)]).filter(|&p| shape.distance(p) < 0.0).collect();
            let area = inside.len() as f32 / 2500.0;
            assert!((1.2..3.0).contains(&area), "{shape:?} covers {area}");
            assert!(inside.iter().all(|[x, y]| x.hypot(*y) < 1.21), "{shape:?}");
        }
    }

    /// Softmax regression on the normalised pixels, by stochastic gradient descent.
    #[test]
    fn a_linear_model_stays_near_chance() {
        const INPUTS: usize = SIDE * SIDE * 3;
        let data = dataset(5, 4000, 1000).unwrap();
        let table = data.normalise().table();
        let input = |set: &ImageSet, i: usize| -> Vec<f32> {
            bytes(set, i).iter().enumerate().map(|(j, &v)| table[j % 3][usize::from(v)]).collect()
        };
        let mut weights = vec![[0f32; 10]; INPUTS + 1];
        let logits = |weights: &[[f32; 10]], x: &[f32]| {
            let mut sums = weights[INPUTS];
            for (x, row) in x.iter().zip(weights) {
                sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += x * w);
            }
            sums
        };
        for epoch in 0..5 {
            let rate = 1e-3 / (1.0 + epoch as f32);
            for i in 0..data.train.len() {
                let x = input(&data.train, i);
                let scores = logits(&weights, &x);
                let high = scores.iter().copied().fold(f32::MIN, f32::max);
                let powers = scores.map(|s| (s - high).exp());
                let total: f32 = powers.iter().sum();
                for (class, power) in powers.iter().enumerate() {
                    let slope = rate * (power / total - f32::from(i % 10 == class));
                    x.iter().zip(&mut weights).for_each(|(x, row)| row[class] -= slope * x);
                    weights[INPUTS][class] -= slope;
                }
            }
        }
        let accuracy = |set: &ImageSet| {
            let right = (0..set.len()).filter(|&i| {
                let scores = logits(&weights, &input(set, i));
                (0..10).all(|class| scores[class] <= scores[i % 10])
            });
            right.count() as f64 / set.len() as f64
        };
        let (train, test) = (accuracy(&data.train), accuracy(&data.test));
        assert!(train > 0.12, "the model fits its training images a little: {train}");
        assert!(test < 0.35, "test accuracy of a linear model: {test}");
        println!("linear model: {train} on the training images, {test} on the test images");
    }
}
