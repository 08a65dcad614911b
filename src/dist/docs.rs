//! The pages of documentation that the server serves: the sections of README, and references that
//! are made from the tables of the program itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

use crate::config::SETTINGS;
use crate::config::setting::{Effect, Written};
use crate::ui::docs::{DocPage, escaped};

const README: &str = include_str!("../../README.md");
const LIMITS: &str = include_str!("../limits.rs");

/// All pages. `metrics` is a text of all metrics, as the server exposes it.
pub fn pages(metrics: &str) -> Vec<DocPage> {
    let sections = sections(README);
    let anchors = anchors(&sections);
    let mut pages: Vec<DocPage> = sections
        .iter()
        .map(|section| DocPage {
            name: section.name.clone(),
            title: section.title.to_owned(),
            content: html_of(section, &anchors),
        })
        .collect();
    pages.push(reference("settings", "Settings", &settings()));
    pages.push(reference("metrics", "Metrics", &metric_table(metrics)));
    pages.push(reference("limits", "Limits", &limits(LIMITS)));
    pages
}

// ---- README -------------------------------------------------------------------------------------

/// A section of README, with its heading.
struct Section<'r> {
    name: String,
    title: &'r str,
    text: &'r str,
}

/// Splits README at its headings of the second level.
fn sections(readme: &str) -> Vec<Section<'_>> {
    let mut starts = vec![0];
    let mut is_code = false;
    let mut at = 0;
    for line in readme.split_inclusive('\n') {
        is_code ^= line.starts_with("```");
        if !is_code && line.starts_with("## ") {
            starts.push(at);
        }
        at += line.len();
    }
    starts.push(readme.len());
    let section = |part: &[usize]| {
        let text = &readme[part[0]..part[1]];
        let heading = text.lines().next().unwrap_or_default();
        let title = heading.trim_start_matches('#').trim();
        let is_first = part[0] == 0;
        Section {
            name: if is_first { String::new() } else { slug(title) },
            title: if is_first { "Getting started" } else { title },
            text,
        }
    };
    starts.windows(2).map(section).collect()
}

/// The anchor of a heading, as code hosts make it.
fn slug(title: &str) -> String {
    let mut slug = String::new();
    for letter in title.chars().flat_map(char::to_lowercase) {
        match letter {
            ' ' | '-' => slug.push('-'),
            letter if letter.is_alphanumeric() || letter == '_' => slug.push(letter),
            _ => {}
        }
    }
    slug
}

/// The address of each anchor of README.
fn anchors(sections: &[Section<'_>]) -> BTreeMap<String, String> {
    let mut anchors = BTreeMap::new();
    for section in sections {
        for (level, title) in headings(section.text) {
            let anchor = slug(&title);
            let page = if section.name.is_empty() {
                "./"
            } else {
                &section.name
            };
            let address = match level {
                HeadingLevel::H1 | HeadingLevel::H2 => page.to_owned(),
                _ => format!("{page}#{anchor}"),
            };
            anchors.entry(anchor).or_insert(address);
        }
    }
    anchors
}

fn parser(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

fn headings(text: &str) -> Vec<(HeadingLevel, String)> {
    let mut headings = Vec::new();
    let mut open: Option<(HeadingLevel, String)> = None;
    for event in parser(text) {
        match event {
            Event::Start(Tag::Heading { level, .. }) => open = Some((level, String::new())),
            Event::End(TagEnd::Heading(_)) => headings.extend(open.take()),
            Event::Text(text) | Event::Code(text) => {
                if let Some((_, title)) = &mut open {
                    title.push_str(&text);
                }
            }
            _ => {}
        }
    }
    headings
}

/// A section as HTML. Pictures, and links to files of the repository, are left out: the server has
/// neither. HTML in the text stays text.
fn html_of(section: &Section<'_>, anchors: &BTreeMap<String, String>) -> String {
    let mut titles = headings(section.text).into_iter();
    let mut dropped = Vec::new();
    let mut is_picture = false;
    let events = parser(section.text).filter_map(|event| match event {
        Event::Start(Tag::Image { .. }) => {
            is_picture = true;
            None
        }
        Event::End(TagEnd::Image) => {
            is_picture = false;
            None
        }
        _ if is_picture => None,
        Event::Start(Tag::Heading { level, .. }) => {
            let anchor = titles.next().map(|(_, title)| slug(&title));
            let mut open = format!("<{level}");
            if let Some(anchor) = anchor {
                _ = write!(open, " id=\"{}\"", escaped(&anchor));
            }
            open.push('>');
            Some(Event::Html(open.into()))
        }
        Event::Start(Tag::Link {
            link_type,
            dest_url,
            title,
            id,
        }) => {
            let address = match dest_url.strip_prefix('#') {
                Some(anchor) => anchors.get(anchor).cloned(),
                None => dest_url.contains("://").then(|| dest_url.to_string()),
            };
            dropped.push(address.is_none());
            let dest_url = CowStr::from(address?);
            Some(Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            }))
        }
        Event::End(TagEnd::Link) => (!dropped.pop()?).then_some(Event::End(TagEnd::Link)),
        Event::Html(text) | Event::InlineHtml(text) => Some(Event::Text(text)),
        other => Some(other),
    });
    let mut out = String::new();
    html::push_html(&mut out, events);
    // A table scrolls by itself on a narrow screen.
    let out = out.replace("<table>", "<div class=\"wide\"><table>");
    out.replace("</table>", "</table></div>")
}

// ---- references ---------------------------------------------------------------------------------

fn reference(name: &str, title: &str, content: &str) -> DocPage {
    DocPage {
        name: name.to_owned(),
        title: title.to_owned(),
        content: format!("<h1>{title}</h1>\n{content}"),
    }
}

