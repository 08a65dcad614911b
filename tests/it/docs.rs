//! The documentation that the server serves: every page is there, every link leads somewhere, and
//! the references have all that they are about.

use std::collections::{BTreeMap, BTreeSet};

use weir_testkit::{API_KEY, Response, TestServer};

fn page(server: &TestServer, name: &str) -> Response {
    let path = format!("/ui/docs/{name}");
    server.connect().request("GET", &path, &[], b"")
}

/// The values of an attribute, in order.
fn values<'t>(html: &'t str, attribute: &str) -> Vec<&'t str> {
    let begin = format!(" {attribute}=\"");
    let parts = html.split(begin.as_str()).skip(1);
    parts
        .map(|part| part.split('"').next().expect("it is closed"))
        .collect()
}

/// All pages, by name.
fn pages(server: &TestServer) -> BTreeMap<String, String> {
    let first = page(server, "").expect(200).text();
    let navigation = first.split("</nav>").next().expect("a list of pages");
    let names = values(navigation, "href").into_iter();
    let names = names.filter(|name| !name.contains(['.', '#', '/', ':']));
    let mut pages: BTreeMap<String, String> = names
        .map(|name| (name.to_owned(), page(server, name).expect(200).text()))
        .collect();
    pages.insert(String::new(), first);
    pages
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let server = TestServer::new();
    let pages = pages(&server);
    let names: BTreeSet<&str> = pages.keys().map(String::as_str).collect();
    for expected in [
        "the-api-by-example",
        "the-command-line",
        "the-layouter",
        "run-your-media-servers-with-weir",
        "configuration",
        "security",
        "settings",
        "metrics",
        "limits",
    ] {
        assert!(names.contains(expected), "{expected}: {names:?}");
    }
    let mut checked = 0;
    for (name, html) in &pages {
        let marked = values(html, "aria-current");
        assert_eq!(marked, ["page"], "{name}");
        for link in values(html, "href") {
            if link.contains("://") || ["../", "docs.css", "data:,"].contains(&link) {
                continue;
            }
            let (to, anchor) = link.split_once('#').unwrap_or((link, ""));
            let to = match to {
                "" => name,
                "./" => "",
                to => to,
            };
            let target = pages.get(to);
            let target = target.unwrap_or_else(|| panic!("{name}: {link}"));
            if !anchor.is_empty() {
                assert!(values(target, "id").contains(&anchor), "{name}: {link}");
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn sections_of_readme_are_pages() {
    let server = TestServer::new();
    let pages = pages(&server);
    let readme = std::fs::read_to_string("README.md").expect("README.md can be read");
    let mut is_code = false;
    for line in readme.lines() {
        is_code ^= line.starts_with("```");
        if let Some(title) = line.strip_prefix("## ").filter(|_| !is_code) {
            let heading = format!(">{title}</h2>");
            let found = pages.values().filter(|html| html.contains(&heading));
            assert_eq!(found.count(), 1, "{title}");
        }
    }
    assert!(!pages.values().any(|html| html.contains("<script")));
    assert!(!pages.values().any(|html| html.contains("<img")));
}

#[test]
fn references_have_every_setting_and_every_metric() {
    let server = TestServer::new();
    let settings = page(&server, "settings").expect(200).text();
    let shipped = weir_testkit::run(&["print", "config"], &[], ".".as_ref());
    let shipped = String::from_utf8(shipped.stdout).expect("text");
    let keys = shipped.lines().filter_map(|line| {
        let (key, _) = line.strip_prefix('#')?.split_once(" = ")?;
        (!key.starts_with(' ')).then_some(key)
    });
    let mut count = 0;
    for key in keys {
        assert!(
            settings.contains(&format!("<td><code>{key}</code></td>")),
            "{key}"
        );
        count += 1;
    }
    assert!(count > 40, "{count}");
    let metrics = page(&server, "metrics").expect(200).text();
    let exposed = server
        .get("/cluster/stats?format=openmetrics")
        .expect(200)
        .text();
    let families = exposed
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let families: Vec<&str> = families.filter_map(|line| line.split(' ').next()).collect();
    assert!(families.len() > 40, "{families:?}");
    for family in families {
        assert!(
            metrics.contains(&format!("<td><code>{family}</code></td>")),
            "{family}"
        );
    }
}

#[test]
fn documentation_is_checked_by_its_tag_and_needs_no_credentials() {
    let server = TestServer::new();
    let first = page(&server, "limits").expect(200);
    let policy = first.header("Content-Security-Policy").expect("a policy");
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert_eq!(
        first.header("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    let tag = first.etag().expect("a tag").to_owned();
    let request = |method: &str, path: &str, fields: &[(&str, &str)]| {
        server.connect().request(method, path, fields, b"")
    };
    let known = [("If-None-Match", tag.as_str())];
    request("GET", "/ui/docs/limits", &known).expect(304);
    let head = request("HEAD", "/ui/docs/limits", &[]).expect(200);
    assert_eq!(
        (head.text().as_str(), head.etag()),
        ("", Some(tag.as_str()))
    );
    assert_eq!(
        request("GET", "/ui/docs", &[])
            .expect(302)
            .header("Location"),
        Some("docs/")
    );
    request("GET", "/ui/docs/docs.css", &[]).expect(200);
    for missing in [
        "nothing",
        "../limits",
        "limits/",
        "%2e%2e/limits",
        "index.html",
    ] {
        page(&server, missing).expect(404);
    }
    request("POST", "/ui/docs/limits", &[]).expect(405);
    let server = TestServer::with(&["--ui=false"]);
    page(&server, "").expect(401);
    let bearer = format!("Bearer {API_KEY}");
    let fields = [("Authorization", bearer.as_str())];
    let gone = server.connect().request("GET", "/ui/docs/", &fields, b"");
    gone.expect(404);
}
