//! The name of the session cookie, found in `Cookie` headers.

use std::iter;

use memchr::{memchr, memmem::Finder, memrchr};

/// The name of the session cookie, prepared for a fast search.
#[derive(Debug)]
pub(super) struct CookieName {
    name: String,
    finder: Finder<'static>,
}

impl CookieName {
    pub(super) fn new(name: String) -> Self {
        Self {
            finder: Finder::new(&name).into_owned(),
            name,
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.name
    }

    /// Returns the values of the cookies of this name in a `Cookie` header (RFC 6265 section 4.2.1), with the quotes that they
    /// may have.
    ///
    /// Parses only the pairs that contain the name anywhere, because most bytes of a header are the token or other cookies.
    pub(super) fn values<'a>(&'a self, header: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = Some(header);
        iter::from_fn(move || {
            loop {
                let pairs = rest.take()?;
                let found = self.finder.find(pairs)?;
                let start = memrchr(b';', &pairs[..found]).map_or(0, |before| before + 1);
                let pair = match memchr(b';', &pairs[found..]) {
                    Some(length) => {
                        rest = Some(&pairs[found + length + 1..]);
                        &pairs[start..found + length]
                    }
                    None => &pairs[start..],
                };
                if let Some(value) = value_of(pair, self.name.as_bytes()) {
                    return Some(value);
                }
            }
        })
    }
}

/// Returns the value of a pair if its name is `name`.
fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let equals = memchr(b'=', pair)?;
    let (pair_name, value) = (&pair[..equals], &pair[equals + 1..]);
    (pair_name.trim_ascii() == name).then(|| value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A simple implementation of [`CookieName::values`] to compare with.
    fn simple_values<'a>(name: &str, header: &'a [u8]) -> Vec<&'a [u8]> {
        let mut values = Vec::new();
        for pair in header.split(|byte| *byte == b';') {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            if let (Some(pair_name), Some(value)) = (parts.next(), parts.next())
                && pair_name.trim_ascii() == name.as_bytes()
            {
                values.push(value.trim_ascii());
            }
        }
        values
    }

    fn check(name: &str, header: &[u8]) {
        let cookie_name = CookieName::new(name.to_owned());
        let found: Vec<&[u8]> = cookie_name.values(header).collect();
        assert_eq!(found, simple_values(name, header), "{name} {header:?}");
    }

    /// Names as they are configured, and some that no cookie can have.
    const NAMES: [&str; 8] = ["hanko", "a", "aa", "__Host-hanko", "", "=", ";", " a"];

    /// Headers of pieces that matter for parsing, and of arbitrary bytes.
    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::sample::select(vec![
            "hanko",
            "hank",
            "a",
            "aa",
            "__Host-hanko",
            "=",
            ";",
            " ",
            "\t",
            "\"",
            "; ",
            "value",
        ]);
        let piece = prop_oneof![
            8 => pieces.prop_map(|piece| piece.as_bytes().to_vec()),
            1 => vec(any::<u8>(), 0..40),
        ];
        vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn values_are_those_of_the_simple_search(
            name in prop::sample::select(&NAMES[..]),
            header in headers(),
        ) {
            check(name, &header);
        }
    }

    #[test]
    fn only_the_name_of_a_pair_is_a_name() {
        for header in [
            "hanko=1",
            "a=1; hanko=2; b=3",
            "a=hanko; hanko2=1; xhanko=2; x hanko=3; a=hanko=4",
            " \thanko\t = 1 ;hanko",
            "hanko=1; HANKO=2; hanko=3",
            "hankohanko=1; hanko=hanko; hanko==",
            "=hanko; ; ;hanko=\"a\";",
        ] {
            check("hanko", header.as_bytes());
        }
        let cookie_name = CookieName::new("hanko".to_owned());
        let values: Vec<&[u8]> = cookie_name
            .values(b"a=hanko=0; hanko=1;hanko =\"2\" ; hankos=3")
            .collect();
        assert_eq!(values, [&b"1"[..], b"\"2\""]);
    }
}
