//! The block function of OpenSSL's SHA-512.

use std::mem::MaybeUninit;

use openssl_sys::{SHA512_CTX, SHA512_Update};

/// Takes whole blocks of 128 bytes into the state.
///
/// Implements: `SHA512_Update`, with a context that is made of the state and keeps nothing else.
pub(crate) fn sha512_blocks(state: &mut [u64; 8], blocks: &[u8]) {
    debug_assert_eq!(blocks.len() % 128, 0, "the rest would be lost");
    let context = MaybeUninit::<SHA512_CTX>::zeroed();
    // SAFETY: it has only integers, for which zero is a value; zero is also how many bytes wait in it.
    let mut context = unsafe { context.assume_init() };
    context.h = *state;
    // SAFETY: it reads `blocks`, which live on, and writes into the context, which is whole.
    unsafe { SHA512_Update(&raw mut context, blocks.as_ptr().cast(), blocks.len()) };
    *state = context.h;
}
