//! Masks secrets as `***`, and restores them when a patch contains the mask.
//!
//! A secret is every scalar in a member marked `x-secret`, and, in any string of a document, the
//! password of a URL (`scheme://user:PASSWORD@host`), its user information if that has no colon
//! (`scheme://KEY@host`), and the parameters in [`SECRET_PARAMETERS`]. Empty secrets are not
//! masked: an empty text must not look as if it were set. URLs of cameras are often malformed (`/`,
//! `#`, `?` and `@` unescaped in the password); if a URL can be read in two ways, the reading that
//! masks more is taken.
//!
//! A secret is restored only in its context: the text around it (host, path, other members of an
//! array element) must be the stored one. A mask that cannot be restored stays, and `check` refuses
//! it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;
use percent_encoding::percent_decode;

use super::Schema;
use super::tree::{NodeId, Tree};
use crate::json::{self, Object, Value};

/// Shown instead of a secret.
pub const MASK: &str = "***";

/// Names of URL parameters whose values are secret, in lower case.
pub const SECRET_PARAMETERS: [&str; 28] = [
    "access_key",
    "access_token",
    "api_key",
    "api_token",
    "apikey",
    "auth",
    "auth_token",
    "authorization",
    "client_secret",
    "cluster_key",
    "credential",
    "jwt",
    "key",
    "pass",
    "passphrase",
    "passwd",
    "password",
    "private_key",
    "psw",
    "pwd",
    "secret",
    "secret_key",
    "sig",
    "sign_key",
    "signature",
    "streampoint_key",
    "token",
    "wmsauthsign",
];

/// The secret members of a schema as an automaton. A member that is secret in one variant of a
/// union is masked in all of them. States are sets of nodes, determinized once, so a text is masked
/// without looking ahead for its variant.
pub(super) struct Masks {
    states: Box<[MaskState]>,
    root: StateId,
    /// A document without a member of these names has no secret member.
    names: SecretNames,
}

type StateId = u16;

/// State of a value without secret members.
const PLAIN: StateId = 0;
/// State of a value that is secret as a whole.
const SECRET: StateId = 1;

#[derive(Default)]
struct MaskState {
    /// Sorted; only members that are not `PLAIN`.
    members: Box<[(Box<str>, StateId)]>,
    /// Sorted names of plain members, to which `rest` does not apply.
    plain: Box<[Box<str>]>,
    rest: StateId,
    items: StateId,
}

impl Masks {
    pub(super) fn of(tree: &Tree, root: NodeId) -> Self {
        let mut build = MaskBuilder {
            tree,
            known: BTreeMap::new(),
            states: vec![MaskState::default(), MaskState::default()],
        };
        let mut set = BTreeSet::new();
        tree.spread(root, &mut set);
        let root = build.state(&set);
        let useful = build.useful();
        let keep = |id: StateId| if useful.contains(&id) { id } else { PLAIN };
        for state in &mut build.states {
            state.rest = keep(state.rest);
            state.items = keep(state.items);
            let (kept, plain): (Vec<_>, Vec<_>) = std::mem::take(&mut state.members)
                .into_vec()
                .into_iter()
                .partition(|(_, next)| useful.contains(next));
            state.members = kept.into();
            state.plain = if state.rest == PLAIN {
                Box::default()
            } else {
                plain.into_iter().map(|(name, _)| name).collect()
            };
        }
        let root = keep(root);
        Self {
            names: SecretNames::of(&build.states, root),
            root,
            states: build.states.into(),
        }
    }

    /// A canonical text at a state with its secrets masked.
    fn text(&self, state: StateId, text: &str) -> String {
        let mut scan = TextMasker {
            masks: self,
            text,
            at: 0,
            copied: 0,
            out: String::with_capacity(text.len() + 16),
        };
        scan.value(state);
        scan.out.push_str(&text[scan.copied..]);
        scan.out
    }

    fn member(&self, state: StateId, key: &str) -> StateId {
        if state <= SECRET {
            return state;
        }
        let state = &self.states[usize::from(state)];
        match state
            .members
            .binary_search_by(|(name, _)| (**name).cmp(key))
        {
            Ok(at) => state.members[at].1,
            Err(_)
                if state.rest != PLAIN
                    && state
                        .plain
                        .binary_search_by(|name| (**name).cmp(key))
                        .is_err() =>
            {
                state.rest
            }
            Err(_) => PLAIN,
        }
    }

