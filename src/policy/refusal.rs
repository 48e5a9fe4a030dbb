//! What brokers say when they do not accept credentials: OpenAlgo's words (protocol 4.3) and those of the brokers' own libraries.
//!
//! In: an error message. Out: whether it means that the credentials must be read anew. Tests: at the end.

const WORDS: [&str; 13] = [
    "unauthorized",
    "forbidden",
    "authentication failed",
    "auth failed",
    "invalid token",
    "token expired",
    "access denied",
    "invalid credentials",
    "session expired",
    "access token has expired",
    "tokenexception",
    "invalid api_key",
    "invalid session",
];
/// Only as whole words: "no such symbol NIFTY2240315000CE" tells nothing of credentials.
const NUMBERS: [&str; 2] = ["401", "403"];

/// Whether a text tells of refused credentials, in any case.
pub fn is_auth_error(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let mut words = text.split(|c: char| !c.is_alphanumeric());
    WORDS.iter().any(|word| text.contains(word)) || words.any(|word| NUMBERS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_refused_credentials_are_known_in_any_case() {
        let said = [
            "HTTP 403 Forbidden",
            "status=401",
            "Token Expired, log in again",
            "Unauthorized",
            "Authentication FAILED: x",
            "auth failed",
            "Invalid Token",
            "Access denied for client",
            "invalid credentials",
            "Session expired",
            "Your access token has expired",
            "TokenException: x",
        ];
        for text in said {
            assert!(is_auth_error(text), "{text}");
        }
        for text in ["", "connection reset by peer", "HTTP 503", "no symbol NIFTY2240315000CE", "4031"] {
            assert!(!is_auth_error(text), "{text}");
        }
    }
}
