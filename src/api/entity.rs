//! Entities over HTTP: list, get, save and delete, as all kinds have them.
//!
//! A resource with more operations (commands, generated keys, soft deletion) has its own file and
//! uses these functions. Lists mask secrets, both in their documents and for filters and orders; an
//! administrator who reads one entity sees them.

use std::borrow::Cow;
use std::ops::Bound;

use super::tagged::BodySource;
use super::{Call, Collection, ListRequest, Outcome};
use crate::error::ApiError;
use crate::json::{FieldType, Number, scan, write_string};
use crate::query::params::Seconds;
use crate::query::{Document, Hints, ListField, ListKind, Raw, ScanPosition, SearchField, Source};
use crate::state::State;
use crate::state::command::{Command, EntitySave};
use crate::state::entity::{Entities, KINDS, Key, Kind, bad_key};
use crate::state::episode::EpisodeIndex;
use crate::state::record::{ArchivedFacts, EntityRecord};
use crate::state::tag::Versioned as _;

/// Renders one entity. `masked` hides secrets.
pub fn render(kind: Kind, entity: &EntityRecord, masked: bool, out: &mut Vec<u8>) -> BodySource {
    EntityDoc::new(kind, entity, masked).render(out);
    BodySource::of_moment(masked && entity.has_secrets)
}

/// An entity as the API shows it.
pub struct EntityDoc<'a> {
    kind: Kind,
    entity: &'a EntityRecord,
    config: Cow<'a, str>,
}

impl<'a> EntityDoc<'a> {
    pub fn new(kind: Kind, entity: &'a EntityRecord, masked: bool) -> Self {
        let config = entity.config.as_str();
        let config = if masked && entity.has_secrets {
            Cow::Owned(kind.schema().mask(config))
        } else {
            Cow::Borrowed(config)
        };
        Self {
            kind,
            entity,
            config,
        }
    }
}

impl Document for EntityDoc<'_> {
    fn key(&self) -> &str {
        &self.entity.key
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        if name == self.kind.key_field() {
            return Some(match Key::trusted(self.kind, &self.entity.key) {
                Key::Number(number) => Raw::Number(Number::Unsigned(number)),
                Key::Text(_) => Raw::Text(&self.entity.key),
            });
        }
        if name == "updated_at" && self.kind.shows_stamp() {
            let stamp = self.entity.updated_at.to_native();
            return Some(Raw::Number(Number::Unsigned(stamp)));
        }
        scan::member(&self.config, name).map(|text| Raw::Json(Cow::Borrowed(text)))
    }

    fn search_texts(&self) -> Option<[&str; 2]> {
        Some([&self.entity.key, &self.config])
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.reserve(self.config.len() + 128);
        out.push(b'{');
        write_string(out, self.kind.key_field());
        out.push(b':');
        if self.kind.has_number_keys() {
            out.extend_from_slice(self.entity.key.as_bytes());
        } else {
            write_string(out, &self.entity.key);
        }
        if self.config.len() > 2 {
            out.push(b',');
            out.extend_from_slice(&self.config.as_bytes()[1..self.config.len() - 1]);
        }
        if self.kind.shows_stamp() {
            out.extend_from_slice(b",\"updated_at\":");
            let stamp = self.entity.updated_at.to_native();
            out.extend_from_slice(itoa::Buffer::new().format(stamp).as_bytes());
        }
        out.push(b'}');
    }
}

/// All entities of a kind, as a source of the query engine.
pub struct EntitySource<'s> {
    kind: Kind,
    entities: &'s Entities,
    episodes: &'s EpisodeIndex,
}

impl<'s> EntitySource<'s> {
    pub fn new(kind: Kind, state: &'s State) -> Self {
        Self {
            kind,
            entities: state.entities(kind),
            episodes: state.episodes(),
        }
    }