    fn items(&self, state: StateId) -> StateId {
        if state <= SECRET {
            state
        } else {
            self.states[usize::from(state)].items
        }
    }
}

/// The names of the members that are secret or, as maps and arrays, consist of secrets: to find out
/// from a text, without reading its structure, that it has no secret member.
struct SecretNames {
    /// Sorted by their last byte.
    names: Box<[Box<str>]>,
    /// A secret needs no member.
    everywhere: bool,
}

impl SecretNames {
    fn of(states: &[MaskState], root: StateId) -> Self {
        let mut secret = BTreeSet::from([SECRET]);
        loop {
            let before = secret.len();
            for (id, state) in states.iter().enumerate() {
                if secret.contains(&state.rest) || secret.contains(&state.items) {
                    secret.insert(id as StateId);
                }
            }
            if secret.len() == before {
                break;
            }
        }
        let names: BTreeSet<(Option<u8>, &str)> = states
            .iter()
            .flat_map(|state| &state.members)
            .filter(|(_, next)| secret.contains(next))
            .map(|(name, _)| (name.bytes().last(), &**name))
            .collect();
        Self {
            names: names.into_iter().map(|(_, name)| name.into()).collect(),
            everywhere: secret.contains(&root),
        }
    }

    /// Whether a canonical text may have a member of these names.
    fn may_be_in(&self, text: &[u8]) -> bool {
        let last = |name: &str| name.bytes().last();
        self.everywhere
            || memmem::find_iter(text, b"\":").any(|end| {
                let before = text[..end].last().copied();
                let first = self.names.partition_point(|name| last(name) < before);
                self.names[first..]
                    .iter()
                    .take_while(|name| last(name) == before)
                    .any(|name| text[..end].ends_with(name.as_bytes()))
            })
    }
}

struct MaskBuilder<'a> {
    tree: &'a Tree,
    known: BTreeMap<BTreeSet<NodeId>, StateId>,
    states: Vec<MaskState>,
}

impl MaskBuilder<'_> {
    fn state(&mut self, set: &BTreeSet<NodeId>) -> StateId {
        if set.iter().any(|id| self.tree[*id].secret) {
            return SECRET;
        }
        if let Some(id) = self.known.get(set) {
            return *id;
        }
        let id = StateId::try_from(self.states.len()).expect("a schema has fewer mask states");
        self.states.push(MaskState::default());
        self.known.insert(set.clone(), id);
        let (mut members, mut rest, mut items) = (
            BTreeMap::<&str, BTreeSet<NodeId>>::new(),
            BTreeSet::new(),
            BTreeSet::new(),
        );
        for node in set.iter().map(|id| &self.tree[*id]) {
            if let Some(rules) = &node.object {
                for property in &rules.properties {
                    self.spread(property.node, members.entry(&property.name).or_default());
                }
                rules
                    .additional
                    .iter()
                    .for_each(|id| self.spread(*id, &mut rest));
            }
            node.array
                .iter()
                .filter_map(|rules| rules.items)
                .for_each(|id| self.spread(id, &mut items));
        }
        let members: Vec<(Box<str>, StateId)> = members
            .into_iter()
            .map(|(name, set)| (name.into(), self.state(&set)))
            .collect();
        let state = MaskState {
            members: members.into(),
            plain: Box::default(),
            rest: self.state(&rest),
            items: self.state(&items),
        };
        self.states[usize::from(id)] = state;
        id
    }

    /// Like `Tree::spread`, but a union may be marked secret as a whole.
    fn spread(&self, id: NodeId, into: &mut BTreeSet<NodeId>) {
        if self.tree[id].secret {
            into.insert(id);
        } else {
            self.tree.spread(id, into);
        }
    }

    /// States from which a secret can be reached.
    fn useful(&self) -> BTreeSet<StateId> {
        let mut useful = BTreeSet::from([SECRET]);
        loop {
            let before = useful.len();
            for (id, state) in self.states.iter().enumerate() {
                let reaches = |next: StateId| useful.contains(&next);
                if reaches(state.rest)
                    || reaches(state.items)
                    || state.members.iter().any(|(_, next)| reaches(*next))
                {
                    useful.insert(id as StateId);
                }
            }
            if useful.len() == before {
                return useful;
            }
        }
    }
}

