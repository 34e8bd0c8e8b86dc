//! From the configuration's words for augmentation to the recipes of `data`.
//!
//! Takes the `augmentation` section and the image size; gives the recipes for training and for evaluation.

use super::config::{Augmentation, Frame, Network};
use crate::data;

/// The recipe that training images go through; `size` is the network's input in pixels.
pub fn training(config: &Augmentation, size: [usize; 2]) -> data::Augment {
    let frame = match config.frame {
        Frame::Whole => data::Frame::Whole,
        Frame::PadCrop => data::Frame::PadCrop { pad: config.pad },
        Frame::RandomResized => data::Frame::RandomResized { size, scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] },
    };
    let colour_jitter = config.colour_jitter.map(|strengths| strengths.map(|s| s as f32));
    data::Augment { frame, flip: config.flip, colour_jitter, cutout: config.cutout }
}

/// The recipe that test images go through: the usual resize and centre crop for ImageNet networks, else the whole image,
/// resized where its size is not the network's.
pub fn evaluation(network: Network, size: [usize; 2], common: Option<[usize; 2]>) -> data::Augment {
    match network {
        _ if common == Some(size) => data::Augment::cifar_eval(),
        Network::Imagenet if size[0] == size[1] => data::Augment::imagenet_eval(size[0]),
        Network::Imagenet | Network::Cifar => data::Augment::resize_eval(size),
    }
}