    /// The streams whose episodes can match, unless a scan of the changes since the stamp is
    /// cheaper.
    fn media<'q>(&self, hints: &Hints<'q>) -> Option<&'q [Box<str>]> {
        const FEW: usize = 256;
        let (_, media) = *hints.equal.iter().find(|(path, _)| *path == "media")?;
        let few_changed = hints.stamp_min.is_some_and(|stamp| {
            let mut changed = self.entities.changed_from(stamp, None);
            changed.nth(FEW).is_none()
        });
        (self.kind == Kind::Episode && !few_changed).then_some(media)
    }

    /// Visits the episodes of some streams, one stream after the other.
    fn scan_media<'a>(
        &'a self,
        media: &[Box<str>],
        position: &mut ScanPosition,
        budget: usize,
        each: &mut dyn FnMut(EntityDoc<'a>),
    ) -> bool {
        visit_media(self.episodes, media, position, budget, &mut |episode| {
            each(EntityDoc::new(self.kind, episode, true));
        })
    }

    fn bound(&self, bound: Bound<&str>) -> Bound<Key> {
        bound.map(|key| Key::trusted(self.kind, key))
    }
}

impl Source for EntitySource<'_> {
    type Doc<'a>
        = EntityDoc<'a>
    where
        Self: 'a;

    fn count(&self) -> u64 {
        self.entities.by_key().len() as u64
    }

    fn get(&self, key: &str) -> Option<EntityDoc<'_>> {
        let key = Key::parse(self.kind, key).ok()?;
        let entity = self.entities.get(&key)?;
        Some(EntityDoc::new(self.kind, entity, true))
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = EntityDoc<'a>> {
        let range = (self.bound(from), Bound::Unbounded);
        let found = self.entities.by_key().range(range);
        found.map(|(_, entity)| EntityDoc::new(self.kind, entity, true))
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = EntityDoc<'a>> {
        let range = (Bound::Unbounded, self.bound(from));
        let found = self.entities.by_key().range(range).rev();
        found.map(|(_, entity)| EntityDoc::new(self.kind, entity, true))
    }

    fn scan<'a>(
        &'a self,
        hints: &Hints<'_>,
        position: &mut ScanPosition,
        budget: usize,
        each: &mut dyn FnMut(EntityDoc<'a>),
    ) -> bool {
        if let Some(media) = self.media(hints) {
            return self.scan_media(media, position, budget, each);
        }
        let mut left = budget.max(1);
        let after = position.after.take();
        let after = after.as_deref().map(|key| Key::trusted(self.kind, key));
        // Changes since a stamp are found in the order of stamps: the cost of a long poll depends
        // on the number of changes, not of entities.
        if let Some(stamp) = hints.stamp_min {
            let from = (position.part as u64).max(stamp);
            for (key, entity) in self.entities.changed_from(from, after) {
                each(EntityDoc::new(self.kind, entity, true));
                left -= 1;
                if left == 0 {
                    position.part = entity.updated_at.to_native() as usize;
                    position.after = Some(key.to_string().into());
                    return false;
                }
            }
            return true;
        }
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, entity) in self.entities.by_key().range((from, Bound::Unbounded)) {
            each(EntityDoc::new(self.kind, entity, true));
            left -= 1;
            if left == 0 {
                position.after = Some(key.to_string().into());
                return false;
            }
        }
        true
    }
}

/// Visits the next `budget` episodes of some streams, in order. Returns true at the end. `position`
/// counts streams and names the last episode visited.
pub fn visit_media<'a>(
    episodes: &'a EpisodeIndex,
    media: &[Box<str>],
    position: &mut ScanPosition,
    budget: usize,
    each: &mut dyn FnMut(&'a EntityRecord),
) -> bool {
    let mut left = budget.max(1);
    while let Some(name) = media.get(position.part) {
        let after = position.after.take();
        let after = after.and_then(|after| {
            let (opened_at, id) = after.split_once('.')?;
            Some((opened_at.parse().ok()?, id.parse().ok()?))
        });
        for episode in episodes.of(name, after) {
            each(episode);
            left -= 1;
            if left == 0 {
                let ArchivedFacts::Episode { opened_at, .. } = &episode.facts else {
                    unreachable!("the index of episodes holds episodes");
                };
                position.after = Some(format!("{opened_at}.{}", &*episode.key).into());
                return false;
            }
        }
        position.part += 1;
        left -= 1;
        if left == 0 {
            break;
        }
    }
    position.part >= media.len()
}