impl Schema {
    /// Whether masking would change anything.
    pub fn has_secrets(&self, stored: &Value) -> bool {
        self.masks.any(self.masks.root, stored)
    }

    /// Whether only URLs in texts can be secrets.
    pub(super) fn has_no_secret_members(&self) -> bool {
        self.masks.root == PLAIN
    }

    /// Whether masking could change a canonical text. Mostly exact, and much faster than `mask`.
    pub fn may_have_secrets(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        // What the secrets of URLs are behind; see `url_secrets`.
        memchr::memchr3(b'@', b'?', b'&', bytes).is_some()
            || memchr::memchr2(b'#', b';', bytes).is_some()
            || self.masks.names.may_be_in(bytes)
    }

    /// Masks the secrets of a canonical text; the result is canonical. Reads the text once and
    /// builds no value.
    pub fn mask(&self, text: &str) -> String {
        let masked = self.masks.text(self.masks.root, text);
        debug_assert!(masked == text || self.may_have_secrets(text));
        masked
    }

    /// Masks the secrets of the value of one member. Costs little if it can have none.
    pub fn mask_member<'t>(&self, name: &str, value: &'t str) -> Cow<'t, str> {
        let state = self.masks.member(self.masks.root, name);
        if state == PLAIN && memmem::find(value.as_bytes(), b"://").is_none() {
            return Cow::Borrowed(value);
        }
        Cow::Owned(self.masks.text(state, value))
    }

    /// Masks the secrets of a parsed value.
    pub fn mask_value(&self, value: &mut Value) {
        self.masks.mask(self.masks.root, value);
    }

    /// Whether the members of a path, arrays mapped over, name a secret or a part of one.
    pub fn is_secret(&self, path: &[Box<str>]) -> bool {
        let mut state = self.masks.root;
        for step in path {
            let direct = self.masks.member(state, step);
            state = if direct == PLAIN {
                self.masks.member(self.masks.items(state), step)
            } else {
                direct
            };
            if state == SECRET {
                return true;
            }
        }
        self.masks.items(state) == SECRET
    }

    /// Restores the secrets of `stored` where `patch` contains what `mask` shows for them.
    pub fn unmask(&self, patch: &mut Value, stored: &Value) {
        if !has_mask(patch) {
            return;
        }
        self.masks.restore(self.masks.root, patch, stored);
    }
}

impl Masks {
    fn any(&self, state: StateId, value: &Value) -> bool {
        match value {
            Value::Null | Value::Bool(_) => false,
            Value::Number(_) => state == SECRET,
            Value::String(text) => masked(state, text).is_some(),
            Value::Array(items) => {
                let state = self.items(state);
                items.iter().any(|item| self.any(state, item))
            }
            Value::Object(object) => object
                .iter()
                .any(|(key, value)| self.any(self.member(state, key), value)),
        }
    }

