//! One decoded image, and how a file becomes one.
//!
//! Takes a path or the bytes of a JPEG or PNG file; gives [`Picture`], 8-bit RGB. The kind is told from the content, not from
//! the file's ending. Alpha is dropped, grey and CMYK become RGB, 16 bits become 8. The orientation that a camera recorded is
//! applied (torchvision ignores it), so a photo is seen as a viewer shows it. Cropping and scaling are left to `augment`.

use std::borrow::Cow;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader};

use super::{DataError, jpeg};

/// An 8-bit RGB image; row-major, the three channels of a pixel side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture<'a> {
    /// In pixels.
    pub height: usize,
    /// In pixels.
    pub width: usize,
    /// `height * width * 3` bytes.
    pub rgb: Cow<'a, [u8]>,
}

impl Picture<'_> {
    /// Decodes a JPEG or PNG file.
    ///
    /// # Errors
    /// [`DataError::Missing`], [`DataError::Io`], and [`DataError::Image`] for a file that is damaged, cut off or of another kind.
    pub fn open(path: &Path) -> Result<Picture<'static>, DataError> {
        let bytes = fs::read(path).map_err(|source| DataError::io(path, source))?;
        Picture::decode(&bytes).map_err(|reason| DataError::Image { path: path.to_owned(), reason })
    }

    /// Decodes the bytes of a JPEG or PNG file.
    ///
    /// # Errors
    /// The reason, in words, why the bytes are not a complete image.
    pub fn decode(bytes: &[u8]) -> Result<Picture<'static>, String> {
        if jpeg::is_jpeg(bytes) {
            jpeg::check_complete(bytes)?;
        }
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
        if reader.format().is_none() {
            return Err(if bytes.is_empty() {
                "the file is empty".into()
            } else {
                "neither a JPEG nor a PNG image".into()
            });
        }
        let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
        let orientation = decoder.orientation().map_err(|e| e.to_string())?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
        image.apply_orientation(orientation);
        let image = image.into_rgb8();
        let [height, width] = [image.height(), image.width()].map(|side| side as usize);
        Ok(Picture { height, width, rgb: Cow::Owned(image.into_raw()) })
    }

    /// Height and width of an image file, from its header alone; camera orientation is not applied.
    ///
    /// # Errors
    /// As [`Picture::open`], except that damage behind the header goes unnoticed.
    pub fn size_of(path: &Path) -> Result<[usize; 2], DataError> {
        let fault = |reason| DataError::Image { path: path.to_owned(), reason };
        let reader = ImageReader::open(path).map_err(|source| DataError::io(path, source))?;
        let reader = reader.with_guessed_format().map_err(|source| DataError::io(path, source))?;
        let (width, height) = reader.into_dimensions().map_err(|e| fault(e.to_string()))?;
        Ok([height as usize, width as usize])
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};

    /// A smooth picture with enough in it that its JPEG file has a scan worth cutting.
    pub fn sample(height: usize, width: usize) -> Picture<'static> {
        let rgb = (0..height * width)
            .flat_map(|i| {
                let (y, x) = (i / width, i % width);
                [(x * 255 / width) as u8, (y * 255 / height) as u8, ((x * 7 + y * 3) % 256) as u8]
            })
            .collect();
        Picture { height, width, rgb: Cow::Owned(rgb) }
    }

    pub fn jpeg_of(picture: &Picture) -> Vec<u8> {
        let mut bytes = vec![];
        JpegEncoder::new_with_quality(&mut bytes, 95)
            .write_image(&picture.rgb, picture.width as u32, picture.height as u32, ExtendedColorType::Rgb8)
            .unwrap();
        bytes
    }

    pub fn png_of(picture: &Picture) -> Vec<u8> {
        let mut bytes = vec![];
        PngEncoder::new(&mut bytes)
            .write_image(&picture.rgb, picture.width as u32, picture.height as u32, ExtendedColorType::Rgb8)
            .unwrap();
        bytes
    }

    #[test]
    fn png_comes_back_exactly_and_jpeg_closely() {
        let picture = sample(24, 40);
        assert_eq!(Picture::decode(&png_of(&picture)).unwrap(), picture);
        let jpeg = Picture::decode(&jpeg_of(&picture)).unwrap();
        assert_eq!((jpeg.height, jpeg.width), (24, 40));
        let error: f64 = jpeg.rgb.iter().zip(picture.rgb.iter()).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum();
        assert!(error / (picture.rgb.len() as f64) < 8.0, "mean error {}", error / picture.rgb.len() as f64);
    }

    #[test]
    fn a_jpeg_or_png_cut_at_any_tenth_is_an_error() {
        let picture = sample(64, 64);
        let (jpeg, png) = (jpeg_of(&picture), png_of(&picture));
        assert!(Picture::decode(&jpeg[..jpeg.len() - 1]).is_err(), "the last byte is missing");
        for bytes in [jpeg, png] {
            for tenth in 0..10 {
                let cut = bytes.len() * tenth / 10;
                assert!(Picture::decode(&bytes[..cut]).is_err(), "cut to {cut} of {} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn grey_and_alpha_become_rgb() {
        let mut grey = vec![];
        PngEncoder::new(&mut grey).write_image(&[10, 200], 2, 1, ExtendedColorType::L8).unwrap();
        assert_eq!(&*Picture::decode(&grey).unwrap().rgb, [10, 10, 10, 200, 200, 200]);
        let mut alpha = vec![];
        PngEncoder::new(&mut alpha).write_image(&[1, 2, 3, 0], 1, 1, ExtendedColorType::Rgba8).unwrap();
        assert_eq!(&*Picture::decode(&alpha).unwrap().rgb, [1, 2, 3]);
    }

    #[test]
    fn the_recorded_orientation_is_applied() {
        // An Exif segment, big-endian, whose one entry says orientation 6: turn by 90 degrees clockwise.
        let exif: &[u8] = &[
            0xff, 0xe1, 0, 34, b'E', b'x', b'i', b'f', 0, 0, b'M', b'M', 0, 42, 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0, 3, 0,
            0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0,
        ];
        let bytes = jpeg_of(&sample(16, 48));
        let turned = Picture::decode(&[&bytes[..2], exif, &bytes[2..]].concat()).unwrap();
        assert_eq!((turned.height, turned.width), (48, 16));
    }

    #[test]
    fn a_text_file_and_an_empty_file_are_named_as_such() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content, expected) in
            [("a.jpg", "hello, hello, hello", "neither a JPEG nor a PNG"), ("b.png", "", "the file is empty")]
        {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            let message = Picture::open(&path).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(expected), "{message}");
        }
        let gone = folder.path().join("gone.jpg");
        assert!(matches!(Picture::open(&gone), Err(DataError::Missing { path }) if path == gone));
    }
}
