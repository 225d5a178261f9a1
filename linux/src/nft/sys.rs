//! What libnftnl's safe wrapper lacks, and the only unsafe code about nftables: instructions with any
//! attributes (lookup into a register, connection direction, NAT by register), named sets and maps, and
//! their elements. Each type owns what it allocates or gives it away within one function.
#![allow(unsafe_code, reason = "libnftnl is a C library; see the module's header")]

use std::{
    ffi::{CStr, c_char, c_void},
    process,
    ptr::NonNull,
};

use nftnl::{
    MsgType, NlMsg, Rule,
    expr::Expression,
    nftnl_sys::{self as nl, libc},
};

use super::{
    compile::{Attribute, Expr},
    element::RawElement,
};

/// What libnftnl allocates is small: where that fails, nothing can be saved (std does the same).
fn allocated<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).unwrap_or_else(|| process::abort())
}

impl Expression for Expr {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<nl::nftnl_expr> {
        // SAFETY: the name is terminated; libnftnl copies it.
        let expr = allocated(unsafe { nl::nftnl_expr_alloc(self.name.as_ptr()) });
        for (key, attribute) in &self.attributes {
            let (to, key) = (expr.as_ptr(), *key as u16);
            // SAFETY: `to` was allocated above; libnftnl copies numbers, bytes and the terminated name,
            // and reads exactly the given length.
            unsafe {
                match attribute {
                    Attribute::Number(number) => nl::nftnl_expr_set_u32(to, key, *number),
                    Attribute::Name(name) => {
                        nl::nftnl_expr_set_str(to, key, name.as_ptr());
                    }
                    Attribute::Bytes(bytes) => {
                        nl::nftnl_expr_set(to, key, bytes.as_ptr().cast(), bytes.len() as u32);
                    }
                }
            }
        }
        // The caller (nftnl's Rule) owns the instruction from here on.
        expr
    }
}

/// A named set or map, to be added or deleted.
pub(super) struct SetMessage<'a> {
    pub table: &'a CStr,
    pub name: &'a CStr,
    pub layout: &'a Layout,
    /// Distinguishes the sets of one transaction.
    pub id: u32,
}

/// How a set is laid out in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub flags: u32,
    pub key_type: u32,
    pub key_len: u32,
    /// Type and length of a map's values.
    pub value: Option<(u32, u32)>,
    /// Lengths of the parts of a key that is a pair.
    pub parts: Vec<u8>,
    /// For `nft list`: the byte orders of key and value.
    pub userdata: Vec<u8>,
}

// SAFETY: one set's message is a few hundred bytes, far below the largest netlink message.
unsafe impl NlMsg for SetMessage<'_> {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, kind: MsgType) {
        let set = OwnedSet::named(self.table, self.name);
        let header = match kind {
            MsgType::Add => {
                self.describe(&set);
                // SAFETY: the caller's buffer has room for the largest message.
                unsafe { header(buffer, libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE, sequence) }
            }
            // SAFETY: as above.
            MsgType::Del => unsafe { header(buffer, libc::NFT_MSG_DELSET, 0, sequence) },
        };
        // SAFETY: the header was written to the caller's buffer, the set is alive.
        unsafe { nl::nftnl_set_nlmsg_build_payload(header, set.0.as_ptr()) };
    }
}

impl SetMessage<'_> {
    fn describe(&self, set: &OwnedSet) {
        let layout = self.layout;
        set.number(nl::NFTNL_SET_ID, self.id);
        set.number(nl::NFTNL_SET_FLAGS, layout.flags);
        set.number(nl::NFTNL_SET_KEY_TYPE, layout.key_type);
        set.number(nl::NFTNL_SET_KEY_LEN, layout.key_len);
        if let Some((kind, length)) = layout.value {
            set.number(nl::NFTNL_SET_DATA_TYPE, kind);
            set.number(nl::NFTNL_SET_DATA_LEN, length);
        }
        if !layout.parts.is_empty() {
            set.bytes(nl::NFTNL_SET_DESC_CONCAT, &layout.parts);
        }
        set.bytes(nl::NFTNL_SET_USERDATA, &layout.userdata);
    }
}