const fn text(path: &'static str) -> SearchField {
    SearchField { path, url: false }
}

macro_rules! list_kind {
    ($kind:expr, $sort:literal, [$($search:literal),*]) => {
        ListKind {
            collection: $kind.row().collection,
            key: $kind.row().key,
            key_order: $kind.row().order,
            default_sort: $sort,
            stamp: if $kind.row().stamp { Some("updated_at") } else { None },
            required: || $kind.schema().required(),
            search: &[$(text($search)),*],
            field: |path| list_field($kind, path),
            secret: |path| $kind.schema().is_secret(path),
            schema: || Some($kind.schema()),
        }
    };
}

/// By kind: the default order, and the fields that `q` searches.
#[rustfmt::skip]
static LIST_KINDS: [ListKind; KINDS.len()] = [
    list_kind!(Kind::Agent, "-id",
        ["id", "stats.local_ip", "stats.peer_ip", "stats.mac_address", "stats.version"]),
    list_kind!(Kind::ApiToken, "name", ["name"]),
    list_kind!(Kind::AuthBackend, "name", ["name"]),
    list_kind!(Kind::Balancer, "name", ["name"]),
    list_kind!(Kind::Episode, "updated_at", ["media"]),
    list_kind!(Kind::Person, "updated_at", ["external_id"]),
    // These two are in no list.
    list_kind!(Kind::DeletedAgent, "id", []),
    list_kind!(Kind::ReportGap, "hostname", []),
];

/// The description of a kind for the query engine.
pub fn list_kind(kind: Kind) -> &'static ListKind {
    &LIST_KINDS[kind as usize]
}

fn list_field(kind: Kind, path: &str) -> Option<ListField> {
    if path == "updated_at" && kind.shows_stamp() {
        return Some(ListField::top_level(path, FieldType::Moment));
    }
    if path == "stream" && kind == Kind::Agent {
        return Some(ListField::top_level(path, FieldType::String));
    }
    crate::query::field(kind.schema(), path)
}

impl Call<'_> {
    /// The key in the path.
    pub fn key(&self, kind: Kind) -> Result<Key, ApiError> {
        Key::parse(kind, self.parameter).map_err(|error| bad_key(kind, error))
    }
}

/// The list of one kind.
pub fn list(call: &Call<'_>, kind: Kind) -> Result<ListRequest, ApiError> {
    let query = call.query(list_kind(kind))?;
    Ok(ListRequest::new(Collection::Entities(kind), query))
}

/// The list of one kind; an empty one is parked for the time in a parameter.
pub fn polled_list(
    call: &Call<'_>,
    kind: Kind,
    timeout: &Seconds,
) -> Result<ListRequest, ApiError> {
    let list = list(call, kind)?;
    let wait = call.poll_wait(timeout)?;
    Ok(ListRequest { wait, ..list })
}

/// The entity in the path, or 404.
pub fn found<'a>(call: &Call<'a>, kind: Kind) -> Result<&'a EntityRecord, ApiError> {
    let key = call.key(kind)?;
    let entity = call.state.entities(kind).get(&key);
    entity.ok_or_else(|| kind.not_found())
}

pub fn get(call: &Call<'_>, kind: Kind) -> Result<Outcome, ApiError> {
    let entity = found(call, kind)?;
    let mut body = Vec::new();
    let source = render(kind, entity, call.masks(), &mut body);
    let answer = call.entity_answer(entity.tag(call.state), source, body)?;
    Ok(Outcome::Reply(answer))
}

pub fn save(call: &Call<'_>, kind: Kind) -> Result<Outcome, ApiError> {
    let save = EntitySave::from_body(kind, call.key(kind)?, call.json()?, "")?;
    Ok(Outcome::Command(Command::SaveEntity(save)))
}

pub fn delete(call: &Call<'_>, kind: Kind) -> Result<Outcome, ApiError> {
    let key = call.key(kind)?;
    Ok(Outcome::Command(Command::DeleteEntity { kind, key }))
}
