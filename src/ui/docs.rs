//! The documentation below `/ui/docs/`: pages without scripts, which need no credentials and no
//! built interface.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::CHECKED;
use crate::error;
use crate::http::{Body, Headers, Response};

/// Where the pages are, below [`super::PATH`].
pub const FOLDER: &str = "docs/";
const STYLE_NAME: &str = "docs.css";
const STYLE: &str = include_str!("docs.css");
const HTML: &str = "text/html; charset=utf-8";

/// A page of the documentation.
pub struct DocPage {
    /// The last part of its address; empty for the first page.
    pub name: String,
    /// As the list of all pages names it.
    pub title: String,
    /// The content, as HTML.
    pub content: String,
}

/// A file as it is served.
struct DocFile {
    name: String,
    media_type: &'static str,
    tag: String,
    body: Arc<[u8]>,
}

impl DocFile {
    fn new(name: String, media_type: &'static str, text: &str) -> Self {
        Self {
            name,
            media_type,
            tag: format!("\"{:016x}\"", xxh3_64(text.as_bytes())),
            body: Arc::from(text.as_bytes()),
        }
    }
}

/// All pages, as they are served.
pub struct DocPages(Vec<DocFile>);

impl DocPages {
    pub fn new(pages: &[DocPage]) -> Self {
        let files = pages.iter().map(|page| {
            let text = whole(page, pages);
            DocFile::new(page.name.clone(), HTML, &text)
        });
        let style = DocFile::new(STYLE_NAME.to_owned(), "text/css; charset=utf-8", STYLE);
        Self(files.chain([style]).collect())
    }

    /// The page of this name, or 404.
    pub(super) fn response(&self, name: &str, headers: &Headers<'_>) -> Response {
        let Some(file) = self.0.iter().find(|file| file.name == name) else {
            return error::NOT_FOUND.error().into();
        };
        let is_known = headers.if_none_match().is_some_and(|tags| {
            let mut tags = tags.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            tags.any(|known| known.strip_prefix(b"W/").unwrap_or(known) == file.tag.as_bytes())
        });
        let response = if is_known {
            Response::new(304)
        } else {
            Response::with_body(200, file.media_type, Body::Shared(file.body.clone()))
        };
        response
            .header("ETag", file.tag.clone())
            .header("Cache-Control", CHECKED)
    }
}

/// A page with its frame: the list of all pages, and a way back to the interface.
fn whole(page: &DocPage, pages: &[DocPage]) -> String {
    let link = |other: &DocPage| {
        let mark = if other.name == page.name {
            " aria-current=\"page\""
        } else {
            ""
        };
        // Relative: a proxy may serve this server below a path.
        let address = if other.name.is_empty() {
            "./"
        } else {
            &other.name
        };
        format!(
            "<li><a href=\"{address}\"{mark}>{}</a></li>\n",
            escaped(&other.title)
        )
    };
    let links: String = pages.iter().map(link).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} – Weir</title>\n<link rel=\"icon\" href=\"data:,\">\n\
         <link rel=\"stylesheet\" href=\"{STYLE_NAME}\">\n</head>\n\
         <body>\n<a class=\"skip\" href=\"#content\">Skip to the content</a>\n\
         <nav aria-label=\"Documentation\">\n<p><a href=\"../\">Weir</a> {version}</p>\n\
         <ul>\n{links}</ul>\n</nav>\n<main id=\"content\">\n{content}</main>\n</body>\n</html>\n",
        title = escaped(&page.title),
        version = env!("CARGO_PKG_VERSION"),
        content = page.content,
    )
}

/// Text as HTML.
pub fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}
