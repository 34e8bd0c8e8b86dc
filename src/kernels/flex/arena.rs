//! A heap of floats that keeps what it once had.
//!
//! Takes lengths; gives blocks of floats with anything in them, cut from large regions and joined again when they come back.
//! The allocator of the system would hand each thread regions of its own, between which a step whose work moves from thread to
//! thread scatters its buffers, and would return memory to the system that the next step asks for again.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ptr::NonNull,
};

/// Floats of the smallest region: 64 MiB, of which the system provides only the pages that are written.
const REGION: usize = 1 << 24;

/// Blocks begin and end at multiples of this many floats, a cache line.
const GRAIN: usize = 16;

/// Where a free block begins: its region, and the floats before it there.
type Place = (usize, usize);

/// Floats that nobody else reads or writes until they are given back.
#[derive(Debug)]
pub struct Block {
    start: NonNull<f32>,
    len: usize,
    place: Place,
}

// SAFETY: a block is the only way to its floats, as a `Box<[f32]>` would be.
unsafe impl Send for Block {}
// SAFETY: as above; a shared block only gives shared floats.
unsafe impl Sync for Block {}

/// The heap.
#[derive(Default)]
pub struct Arena {
    regions: BTreeMap<usize, Region>,
    /// Free blocks and their lengths; no two touch.
    free: BTreeMap<Place, usize>,
    /// The same by length.
    by_len: BTreeSet<(usize, Place)>,
    /// Blocks given back and not yet joined, by length: the next one asked for is most often of a length just given back, and
    /// then still in the cache.
    recent: HashMap<usize, Vec<Block>>,
    made: usize,
}

struct Region {
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: a region is a `Box<[f32]>` of which only disjoint blocks are handed out.
unsafe impl Send for Region {}

impl Block {
    /// The floats.
    pub fn floats(&self) -> &[f32] {
        // SAFETY: `start` and `len` lie in a region that lives until its last block came back, all of whose floats were
        // initialised when it was made; `Arena` hands no float out twice, so nobody writes them while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The floats, to be written.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `floats`; the borrow of the only block on them is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Arena {
    /// A block of at least `len` floats; what is in them is left over from earlier use.
    pub fn take(&mut self, len: usize) -> Block {
        let len = len.max(1).next_multiple_of(GRAIN);
        if let Some(block) = self.recent.get_mut(&len).and_then(Vec::pop) {
            return block;
        }
        self.join();
        let place = self.cut(len).unwrap_or_else(|| {
            self.give_up();
            self.grow(len);
            self.cut(len).expect("the region just made has room")
        });
        let start = self.regions[&place.0].start;
        // SAFETY: the place of a free block lies in its region.
        Block { start: unsafe { start.add(place.1) }, len, place }
    }

    /// Takes a block of this arena back.
    ///
    /// # Panics
    /// When it is another arena's: what is cut from the same place would share its floats.
    pub fn give_back(&mut self, block: Block) {
        let region = self.regions.get(&block.place.0);
        let ours =
            region.is_some_and(|region| region.start.as_ptr().wrapping_add(block.place.1) == block.start.as_ptr());
        assert!(ours, "a block returns to its arena");
        self.recent.entry(block.len).or_default().push(block);
    }

    /// Floats of all regions.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.regions.values().map(|region| region.len).sum()
    }

    /// The smallest free block that is long enough, less what is not needed of it.
    fn cut(&mut self, len: usize) -> Option<Place> {
        let &(whole, place) = self.by_len.range((len, (0, 0))..).next()?;
        self.remove(place, whole);
        if whole > len {
            self.insert((place.0, place.1 + len), whole - len);
        }
        Some(place)
    }

    /// Joins what was given back with the free blocks beside it.
    fn join(&mut self) {
        let recent: Vec<Block> = self.recent.drain().flat_map(|(_, blocks)| blocks).collect();
        for Block { len, place: (region, start), .. } in recent {
            let before = self.free.range(..(region, start)).next_back().map(|(place, len)| (*place, *len));
            let after = self.free.get(&(region, start + len)).copied();
            let (mut from, mut to) = (start, start + len);
            if let Some((place, len)) = before
                && place.0 == region
                && place.1 + len == start
            {
                self.remove(place, len);
                from = place.1;
            }
            if let Some(more) = after {
                self.remove((region, to), more);
                to += more;
            }
            self.insert((region, from), to - from);
        }
    }

    fn grow(&mut self, len: usize) {
        // A fair part of what there is: many steps of growth would leave as many regions, each with a rest.
        let len = len.max(REGION).max(self.regions.values().map(|region| region.len).sum::<usize>() / 4);
        let floats = Box::into_raw(vec![0.0f32; len].into_boxed_slice());
        let start = NonNull::new(floats.cast::<f32>()).expect("a box is somewhere");
        ask_for_huge_pages(start, len);
        let number = self.made;
        self.made += 1;
        self.regions.insert(number, Region { start, len });
        self.insert((number, 0), len);
    }

