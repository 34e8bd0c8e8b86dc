//! Memory of results and gradients, used again instead of given back to the system.
//!
//! Gives buffers of floats with anything in them, and wraps filled ones for burn so that they return here when the last
//! tensor on them is dropped. A training step allocates and frees the same sizes thousands of times; fresh memory costs a
//! page fault every 4 KiB, which for a batch normalisation is four times the arithmetic. Small buffers are left to the
//! allocator.
use std::{
    collections::HashMap,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use burn::tensor::Bytes;
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};

/// Floats from which a buffer is worth keeping: several pages.
const WORTHWHILE: usize = 1 << 12;

/// Floats that may be kept beyond the most that were in use at once.
const IDLE: usize = 1 << 22;

static MEMORY: LazyLock<Mutex<Memory>> = LazyLock::new(Mutex::default);

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
    all: Vec<f32>,
    start: usize,
    len: usize,
}

/// Idle buffers by length.
#[derive(Default)]
struct Memory {
    idle: HashMap<usize, Shelf>,
    idle_floats: usize,
    used_floats: usize,
    /// The most that were in use at once, of late.
    most_used: usize,
    clock: u64,
}

/// The idle buffers of one length and when one was last asked for.
#[derive(Default)]
struct Shelf {
    buffers: Vec<Vec<f32>>,
    asked: u64,
}

/// A buffer that burn holds.
struct Held(Floats);

impl Floats {
    /// `len` floats; what is in them is left over from earlier use.
    pub fn new(len: usize) -> Self {
        let kept = len >= WORTHWHILE;
        let found = if kept { memory().take(len) } else { None };
        let slack = if kept { SLACK } else { ALIGNMENT / size_of::<f32>() };
        let all = found.unwrap_or_else(|| vec![0.0; len + slack]);
        let place = if kept { BUFFERS.fetch_add(1, Ordering::Relaxed) % PLACES } else { 0 };
        let start = (all.as_ptr().align_offset(ALIGNMENT) + place * PLACE).min(all.len() - len);
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

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.all[self.start..self.start + self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.all[self.start..self.start + self.len]
    }
}

impl Drop for Floats {
    fn drop(&mut self) {
        if self.len >= WORTHWHILE {
            memory().give_back(self.len, std::mem::take(&mut self.all));
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

fn memory() -> MutexGuard<'static, Memory> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        self.clock += 1;
        self.used_floats += len;
        self.most_used = self.most_used.max(self.used_floats);
        let shelf = self.idle.entry(len).or_default();
        shelf.asked = self.clock;
        let found = shelf.buffers.pop();
        match found {
            Some(_) => self.idle_floats -= len,
            None => self.clear_up(),
        }
        found
    }

    fn give_back(&mut self, len: usize, buffer: Vec<f32>) {
        self.used_floats = self.used_floats.saturating_sub(len);
        self.idle_floats += len;
        self.idle.entry(len).or_default().buffers.push(buffer);
    }

    /// Before new memory is made, gives up old sizes beyond the most that was ever needed: a change of batch size must not
    /// double the memory. What a step used is otherwise kept for the next one, which asks for the same sizes again.
    fn clear_up(&mut self) {
        while self.idle_floats > 0 && self.idle_floats + self.used_floats > IDLE + self.most_used {
            let shelves = self.idle.iter_mut().filter(|(_, shelf)| !shelf.buffers.is_empty());
            let Some((len, shelf)) = shelves.min_by_key(|(_, shelf)| shelf.asked) else {
                return;
            };
            self.idle_floats -= len;
            shelf.buffers.pop();
        }
    }
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
    fn a_dropped_buffer_is_used_again() {
        let mut memory = Memory::default();
        assert!(memory.take(100).is_none());
        memory.give_back(100, Vec::new());
        assert_eq!((memory.idle_floats, memory.used_floats), (100, 0));
        assert!(memory.take(100).is_some());
        assert_eq!((memory.idle_floats, memory.used_floats), (0, 100));
    }

    #[test]
    fn sizes_no_longer_asked_for_are_given_up() {
        let mut memory = Memory::default();
        let len = IDLE;
        for _ in 0..6 {
            memory.take(len);
        }
        for _ in 0..6 {
            memory.give_back(len, Vec::new());
        }
        for _ in 0..3 {
            memory.take(len + 1);
        }
        assert!(memory.idle_floats + memory.used_floats <= IDLE + memory.most_used);
        assert_eq!(memory.idle[&len].buffers.len(), 3);
    }

    #[test]
    fn buffers_start_at_a_cache_line() {
        for len in [1, 100, WORTHWHILE, 3 * WORTHWHILE + 1] {
            let floats = Floats::filled(len, 1.5);
            assert_eq!((floats.as_ptr().align_offset(ALIGNMENT), floats.len()), (0, len));
            assert!(floats.iter().all(|&v| v == 1.5));
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