    fn mask(&self, state: StateId, value: &mut Value) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(_) => {
                if state == SECRET {
                    *value = Value::from(MASK);
                }
            }
            Value::String(text) => {
                if let Some(masked) = masked(state, text) {
                    *text = masked.into();
                }
            }
            Value::Array(items) => {
                let state = self.items(state);
                for item in items {
                    self.mask(state, item);
                }
            }
            Value::Object(object) => object
                .iter_mut()
                .for_each(|(key, value)| self.mask(self.member(state, key), value)),
        }
    }

    fn restore(&self, state: StateId, patch: &mut Value, stored: &Value) {
        match (&mut *patch, stored) {
            (Value::String(text), _)
                if text.contains(MASK)
                    && shown(state, stored).is_some_and(|shown| *shown == **text) =>
            {
                *patch = stored.clone();
            }
            (Value::Object(members), Value::Object(stored)) => {
                for (key, value) in members.iter_mut() {
                    if let Some(stored) = stored.get(key) {
                        self.restore(self.member(state, key), value, stored);
                    }
                }
            }
            (Value::Array(items), Value::Array(stored)) => {
                self.restore_items(self.items(state), items, stored);
            }
            _ => {}
        }
    }

    /// An array is sent as a whole, and its elements may have been moved, added or removed. An
    /// element gets the secrets of the stored element it was made from, if that is unambiguous.
    fn restore_items(&self, state: StateId, items: &mut [Value], stored: &[Value]) {
        let open: Vec<usize> = (0..items.len())
            .filter(|at| has_mask(&items[*at]))
            .collect();
        if open.is_empty() {
            return;
        }
        // Each stored element as it is shown, with its text.
        let shown: Vec<(Value, String)> = stored
            .iter()
            .map(|item| {
                let mut item = item.clone();
                self.mask(state, &mut item);
                let text = item.to_text();
                (item, text)
            })
            .collect();
        // First the elements that are sent as they were shown, with or without defaults. Elements
        // that are shown alike are distinguished by their order if all of them are present.
        let mut groups: BTreeMap<&str, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        for (at, (_, text)) in shown.iter().enumerate() {
            groups.entry(text).or_default().0.push(at);
        }
        let mut rest = Vec::new();
        for at in open {
            // The stored element with the longest text, so `{"url"}` is not taken for
            // `{"title","url"}`.
            let best = shown
                .iter()
                .filter(|(item, _)| covers(&items[at], item))
                .max_by_key(|(_, text)| text.len());
            match best {
                Some((_, text)) => groups.entry(text).or_default().1.push(at),
                None => rest.push(at),
            }
        }
        for (sources, targets) in groups.values() {
            let alike = sources.iter().all(|at| stored[*at] == stored[sources[0]]);
            if alike || sources.len() == targets.len() {
                for (nth, target) in targets.iter().enumerate() {
                    let source = if alike { sources[0] } else { sources[nth] };
                    self.restore(state, &mut items[*target], &stored[source]);
                }
            }
        }
        // Then the edited elements. A URL contains the address of its password, so it is restored
        // from any element that shows the same URL; a bare mask has no such context and is not
        // restored.
        for at in rest {
            if has_bare_mask(&items[at]) {
                continue;
            }
            let mut found: Vec<Value> = Vec::new();
            for source in stored {
                let mut candidate = items[at].clone();
                self.restore(state, &mut candidate, source);
                if !has_mask(&candidate) && !found.contains(&candidate) {
                    found.push(candidate);
                }
            }
            if found.len() == 1 {
                items[at] = found.swap_remove(0);
            }
        }
    }
}

/// Whether `sent` contains everything in `shown`; it may contain more, such as defaults.
fn covers(sent: &Value, shown: &Value) -> bool {
    match (sent, shown) {
        (Value::Object(sent), Value::Object(shown)) => shown
            .iter()
            .all(|(key, value)| sent.get(key).is_some_and(|sent| covers(sent, value))),
        (Value::Array(sent), Value::Array(shown)) => {
            sent.len() == shown.len()
                && sent
                    .iter()
                    .zip(shown)
                    .all(|(sent, shown)| covers(sent, shown))
        }
        (sent, shown) => sent == shown,
    }
}

fn has_mask(value: &Value) -> bool {
    // Nearly all texts have no asterisk.
    any_text(value, &|text| {
        memchr::memchr(b'*', text.as_bytes()).is_some() && text.contains(MASK)
    })
}

fn has_bare_mask(value: &Value) -> bool {
    any_text(value, &|text| text == MASK)
}

fn any_text(value: &Value, test: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => test(text),
        Value::Array(items) => items.iter().any(|item| any_text(item, test)),
        Value::Object(object) => object_values(object).any(|value| any_text(value, test)),
        _ => false,
    }
}

fn object_values(object: &Object) -> impl Iterator<Item = &Value> {
    object.iter().map(|(_, value)| value)
}

/// A string with its secrets masked; `None` if nothing changes.
fn masked(state: StateId, text: &str) -> Option<String> {
    if state == SECRET {
        return (!text.is_empty() && text != MASK).then(|| MASK.to_owned());
    }
    urls_masked(text)
}

