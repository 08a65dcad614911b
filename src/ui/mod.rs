//! The web interface: the files that `build.rs` embedded, and how they are served.
//!
//! `/ui/` is the page; it names its files below the hash of all of them, `/ui/HASH/`, where they
//! never change: clients keep them, and another hash is 404. The files need no credentials. They
//! have nothing in them that a request could change, and load nothing from elsewhere, which the
//! policy in their fields holds. All data comes from the API.

pub mod docs;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use self::docs::DocPages;
use crate::error;
use crate::http::{Body, Coding, Headers, Method, Response, VARY, quality};

mod embedded {
    use super::EmbeddedFile;
    include!(concat!(env!("OUT_DIR"), "/ui.rs"));
}

/// A built file, also in its codings.
pub struct EmbeddedFile {
    name: &'static str,
    media_type: &'static str,
    plain: &'static [u8],
    gzip: Option<&'static [u8]>,
    brotli: Option<&'static [u8]>,
}

/// Where the page is.
pub const PATH: &str = "/ui/";
/// The methods of all paths below [`PATH`].
pub const ALLOWED: &str = "GET, HEAD, OPTIONS";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'self'; \
                      form-action 'self'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'";
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// A cache may keep it, and has to send its tag each time.
const CHECKED: &str = "no-cache";

/// Why this program has no interface; `None` if it has.
pub fn missing() -> Option<&'static str> {
    Some(embedded::MISSING).filter(|reason| !reason.is_empty())
}

/// Whether a request is for the interface. `/` is for clients that prefer a page only.
pub fn is_page(path: &str, headers: &Headers<'_>) -> bool {
    match path {
        "/" => takes_html(headers),
        "/ui" => true,
        _ => path.starts_with(PATH),
    }
}

fn takes_html(headers: &Headers<'_>) -> bool {
    let mut types = headers
        .values("accept")
        .flat_map(|value| value.split(|byte| *byte == b','));
    types.any(|element| {
        let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_html = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case(b"text/html"));
        is_html && parts.filter_map(quality).all(|quality| quality > 0)
    })
}

/// The answer to a request that [`is_page`].
pub fn answer(
    method: Method,
    path: &str,
    headers: &Headers<'_>,
    docs: Option<&DocPages>,
) -> Response {
    let response = match (method.without_head(), path) {
        (Method::Get, "/ui/docs") => Response::new(302)
            .header("Location", docs::FOLDER)
            .header("Cache-Control", CHECKED),
        (Method::Get, "/" | "/ui") => Response::new(302)
            // Relative: a proxy may serve this server below a path.
            .header("Location", "ui/")
            .header("Cache-Control", CHECKED)
            .header(VARY, "Accept"),
        (Method::Get, path) => {
            let below = path.strip_prefix(PATH).unwrap_or_default();
            match (below.strip_prefix(docs::FOLDER), docs) {
                (Some(name), Some(docs)) => docs.response(name, headers),
                _ => file(below, headers),
            }
        }
        _ => Response::method_not_allowed(ALLOWED),
    };
    response
        .header("Content-Security-Policy", POLICY)
        .header("Referrer-Policy", "no-referrer")
        .header("Cross-Origin-Opener-Policy", "same-origin")
}

/// The file at a path below [`PATH`].
fn file(below: &str, headers: &Headers<'_>) -> Response {
    if let Some(reason) = missing() {
        return not_built(reason);
    }
    if below.is_empty() {
        return page(headers);
    }
    let found = below
        .split_once('/')
        .filter(|(hash, _)| *hash == embedded::HASH)
        .and_then(|(_, name)| LOADED.iter().find(|file| file.name == name));
    match found {
        Some(file) if file.name != INDEX => {
            file.response(headers).header("Cache-Control", FOR_EVER)
        }
        _ => Response::from(error::NOT_FOUND.error()),
    }
}

const INDEX: &str = "index.html";

