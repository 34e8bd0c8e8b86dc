//! Tells a complete JPEG file from one that was cut off.
//!
//! Takes the bytes of a file; gives the reason why they are not a complete JPEG, if they are not. The decoder fills what is
//! missing with grey and reports success, which would train on half-grey images unnoticed. Decoding is left to `picture`.

const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;
const TEMPORARY: u8 = 0x01;

/// Whether the bytes begin as a JPEG file does.
pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, START_OF_IMAGE])
}

/// Follows the marker segments (ITU T.81, annex B) to the end-of-image marker. Bytes after it are allowed.
///
/// A search for the two bytes of the marker would not do: embedded thumbnails have one of their own.
pub(super) fn check_complete(bytes: &[u8]) -> Result<(), String> {
    let mut at = 2;
    loop {
        let marker;
        (marker, at) = next_marker(bytes, at).ok_or_else(|| cut_off(bytes, "before its end marker"))?;
        match marker {
            END_OF_IMAGE => return Ok(()),
            TEMPORARY | 0xd0..=START_OF_IMAGE => {}
            _ => {
                let length = match bytes.get(at..at + 2) {
                    Some(pair) => usize::from(u16::from_be_bytes([pair[0], pair[1]])),
                    None => return Err(cut_off(bytes, "within its header")),
                };
                at += length;
                if at > bytes.len() {
                    return Err(cut_off(bytes, "within its header"));
                }
                if marker == START_OF_SCAN {
                    at = end_of_scan(bytes, at).ok_or_else(|| cut_off(bytes, "within the image data"))?;
                }
            }
        }
    }
}

fn cut_off(bytes: &[u8], place: &str) -> String {
    format!("truncated JPEG, the file ends after {} bytes {place}", bytes.len())
}

/// The next marker at or after `at`, and the position behind it. Fill bytes and stray bytes are skipped, as decoders do.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|&b| b == 0xff)? + 1;
        match *bytes.get(at)? {
            0x00 | 0xff => {}
            marker => return Some((marker, at + 1)),
        }
    }
}

/// The position of the first marker that ends entropy-coded data: neither a stuffed zero nor a restart marker.
fn end_of_scan(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let (marker, after) = next_marker(bytes, at)?;
        if !(0xd0..=0xd7).contains(&marker) {
            return Some(after - 2);
        }
        at = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A JPEG skeleton: a header segment that contains an end marker (a thumbnail), a scan with stuffing and a restart.
    const FILE: &[u8] = &[
        0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9, 0xff, 0xda, 0, 3, 9, 1, 2, 0xff, 0, 3, 0xff, 0xd0, 4, 5,
        0xff, 0xff, 0xd9,
    ];

    #[test]
    fn a_whole_file_is_complete_with_or_without_bytes_after_it() {
        assert!(is_jpeg(FILE));
        assert_eq!(check_complete(FILE), Ok(()));
        assert_eq!(check_complete(&[FILE, b"more"].concat()), Ok(()));
    }

    #[test]
    fn a_file_cut_anywhere_is_not_complete() {
        for end in 2..FILE.len() {
            let reason = check_complete(&FILE[..end]).expect_err("a cut file");
            assert!(reason.contains("truncated"), "cut at {end}: {reason}");
        }
    }
}