/// A text of any kind with the secrets of its URLs masked.
pub fn mask_urls(text: &str) -> Cow<'_, str> {
    urls_masked(text).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Whether a text has secrets in URLs, other than masked ones.
pub(super) fn has_url_secrets(text: &str) -> bool {
    memchr::memchr(b':', text.as_bytes()).is_some() && urls_masked(text).is_some()
}

/// A text with the secrets of its URLs masked; `None` if nothing changes.
fn urls_masked(text: &str) -> Option<String> {
    let spans = url_secrets(text);
    if spans.iter().all(|(start, end)| &text[*start..*end] == MASK) {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (start, end) in spans {
        out.push_str(&text[copied..start]);
        out.push_str(MASK);
        copied = end;
    }
    out.push_str(&text[copied..]);
    Some(out)
}

/// A scalar as it is shown; `None` if nothing changes.
fn shown(state: StateId, stored: &Value) -> Option<String> {
    match stored {
        Value::String(text) => masked(state, text),
        Value::Number(_) if state == SECRET => Some(MASK.to_owned()),
        _ => None,
    }
}

/// Whether a URL contains a mask instead of its secret.
pub(super) fn has_masked_password(url: &str) -> bool {
    // Nearly all URLs have no asterisk.
    memmem::find(url.as_bytes(), MASK.as_bytes()).is_some()
        && url_secrets(url)
            .iter()
            .any(|(start, end)| &url[*start..*end] == MASK)
}

/// Byte ranges of the secrets of all URLs in a text, ascending, none empty. Linear in the length of
/// the text.
fn url_secrets(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut spans: Vec<(usize, usize)> = Vec::new();
    // A URL ends at a space. Several URLs may be in one word; they share its end and its last at
    // sign.
    let (mut word_end, mut word_at) = (0, None);
    let mut from = 0;
    while let Some(found) = memmem::find(&bytes[from..], b"://") {
        let start = from + found + 3;
        if start > word_end {
            word_end = bytes[start..]
                .iter()
                .position(u8::is_ascii_whitespace)
                .map_or(bytes.len(), |length| start + length);
            word_at = memchr::memrchr(b'@', &bytes[start..word_end]).map(|at| start + at);
        }
        let last_at = word_at.filter(|at| *at >= start).map(|at| at - start);
        // An at sign after the next `://` probably belongs to that URL.
        let own = &bytes[start..word_end];
        let own = &own[..memmem::find(own, b"://").unwrap_or(own.len())];
        let own_at = memchr::memrchr(b'@', own);
        let mut after = start;
        if let Some((first, last)) = password(&text[start..word_end], own_at, last_at) {
            spans.push((start + first, start + last));
            after = start + last;
        }
        // The text after the next `://` is examined on its own: it may be a URL in a parameter of
        // this one.
        let next =
            memmem::find(&bytes[after..word_end], b"://").map_or(word_end, |length| after + length);
        from = parameters(&bytes[..word_end], after, next, &mut spans);
    }
    spans
}

/// The secret part of the user information in the text after `://`. `last_at` is its last at sign,
/// `own_at` the last one before another `://`.
fn password(rest: &str, own_at: Option<usize>, last_at: Option<usize>) -> Option<(usize, usize)> {
    let mut at = last_at?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    if authority.contains('@') {
        at = own_at?;
    } else {
        // In `user:pa/ss@host` the text after the colon is not a port, so the authority extends to
        // the at sign. A port is followed by a path.
        let (_, port) = authority.rsplit_once(':')?;
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
        if rest.starts_with('[') || is_port && rest[end..].starts_with('/') {
            return None;
        }
    }
    let start = rest[..at].find(':').map_or(0, |colon| colon + 1);
    (start < at).then_some((start, at))
}

/// Finds the values of secret parameters that begin between `from` and `to`. `url` ends where the
/// URL does. Returns the position to continue at.
fn parameters(url: &[u8], from: usize, to: usize, spans: &mut Vec<(usize, usize)>) -> usize {
    let mut at = from;
    while at < to {
        let Some(found) = url[at..to]
            .iter()
            .position(|byte| matches!(byte, b'?' | b'&' | b'#' | b';'))
        else {
            return to;
        };
        at += found + 1;
        if let Some(length) = secret_name(&url[at..]) {
            let start = at + length + 1;
            // Up to the next parameter or the end. The value may contain anything else, even a URL.
            at = url[start..]
                .iter()
                .position(|byte| *byte == b'&')
                .map_or(url.len(), |length| start + length);
            if at > start {
                spans.push((start, at));
            }
        }
    }
    at
}

/// The length of the name of a secret parameter that the text begins with; `=` follows it. A name
/// with escapes is read as servers read it.
fn secret_name(text: &[u8]) -> Option<usize> {
    /// Bytes of the longest name with each byte escaped.
    const NAME_BYTES_MAX: usize = 3 * 16;
    let head = &text[..text.len().min(NAME_BYTES_MAX + 1)];
    let length = head.iter().position(|byte| !is_of_name(*byte))?;
    if head[length] != b'=' {
        return None;
    }
    let name = percent_decode(&head[..length]).decode_utf8().ok()?;
    let mut known = SECRET_PARAMETERS.iter();
    known
        .any(|known| known.eq_ignore_ascii_case(&name))
        .then_some(length)
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'%')
}

