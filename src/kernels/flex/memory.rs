//! Memory of results and gradients, used again instead of given back to the system.
//!
//! Gives buffers of floats with anything in them, from an [arena](super::arena), and wraps filled ones for burn so that they
//! return there when the last tensor on them is dropped. A training step allocates and frees the same sizes thousands of
//! times; fresh memory costs a page fault every 4 KiB, which for a batch normalisation is four times the arithmetic. Small
//! buffers are left to the allocator.
use std::{
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use burn::tensor::Bytes;
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};

use super::arena::{Arena, Block};

/// Floats from which a buffer is worth keeping: several pages.
const WORTHWHILE: usize = 1 << 12;

static ARENA: LazyLock<Mutex<Arena>> = LazyLock::new(Mutex::default);

/// Counts buffers, to deal out places.
static BUFFERS: AtomicUsize = AtomicUsize::new(0);

/// Where buffers begin, in bytes: at a cache line, so that few vectors lie across two of them.
const ALIGNMENT: usize = 64;

/// How many places within a page buffers begin at in turn, and the floats between them. Two buffers that begin at the same
/// place make a load wait for an unrelated store at the same distance from it.
const PLACES: usize = 16;
const PLACE: usize = 4 * ALIGNMENT / size_of::<f32>();

/// Floats allocated beyond a buffer's length, to find a start among.
const SLACK: usize = ALIGNMENT / size_of::<f32>() + PLACES * PLACE;

/// A buffer of floats that starts at a cache line, and returns to the idle ones when dropped.
#[derive(Debug)]
pub struct Floats {
    all: Source,
    start: usize,
    len: usize,
}

/// Where a buffer comes from.
#[derive(Debug)]
enum Source {
    /// The allocator.
    Own(Vec<f32>),
    /// The arena; there until the buffer is dropped.
    Kept(Option<Block>),
}

/// A buffer that burn holds.
struct Held(Floats);

impl Floats {
    /// `len` floats; what is in them is left over from earlier use.
    pub fn new(len: usize) -> Self {
        let kept = len >= WORTHWHILE;
        let all = match kept {
            true => Source::Kept(Some(arena().take(len + SLACK))),
            false => Source::Own(vec![0.0; len + ALIGNMENT / size_of::<f32>()]),
        };
        let place = if kept { BUFFERS.fetch_add(1, Ordering::Relaxed) % PLACES } else { 0 };
        let start = (all.floats().as_ptr().align_offset(ALIGNMENT) + place * PLACE).min(all.floats().len() - len);
        let mut floats = Self { all, start, len };
        if cfg!(test) {
            // Under test no kernel may live on what an earlier one left.
            floats.fill(f32::NAN);
        }
        floats
    }

    /// `len` times `value`.
    pub fn filled(len: usize, value: f32) -> Self {
        let mut floats = Self::new(len);
        floats.fill(value);
        floats
    }

    /// The buffer as burn holds it.
    pub fn into_bytes(self) -> Bytes {
        let len = size_of_val(&*self);
        // SAFETY: all `len` bytes are initialised floats.
        unsafe { Bytes::from_controller(Box::new(Held(self)), len) }
    }
}

/// Copies to memory that nobody reads soon, past the caches: a line that is written as a whole need not be read before, and
/// drives out none that is read. What another thread reads of it must be behind [`streamed`].
pub fn stream(from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "as much as there is room for");
    #[cfg(target_arch = "x86_64")]
    if to.as_ptr().align_offset(ALIGNMENT) == 0 && to.len().is_multiple_of(ALIGNMENT / size_of::<f32>()) {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
        for (from, to) in from.as_chunks::<16>().0.iter().zip(to.as_chunks_mut::<16>().0) {
            for i in 0..4 {
                // SAFETY: four floats from `4 * i` lie in both arrays, and those written to start at a multiple of 16 bytes.
                unsafe { _mm_stream_ps(to.as_mut_ptr().add(4 * i), _mm_loadu_ps(from.as_ptr().add(4 * i))) };
            }
        }
        return;
    }
    to.copy_from_slice(from);
}

/// Everything that this thread has streamed is there for others from here on.
pub fn streamed() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 machine has the instruction, which only waits.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

impl Default for Floats {
    /// Without any, and without an allocation.
    fn default() -> Self {
        Self { all: Source::Own(Vec::new()), start: 0, len: 0 }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.all.floats()[self.start..self.start + self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.all.floats_mut()[self.start..self.start + self.len]
    }
}

impl Drop for Floats {
    fn drop(&mut self) {
        if let Source::Kept(block) = &mut self.all
            && let Some(block) = block.take()
        {
            arena().give_back(block);
        }
    }
}

impl Source {
    fn floats(&self) -> &[f32] {
        match self {
            Self::Own(floats) => floats,
            Self::Kept(block) => block.as_ref().map_or(&[], Block::floats),
        }
    }

    fn floats_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Own(floats) => floats,
            Self::Kept(block) => block.as_mut().map_or(&mut [], Block::floats_mut),
        }
    }
}

impl FromIterator<f32> for Floats {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Self {
        let values: Vec<f32> = values.into_iter().collect();
        let mut floats = Self::new(values.len());
        floats.copy_from_slice(&values);
        floats
    }
}

fn arena() -> MutexGuard<'static, Arena> {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AllocationController for Held {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.0);
        let pointer = std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>];
        // SAFETY: the same bytes under the same borrow; the caller promises to write initialised bytes only, and every bit
        // pattern is a float.
        Ok(unsafe { &mut *pointer })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.0);
        let pointer = std::ptr::from_ref(bytes) as *const [MaybeUninit<u8>];
        // SAFETY: initialised bytes are valid `MaybeUninit` bytes, under the same borrow.
        Ok(unsafe { &*pointer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_at_a_cache_line() {
        for len in [1, 100, WORTHWHILE, 3 * WORTHWHILE + 1] {
            let floats = Floats::filled(len, 1.5);
            assert_eq!((floats.as_ptr().align_offset(ALIGNMENT), floats.len()), (0, len));
            assert!(floats.iter().all(|&v| v == 1.5));
        }
    }

    #[test]
    fn what_is_streamed_is_there_for_another_thread_whatever_its_place_and_length() {
        for (start, len) in [(0, 64), (0, 63), (1, 64), (3, 5), (0, 0), (16, 4096)] {
            let values: Vec<f32> = (0..len).map(|i| i as f32 + 0.5).collect();
            let mut floats = Floats::filled(start + len + 1, -1.0);
            std::thread::scope(|scope| {
                let (floats, values) = (&mut floats, &values);
                scope.spawn(move || {
                    stream(values, &mut floats[start..start + len]);
                    streamed();
                });
            });
            assert_eq!(floats[start..start + len], values[..], "{len} floats from {start}");
            assert!(floats[..start].iter().chain(&floats[start + len..]).all(|&v| v == -1.0), "nothing beside them");
        }
    }

    #[test]
    fn burn_reads_writes_and_drops_a_buffer() {
        let values: Vec<f32> = (0..2 * WORTHWHILE).map(|i| i as f32).collect();
        let mut bytes = values.iter().copied().collect::<Floats>().into_bytes();
        let floats: &mut [f32] = bytemuck::cast_slice_mut(&mut bytes);
        floats[1] += 0.5;
        let copy = bytes.clone();
        drop(bytes);
        let floats: &[f32] = bytemuck::cast_slice(&copy);
        assert_eq!((floats[1], &floats[2..]), (1.5, &values[2..]));
    }
}