fn page(headers: &Headers<'_>) -> Response {
    let tag = format!("\"{}\"", embedded::HASH);
    let is_known = headers.if_none_match().is_some_and(|tags| {
        let mut tags = tags.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        tags.any(|known| known.strip_prefix(b"W/").unwrap_or(known) == tag.as_bytes())
    });
    let index = LOADED.iter().find(|file| file.name == INDEX);
    let response = match index {
        _ if is_known => Response::new(304),
        Some(index) => index.response(headers),
        None => return Response::from(error::NOT_FOUND.error()),
    };
    response
        .header("ETag", tag)
        .header("Cache-Control", CHECKED)
}

/// A page in words, for a program that was built without the interface.
fn not_built(reason: &str) -> Response {
    let text = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Weir</title>\
         <h1>This server was built without its web interface</h1><p>{}</p>\
         <p>Install Node.js 20 or newer with npm, run <code>touch src/ui/web/package.json</code> \
         and build the server again. A built <code>src/ui/web/dist</code> is taken as it is, \
         without Node.js. The API does not need the interface.</p></html>",
        escaped(reason)
    );
    Response::with_body(
        501,
        "text/html; charset=utf-8",
        Body::Owned(text.into_bytes()),
    )
    .header("Cache-Control", "no-store")
}

fn escaped(text: &str) -> Cow<'_, str> {
    text.replace('&', "&amp;").replace('<', "&lt;").into()
}

static LOADED: LazyLock<Vec<LoadedFile>> =
    LazyLock::new(|| embedded::FILES.iter().map(LoadedFile::of).collect());

/// A file whose body every connection sends from where it is.
struct LoadedFile {
    name: &'static str,
    media_type: &'static str,
    plain: Arc<[u8]>,
    gzip: Option<Arc<[u8]>>,
    brotli: Option<Arc<[u8]>>,
}

impl LoadedFile {
    fn of(file: &EmbeddedFile) -> Self {
        Self {
            name: file.name,
            media_type: file.media_type,
            plain: file.plain.into(),
            gzip: file.gzip.map(Into::into),
            brotli: file.brotli.map(Into::into),
        }
    }

    /// The file in the smallest coding that the client accepts.
    fn response(&self, headers: &Headers<'_>) -> Response {
        let with = |body: &Arc<[u8]>| {
            Response::with_body(200, self.media_type, Body::Shared(body.clone()))
        };
        if let Some(body) = self.brotli.as_ref().filter(|_| accepts_brotli(headers)) {
            return with(body).header("Content-Encoding", "br");
        }
        let accepts_gzip = headers.accepts().contains(Coding::Gzip);
        match self.gzip.as_ref().filter(|_| accepts_gzip) {
            Some(body) => Response {
                coding: Some(Coding::Gzip),
                ..with(body)
            },
            None => with(&self.plain),
        }
    }
}

fn accepts_brotli(headers: &Headers<'_>) -> bool {
    let elements = headers.values("accept-encoding");
    let mut elements = elements.flat_map(|value| value.split(|byte| *byte == b','));
    elements.any(|element| {
        let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_brotli = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case(b"br"));
        is_brotli && parts.all(|part| quality(part).is_some_and(|quality| quality > 0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_of_a_build_without_interface_names_the_reason() {
        let response = not_built("npm ci failed: <offline>");
        let text = String::from_utf8(response.body.bytes().to_vec()).expect("text");
        assert_eq!(response.status, 501);
        assert!(text.contains("npm ci failed: &lt;offline>"), "{text}");
        assert!(text.contains("Node.js 20 or newer"), "{text}");
    }

    #[test]
    fn program_has_either_files_or_a_reason() {
        assert_eq!(missing().is_some(), embedded::FILES.is_empty());
        assert_eq!(embedded::HASH.is_empty(), embedded::FILES.is_empty());
        for file in embedded::FILES {
            assert!(!file.plain.is_empty(), "{}", file.name);
        }
    }
}