/// A table; its cells are HTML.
fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut out = String::from("<div class=\"wide\"><table>\n<thead><tr>");
    for column in columns {
        _ = write!(out, "<th>{column}</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            _ = write!(out, "<td>{cell}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
    out
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", escaped(text))
}

/// Text with `code` in it, as the tables of the program have it.
fn prose(text: &str) -> String {
    let mut out = String::new();
    for (i, part) in text.split('`').enumerate() {
        out.push_str(&if i % 2 == 1 {
            code(part)
        } else {
            escaped(part)
        });
    }
    out
}

fn settings() -> String {
    let mut out = String::from(
        "<p>A flag overrides the environment, the environment overrides the file. The setting \
         <code>log_level</code> is the flag <code>--log-level</code> and the variable \
         <code>CENTRAL_LOG_LEVEL</code>, and so on. <code>weir check-config</code> prints the \
         effective values and where each comes from.</p>\n",
    );
    for of_heading in SETTINGS.chunk_by(|a, b| a.heading == b.heading) {
        _ = writeln!(out, "<h2>{}</h2>", escaped(of_heading[0].heading));
        let rows = of_heading.iter().map(|setting| {
            let value = match setting.written {
                Written::Default(value) => code(value),
                Written::Example(value) => format!("not set; {}", code(value)),
            };
            let effect = match setting.effect {
                Effect::AtOnce => "at once",
                Effect::AtStart => "at the next start",
            };
            let about = format!("{} Allowed: {}.", setting.doc(), setting.form);
            vec![code(setting.key), value, effect.to_owned(), prose(&about)]
        });
        out.push_str(&table(
            &[
                "Setting",
                "Default, or an example",
                "Takes effect",
                "Meaning",
            ],
            rows,
        ));
    }
    out
}

/// The families of a text of metrics, in the order of their names.
fn metric_table(metrics: &str) -> String {
    let mut families: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in metrics.lines() {
        let mut words = line.splitn(4, ' ').skip(1);
        if let (Some(kind), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) {
            match kind {
                "TYPE" => families.entry(name).or_default().0 = rest,
                "HELP" => families.entry(name).or_default().1 = rest,
                _ => {}
            }
        }
    }
    let rows = families
        .into_iter()
        .map(|(name, (kind, help))| vec![code(name), escaped(kind), prose(help)]);
    let head = "<p><code>GET /cluster/stats?format=openmetrics</code> answers these families in \
                the OpenMetrics format. Samples of counters end in <code>_total</code>. \
                <code>weir print grafana</code> and <code>weir print alerts</code> print a \
                dashboard and alert rules over them.</p>\n";
    format!("{head}{}", table(&["Family", "Type", "Meaning"], rows))
}

/// The constants of a source of limits, with their comments.
fn limits(source: &str) -> String {
    let mut rows = Vec::new();
    let mut comment = String::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("///") {
            if !comment.is_empty() {
                comment.push(' ');
            }
            comment.push_str(text.trim());
        } else if let Some(constant) = line.strip_prefix("pub const ") {
            let mut whole = constant.to_owned();
            while !whole.ends_with(';') {
                let Some(line) = lines.next() else { break };
                whole.push(' ');
                whole.push_str(line.trim());
            }
            let parts = whole.trim_end_matches(';').split_once(": ");
            if let Some((name, (_, value))) =
                parts.and_then(|(name, rest)| Some((name, rest.split_once(" = ")?)))
            {
                rows.push(vec![code(name), code(value), prose(&comment)]);
            }
            comment.clear();
        } else {
            comment.clear();
        }
    }
    let head = "<p>Hard limits of this version. Limits that are settings are on the page of the \
                settings.</p>\n";
    format!(
        "{head}{}",
        table(&["Limit", "Value", "Why"], rows.into_iter())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        let sections = sections(text);
        html_of(&sections[0], &anchors(&sections))
    }

    #[test]
    fn sections_end_at_headings_and_not_in_code() {
        let readme = "# Weir\n\nHi\n\n```sh\n## no heading\n```\n\n## The API\n\nText\n";
        let found = sections(readme);
        let names: Vec<(&str, &str)> = found.iter().map(|it| (&*it.name, it.title)).collect();
        assert_eq!(names, [("", "Getting started"), ("the-api", "The API")]);
        assert!(found[0].text.contains("## no heading"));
    }

    #[test]
    fn markup_of_the_text_stays_text_and_pictures_are_left_out() {
        let html = one(
            "# A\n\nT <script>x</script> a<b>b</b> ![P](p.png) [f](src/lib.rs) [w](https://w/)\n",
        );
        assert!(!html.contains("<script"), "{html}");
        assert!(!html.contains("<b>"), "{html}");
        assert!(!html.contains("img"), "{html}");
        assert!(html.contains(" f <a href=\"https://w/\">w</a>"), "{html}");
    }

    #[test]
    fn links_to_headings_lead_to_their_pages() {
        let readme = "# A\n\n[x](#the-part) [y](#b) [z](#gone)\n\n## B\n\n### The `part`\n";
        let html = one(readme);
        assert!(html.contains("<a href=\"b#the-part\">x</a>"), "{html}");
        assert!(html.contains("<a href=\"b\">y</a> z"), "{html}");
        let sections = sections(readme);
        let second = html_of(&sections[1], &anchors(&sections));
        assert!(second.contains("<h3 id=\"the-part\">"), "{second}");
    }

    #[test]
    fn every_limit_has_a_row_with_its_reason() {
        let page = limits(LIMITS);
        let constants = LIMITS.lines().filter(|line| line.starts_with("pub const "));
        let rows = page.matches("<tr><td>").count();
        assert_eq!(rows, constants.count());
        assert!(rows > 30, "{rows}");
        assert!(!page.contains("<td></td>"), "a limit without a reason");
    }
}