/// Copies a canonical text with its secrets replaced. The text is written by this crate, so it is
/// well-formed and of bounded depth.
struct TextMasker<'a> {
    masks: &'a Masks,
    text: &'a str,
    at: usize,
    /// Everything before this offset is in `out`.
    copied: usize,
    out: String,
}

impl TextMasker<'_> {
    fn value(&mut self, state: StateId) {
        match self.text.as_bytes()[self.at] {
            b'{' => self.nested(b'}', |scan| {
                let (start, end) = scan.string();
                let next = if state <= SECRET {
                    state
                } else if scan.text[start..end].contains('\\') {
                    scan.masks.member(state, &unescape(&scan.text[start..end]))
                } else {
                    scan.masks.member(state, &scan.text[start..end])
                };
                scan.at += 1; // the colon
                scan.value(next);
            }),
            b'[' => {
                let state = self.masks.items(state);
                self.nested(b']', |scan| scan.value(state));
            }
            b'"' => {
                let (start, end) = self.string();
                let raw = &self.text[start..end];
                // In a member that is not secret by name only a URL can contain a secret.
                if state == SECRET || memmem::find(raw.as_bytes(), b"://").is_some() {
                    let escaped = raw.contains('\\');
                    let shown = if escaped {
                        masked(state, &unescape(raw))
                    } else {
                        masked(state, raw)
                    };
                    if let Some(shown) = shown {
                        let mut text = Vec::with_capacity(shown.len() + 2);
                        json::write_string(&mut text, &shown);
                        self.replace(start - 1, end + 1, &json::text_of(text));
                    }
                }
            }
            first => {
                let start = self.at;
                let length = self.text[start..]
                    .find([',', ']', '}'])
                    .unwrap_or(self.text.len() - start);
                self.at += length;
                if state == SECRET && (first == b'-' || first.is_ascii_digit()) {
                    self.replace(start, self.at, "\"***\"");
                }
            }
        }
    }

    fn nested(&mut self, close: u8, mut each: impl FnMut(&mut Self)) {
        self.at += 1;
        if self.text.as_bytes()[self.at] != close {
            loop {
                each(self);
                if self.text.as_bytes()[self.at] == close {
                    break;
                }
                self.at += 1; // the comma
            }
        }
        self.at += 1;
    }

    /// The next byte is the opening quote; stops behind the closing one. Returns the range between
    /// them.
    fn string(&mut self) -> (usize, usize) {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut end = start;
        loop {
            end = json::special_from(bytes, end).expect("a canonical string is closed");
            if bytes[end] == b'"' {
                self.at = end + 1;
                return (start, end);
            }
            end += 2;
        }
    }

    fn replace(&mut self, start: usize, end: usize, with: &str) {
        self.out.push_str(&self.text[self.copied..start]);
        self.out.push_str(with);
        self.copied = end;
    }
}

/// Content of an escaped string of canonical text.
fn unescape(raw: &str) -> String {
    match json::parse(format!("\"{raw}\"").as_bytes()) {
        Ok(Value::String(text)) => text.into(),
        _ => unreachable!("the text is canonical"),
    }
}
