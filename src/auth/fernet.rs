//! Fernet tokens, as OpenAlgo keeps secrets in its database: decrypted only.
//!
//! In: `API_KEY_PEPPER` and `FERNET_SALT`, then tokens. Out: the text, or `None` for whatever is no token of that key: nothing
//! is decrypted before its signature has been verified. Deriving the key takes tens of milliseconds, once. Pure. Tests: at the end.

use aes::Aes128;
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use ring::{hmac, pbkdf2};
use std::num::NonZeroU32;

/// OpenAlgo's; the signing half of the key comes first.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(100_000).expect("not zero");
/// What OpenAlgo takes where no usable `FERNET_SALT` is set.
const LEGACY_SALT: &[u8] = b"openalgo_static_salt";
/// Shorter salts are not used, as OpenAlgo does not.
const SALT_CHARS_MIN: usize = 32;
const VERSION: u8 = 0x80;
/// Version and time.
const HEAD: usize = 9;
const IV: usize = 16;
const SIGNATURE: usize = 32;
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key, shown to nobody.
pub(super) struct Fernet {
    signing: hmac::Key,
    encryption: [u8; 16],
}

impl Fernet {
    /// The key that OpenAlgo derives: the pepper is used as text, the salt as hexadecimal digits.
    pub(super) fn derive(pepper: &str, salt: Option<&str>) -> Self {
        let mut key = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt_of(salt), pepper.as_bytes(), &mut key);
        let (signing, encryption) = key.split_at(16);
        let encryption = encryption.try_into().expect("16 of 32 bytes");
        Fernet { signing: hmac::Key::new(hmac::HMAC_SHA256, signing), encryption }
    }

    /// The text of a token.
    pub(super) fn decrypt(&self, token: &str) -> Option<String> {
        let bytes = BASE64.decode(token.trim()).ok()?;
        let (signed, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        hmac::verify(&self.signing, signed, signature).ok()?;
        let (head, rest) = signed.split_at_checked(HEAD)?;
        let (iv, text) = rest.split_at_checked(IV)?;
        if head[0] != VERSION {
            return None;
        }
        let mut text = text.to_vec();
        let cipher = Decryptor::<Aes128>::new_from_slices(&self.encryption, iv).ok()?;
        let text = cipher.decrypt_padded::<Pkcs7>(&mut text).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

/// What `FERNET_SALT` means to OpenAlgo.
fn salt_of(variable: Option<&str>) -> Vec<u8> {
    let usable = variable.map(str::trim).filter(|salt| salt.len() >= SALT_CHARS_MIN).and_then(hex);
    usable.unwrap_or_else(|| LEGACY_SALT.to_vec())
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEPPER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
    const SALT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    /// Made by Python's `cryptography` (50.0.2) as OpenAlgo does: `Fernet(urlsafe_b64encode(PBKDF2HMAC(SHA256, 32, salt, 100000)
    /// .derive(PEPPER)))._encrypt_from_parts(text, 1767225600, bytes(range(16)))`, with SALT's bytes.
    const OWN: &str = "gAAAAABpVbkAAAECAwQFBgcICQoLDA0OD8imXqBgW24_-NvHfdhk_eE2WADNL0aWyQF-c0Ce3OI9FtisKLHYyCyJJ27hi09rpzI28RbC88Qeh7gsAeNEFsc=";
    /// The same with the salt `openalgo_static_salt`.
    const LEGACY: &str = "gAAAAABpVbkAAAECAwQFBgcICQoLDA0OD0EGjXfZhCvpVEGs3k4IRwy--OMQT9q0S9_OvMkcsODslJzN6cn44HhaIJQRXhuWYHv5TaR31pWTVvXyOteVgbs=";
    const TEXT: &str = "kitekey-1234:first-token-5678";
    /// As OWN, of a text that fills its blocks.
    const WHOLE_BLOCK: &str = "gAAAAABpVbkAAAECAwQFBgcICQoLDA0OD84RO81U36Fg4JsG8gd9AAsGdhH09vkNLw5rBWA3bBuWmGHvm66Vviz_LwfKBDqJYslkRJ-RxB8lbKqUR5A0uYw=";

    #[test]
    fn what_openalgo_has_encrypted_is_read_with_its_pepper_and_salt() {
        let own = Fernet::derive(PEPPER, Some(SALT));
        assert_eq!(own.decrypt(OWN).as_deref(), Some(TEXT));
        assert_eq!(own.decrypt(WHOLE_BLOCK).as_deref(), Some("exactly sixteen!"));
        let legacy = Fernet::derive(PEPPER, None);
        assert_eq!(legacy.decrypt(LEGACY).as_deref(), Some(TEXT));
        assert_eq!((own.decrypt(LEGACY), legacy.decrypt(OWN)), (None, None));
        assert_eq!(Fernet::derive("another pepper", Some(SALT)).decrypt(OWN), None);
        whatever_was_changed_or_cut_is_no_token(&own);
    }

    #[test]
    fn a_salt_that_openalgo_would_not_use_is_not_used() {
        for salt in [None, Some(""), Some("001122"), Some(&SALT[..63]), Some(&*SALT.replace('0', "x"))] {
            assert_eq!(salt_of(salt), LEGACY_SALT, "{salt:?}");
        }
        assert_eq!(salt_of(Some(&format!(" {} ", &SALT.to_uppercase()[..32])))[..3], [0x00, 0x11, 0x22]);
    }

    /// No test of its own: a key takes a second to derive without optimisation.
    fn whatever_was_changed_or_cut_is_no_token(fernet: &Fernet) {
        let bytes = BASE64.decode(OWN).expect("base64");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(fernet.decrypt(&BASE64.encode(&changed)), None, "byte {at}");
            assert_eq!(fernet.decrypt(&BASE64.encode(&bytes[..at])), None, "cut at {at}");
        }
        for text in ["", "pending", "kitekey-1234:first-token-5678", "gAAAAA"] {
            assert_eq!(fernet.decrypt(text), None, "{text}");
        }
    }
}