/// Elements to be added to or deleted from one set; few enough for one message.
pub(super) struct ElementsMessage<'a> {
    pub table: &'a CStr,
    pub set: &'a CStr,
    pub elements: &'a [RawElement],
}

// SAFETY: an attribute is at most 64 KiB, for which the caller's buffer has room; `apply::portions` keeps
// the elements of one message below that.
unsafe impl NlMsg for ElementsMessage<'_> {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, kind: MsgType) {
        let set = OwnedSet::named(self.table, self.set);
        for raw in self.elements {
            set.add(raw, kind == MsgType::Add);
        }
        let (message, flags) = match kind {
            // Without EXCL: an element that is there already, with the same value, is no error.
            MsgType::Add => (libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE),
            MsgType::Del => (libc::NFT_MSG_DELSETELEM, 0),
        };
        // SAFETY: the caller's buffer has room for the largest message; the set is alive.
        unsafe {
            let header = header(buffer, message, flags, sequence);
            nl::nftnl_set_elems_nlmsg_build_payload(header, set.0.as_ptr());
        }
    }
}

/// A set of libnftnl's with the elements added to it.
struct OwnedSet(NonNull<nl::nftnl_set>);

impl OwnedSet {
    fn named(table: &CStr, name: &CStr) -> Self {
        // SAFETY: no arguments.
        let set = Self(allocated(unsafe { nl::nftnl_set_alloc() }));
        set.number(nl::NFTNL_SET_FAMILY, libc::NFPROTO_INET as u32);
        // SAFETY: the set is alive; the names are terminated and copied.
        unsafe {
            nl::nftnl_set_set_str(set.0.as_ptr(), nl::NFTNL_SET_TABLE as u16, table.as_ptr());
            nl::nftnl_set_set_str(set.0.as_ptr(), nl::NFTNL_SET_NAME as u16, name.as_ptr());
        }
        set
    }

    fn number(&self, key: u32, number: u32) {
        // SAFETY: the set is alive.
        unsafe { nl::nftnl_set_set_u32(self.0.as_ptr(), key as u16, number) };
    }

    fn bytes(&self, key: u32, bytes: &[u8]) {
        // SAFETY: the set is alive; exactly the given length is read and copied.
        unsafe {
            nl::nftnl_set_set_data(self.0.as_ptr(), key as u16, bytes.as_ptr().cast(), bytes.len() as u32);
        }
    }

    fn add(&self, raw: &RawElement, with_value: bool) {
        // SAFETY: no arguments.
        let element = allocated(unsafe { nl::nftnl_set_elem_alloc() }).as_ptr();
        let put = |key: u32, bytes: &[u8]| {
            // SAFETY: the element was allocated above; exactly the given length is read and copied.
            unsafe { nl::nftnl_set_elem_set(element, key as u16, bytes.as_ptr().cast(), bytes.len() as u32) };
        };
        put(nl::NFTNL_SET_ELEM_KEY, &raw.key);
        if let Some(value) = raw.value.as_deref().filter(|_| with_value) {
            put(nl::NFTNL_SET_ELEM_DATA, value);
        }
        // SAFETY: both are alive; the set owns the element from here on.
        unsafe {
            if raw.ends_range {
                let end = libc::NFT_SET_ELEM_INTERVAL_END as u32;
                nl::nftnl_set_elem_set_u32(element, nl::NFTNL_SET_ELEM_FLAGS as u16, end);
            }
            nl::nftnl_set_elem_add(self.0.as_ptr(), element);
        }
    }
}

impl Drop for OwnedSet {
    fn drop(&mut self) {
        // SAFETY: allocated in `named`, freed once, with its elements.
        unsafe { nl::nftnl_set_free(self.0.as_ptr()) };
    }
}

/// # Safety
/// `buffer` must have room for a netlink header and the family header after it.
unsafe fn header(buffer: *mut c_void, kind: i32, flags: i32, sequence: u32) -> *mut libc::nlmsghdr {
    let flags = (flags | libc::NLM_F_ACK) as u16;
    let family = libc::NFPROTO_INET as u16;
    // SAFETY: the caller vouches for the buffer.
    unsafe { nl::nftnl_nlmsg_build_hdr(buffer.cast::<c_char>(), kind as u16, family, flags, sequence) }
}
