//! The process: what the kernel gave it, and what a program needs before its first line.
//!
//! As it is shipped, this binary has no `std` and is linked with musl. A static program with glibc asks the processor some
//! thirty times what it can do before `main`, and each question leaves the virtual machine that most nodes are; it also
//! touches four times as many pages. Together that was a fifth of a whole ADD (docs/decisions/plugin-without-std.md). Built
//! with unwinding, as `cargo build` and `cargo test` do, it has `std` and the machine's C library, and the same `main`.
//!
//! Guarantees: all unsafe code of this crate is here, but for the name of `main`.
#![allow(unsafe_code, reason = "the environment, the standard streams and the heap come from the C library")]

use alloc::ffi::CString;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::{CStr, c_char};

use rustix::fd::BorrowedFd;
use rustix::io::Errno;

#[link(name = "c")]
unsafe extern "C" {
    fn getenv(name: *const c_char) -> *const c_char;
}

/// An environment variable, empty or not.
pub fn variable(name: &str) -> Option<Vec<u8>> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero; this process has one thread and changes no variable.
    let value = unsafe { getenv(name.as_ptr()) };
    // SAFETY: what is not null is a string of the environment, which stays as it is.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_bytes().to_vec())
}

/// Standard input.
pub fn input() -> BorrowedFd<'static> {
    // SAFETY: a runtime opens the three standard streams, and nothing here closes them. Where it did not, reading fails.
    unsafe { BorrowedFd::borrow_raw(0) }
}

/// Writes all to standard output.
pub fn print(text: &str) -> Result<(), Errno> {
    // SAFETY: as for standard input.
    let output = unsafe { BorrowedFd::borrow_raw(1) };
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(output, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

/// The errors that a runtime's mistake leads to, in words; of the others the number.
pub fn words(why: Errno) -> String {
    match why {
        Errno::NOENT => "no such file or directory".to_string(),
        Errno::ACCESS | Errno::PERM => "permission denied".to_string(),
        Errno::NOTDIR => "not a directory".to_string(),
        Errno::BADF => "it is not open".to_string(),
        other => other.to_string(),
    }
}

/// What `std` does elsewhere.
#[cfg(all(not(test), panic = "abort"))]
mod bare {
    use alloc::format;
    use core::alloc::{GlobalAlloc, Layout};
    use core::ffi::c_void;
    use core::panic::PanicInfo;

    use rustix::fd::BorrowedFd;

    unsafe extern "C" {
        fn malloc(size: usize) -> *mut c_void;
        fn realloc(old: *mut c_void, size: usize) -> *mut c_void;
        fn free(old: *mut c_void);
        fn abort() -> !;
    }

    /// The C library's heap.
    struct Heap;

    /// What `malloc` aligns to, in bytes; nothing here asks for more.
    const ALIGNED: usize = 16;

    // SAFETY: malloc, realloc and free keep the contract of the trait up to their alignment, and beyond it there is no memory.
    unsafe impl GlobalAlloc for Heap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if layout.align() > ALIGNED {
                return core::ptr::null_mut();
            }
            // SAFETY: any size may be asked for.
            unsafe { malloc(layout.size()) }.cast()
        }

        unsafe fn dealloc(&self, old: *mut u8, _: Layout) {
            // SAFETY: it came from malloc or realloc, and is given back once.
            unsafe { free(old.cast()) }
        }

        unsafe fn realloc(&self, old: *mut u8, _: Layout, size: usize) -> *mut u8 {
            // SAFETY: it came from malloc or realloc, whose alignment realloc keeps.
            unsafe { realloc(old.cast(), size) }.cast()
        }
    }

    #[global_allocator]
    static HEAP: Heap = Heap;

    #[panic_handler]
    fn panic(info: &PanicInfo<'_>) -> ! {
        // SAFETY: as for standard input.
        let errors = unsafe { BorrowedFd::borrow_raw(2) };
        // Who does not listen misses it.
        let _ = rustix::io::write(errors, format!("portolan: {info}\n").as_bytes());
        // SAFETY: it does not come back.
        unsafe { abort() }
    }

    /// What the compiler's own libraries, which were built to unwind, name and never call: a panic ends in [`panic`].
    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() {}

    /// As above.
    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Resume() -> ! {
        // SAFETY: it does not come back.
        unsafe { abort() }
    }
}
