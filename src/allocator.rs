//! mimalloc as the allocator of the binary.
//!
//! The `mimalloc` crate asks for every block by its alignment. mimalloc aligns each block as any value of Rust's
//! own types needs it, but has to make sure of that then: for what is larger than a kilobyte it takes a
//! longer way and often more memory, and giving that back takes longer as well.

use libmimalloc_sys as mimalloc;
use std::alloc::{GlobalAlloc, Layout};

/// mimalloc, which is told of an alignment only where it matters.
pub(crate) struct Allocator;

/// Whether every block of this size is aligned as the layout wants it: mimalloc aligns blocks to 16 bytes, and
/// those of less than that to 8 (`MI_MAX_ALIGN_SIZE` in its sources).
const fn is_aligned_anyway(layout: Layout, size: usize) -> bool {
    layout.align() <= 8 || (layout.align() == 16 && size >= 16)
}

#[allow(unsafe_code, reason = "an allocator cannot be made without")]
// SAFETY: these are mimalloc's functions for what the trait asks for. Blocks have the alignment that is
// asked for, as `is_aligned_anyway` says or because it is passed on, and `mi_free` and `mi_realloc` take
// blocks of any of them. mimalloc does not unwind.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        let block = if is_aligned_anyway(layout, size) {
            unsafe { mimalloc::mi_malloc(size) }
        } else {
            unsafe { mimalloc::mi_malloc_aligned(size, align) }
        };
        block.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        let block = if is_aligned_anyway(layout, size) {
            unsafe { mimalloc::mi_zalloc(size) }
        } else {
            unsafe { mimalloc::mi_zalloc_aligned(size, align) }
        };
        block.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        unsafe { mimalloc::mi_free(block.cast()) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let block = block.cast();
        let block = if is_aligned_anyway(layout, size) {
            unsafe { mimalloc::mi_realloc(block, size) }
        } else {
            unsafe { mimalloc::mi_realloc_aligned(block, size, layout.align()) }
        };
        block.cast()
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "allocators are called so")]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_keep_what_is_in_them() {
        for align in [1, 2, 4, 8, 16, 32, 128, 4096] {
            for size in (1..200).chain([1_000, 1_025, 1_312, 1_760, 4_096, 13_456, 65_536, 1 << 20])
            {
                let layout = Layout::from_size_align(size, align).unwrap();
                let grown = Layout::from_size_align(2 * size + 1, align).unwrap();
                // SAFETY: the layouts are not empty, and each block is given back with its own.
                unsafe {
                    let block = Allocator.alloc(layout);
                    assert!(!block.is_null() && block.addr().is_multiple_of(align), "{layout:?}");
                    block.write_bytes(7, size);
                    let block = Allocator.realloc(block, layout, grown.size());
                    assert!(!block.is_null() && block.addr().is_multiple_of(align), "{grown:?}");
                    let kept = std::slice::from_raw_parts(block, size);
                    assert!(kept.iter().all(|byte| *byte == 7), "{grown:?}");
                    Allocator.dealloc(block, grown);
                    let block = Allocator.alloc_zeroed(layout);
                    assert!(!block.is_null() && block.addr().is_multiple_of(align), "{layout:?}");
                    let zeroed = std::slice::from_raw_parts(block, size);
                    assert!(zeroed.iter().all(|byte| *byte == 0), "{layout:?}");
                    Allocator.dealloc(block, layout);
                }
            }
        }
    }
}