    /// Returns regions of which nothing is in use to the system: a change of batch size must not double the memory.
    fn give_up(&mut self) {
        let free = &self.free;
        let idle = |(&number, region): (&usize, &Region)| free.get(&(number, 0)) == Some(&region.len);
        let idle: Vec<usize> = self.regions.iter().filter(|entry| idle((entry.0, entry.1))).map(|(n, _)| *n).collect();
        for number in idle {
            if let Some(region) = self.regions.remove(&number) {
                self.remove((number, 0), region.len);
                region.free();
            }
        }
    }

    fn insert(&mut self, place: Place, len: usize) {
        self.free.insert(place, len);
        self.by_len.insert((len, place));
    }

    fn remove(&mut self, place: Place, len: usize) {
        self.free.remove(&place);
        self.by_len.remove(&(len, place));
    }
}

/// Asks the system for pages of 2 MiB, where it has any and gives them only to those that ask: a step walks through more memory
/// than the processor knows the places of small pages.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(start: NonNull<f32>, len: usize) {
    /// A multiple of the page of any Linux machine: the call takes nothing else.
    const PAGE: usize = 1 << 16;
    let from = start.as_ptr().cast::<u8>();
    let skip = from.align_offset(PAGE);
    let bytes = (len * size_of::<f32>()).saturating_sub(skip) / PAGE * PAGE;
    // SAFETY: the bytes lie in the region, which nobody else has yet. The advice changes how memory is provided and not what is
    // in it; where it is refused all stays as it was.
    unsafe { libc::madvise(from.wrapping_add(skip).cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: NonNull<f32>, _: usize) {}

impl Region {
    /// Returns the memory; called when all blocks are back. A region that is dropped otherwise, with its arena, is leaked: a
    /// block may outlive both.
    fn free(self) {
        let floats = std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len);
        // SAFETY: `start` and `len` are those of the box that `Arena::grow` took apart, `give_up` has found its whole length
        // free, and has removed it, so that nobody reads it or frees it again.
        drop(unsafe { Box::from_raw(floats) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_use_never_share_a_float() {
        let mut arena = Arena::default();
        let mut blocks: Vec<(Block, f32)> = Vec::new();
        // A walk without a pattern: takes and gives back blocks of many lengths, each filled with a number of its own.
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for step in 0..4000 {
            if blocks.len() > 40 || (random(3) == 0 && !blocks.is_empty()) {
                let (block, mark) = blocks.swap_remove(random(blocks.len()));
                assert!(block.floats().iter().all(|v| *v == mark), "step {step}");
                arena.give_back(block);
            } else {
                let size = random(10);
                let len = 1 + random(16 << size);
                let mut block = arena.take(len);
                assert!(block.floats().len() >= len);
                block.floats_mut().fill(step as f32);
                blocks.push((block, step as f32));
            }
        }
        assert_eq!(arena.held(), REGION, "40 blocks of at most 8,192 floats fit one region");
        blocks.into_iter().for_each(|(block, _)| arena.give_back(block));
        arena.join();
        assert_eq!(arena.free.values().copied().collect::<Vec<_>>(), [REGION], "all is joined again");
        assert_eq!(arena.by_len.len(), 1);
    }

    #[test]
    fn a_block_given_back_is_the_next_of_its_length() {
        let mut arena = Arena::default();
        let [first, second] = [arena.take(100), arena.take(100)];
        let place = first.place;
        arena.give_back(first);
        assert_eq!(arena.take(100).place, place);
        assert_ne!(second.place, place);
    }

    #[test]
    #[should_panic(expected = "a block returns to its arena")]
    fn a_block_of_another_arena_is_refused() {
        let [mut one, mut other] = [Arena::default(), Arena::default()];
        let _mine = one.take(100);
        one.give_back(other.take(100));
    }

    #[test]
    fn idle_regions_are_given_up_before_another_is_made() {
        let mut arena = Arena::default();
        let blocks: Vec<Block> = (0..3).map(|_| arena.take(REGION)).collect();
        assert_eq!(arena.held(), 3 * REGION);
        let mut blocks = blocks.into_iter();
        let kept = blocks.next().expect("three were made");
        blocks.for_each(|block| arena.give_back(block));
        let large = arena.take(2 * REGION);
        assert_eq!(arena.held(), 3 * REGION);
        assert_eq!([kept.floats().len(), large.floats().len()], [REGION, 2 * REGION]);
    }
}
