//! Pages of random collections equal those of the list that the model makes.

use super::model::{Model, random_things};
use super::*;

#[test]
fn pages_in_both_directions_equal_the_list_of_the_model() {
    for seed in 0..4000 {
        let mut random = Random(seed);
        let things = random_things(&mut random);
        let model = Model::random(&mut random);
        let raw = model.raw(&mut random);
        let expected = model.list(&things);
        let story = format!("seed {seed}: {raw}");

        let mut walked = Vec::new();
        let mut pages = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let (page, body) = page_of(&things, &raw, cursor.as_deref(), &mut random);
            assert_eq!(page.estimated_count, expected.len() as u64, "{story}");
            assert_eq!(
                page.prev.is_some(),
                !pages.is_empty() && page.items > 0,
                "{story}"
            );
            let items = body["things"].as_array().expect("a list").clone();
            assert_eq!(items.len(), page.items);
            let is_whole = model.continues_by_stamp() && cursor.is_none();
            if !is_whole {
                assert!(items.len() <= model.limit, "{story}");
            }
            if let (true, Some(last)) = (is_whole, items.last()) {
                let next = expected.get(walked.len() + items.len());
                assert_ne!(
                    next.map(|next| &next["updated_at"]),
                    Some(&last["updated_at"]),
                    "{story}"
                );
            }
            walked.extend(items.clone());
            pages.push((items, page.prev));
            assert!(pages.len() < 100, "{story}");
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(walked, expected, "{story}");

        // And back again.
        if model.continues_by_stamp() {
            continue;
        }
        let mut prev = pages.last().and_then(|(_, prev)| prev.clone());
        for (items, _) in pages.iter().rev().skip(1) {
            let (page, body) = page_of(&things, &raw, prev.as_deref(), &mut random);
            assert_eq!(body["things"].as_array(), Some(items), "{story}");
            assert!(page.next.is_some(), "{story}");
            prev = page.prev;
        }
        assert_eq!(prev, None, "{story}");
    }
}

#[test]
fn scan_in_parts_finds_what_a_scan_in_slices_finds() {
    for seed in 0..4000 {
        let mut random = Random(seed);
        let things = random_things(&mut random);
        let raw = Model::random(&mut random).raw(&mut random);
        let mut cursor = String::new();
        // Onwards and back, a few pages of each.
        for at in 0..6 {
            let query = Query::parse(&format!("{raw}{cursor}"), &KIND, &[]);
            let query = query.expect("it was made by the model");
            let slices = in_slices(&query, &things, &mut random);
            let parts = in_parts(&query, &things, &mut random);
            let story = format!("seed {seed}: {raw}{cursor}");
            let text = |page: &Page| String::from_utf8_lossy(&page.body).into_owned();
            assert_eq!(text(&parts), text(&slices), "{story}");
            assert_eq!(parts.estimated_count, slices.estimated_count, "{story}");
            assert_eq!(parts.next, slices.next, "{story}");
            assert_eq!(parts.prev, slices.prev, "{story}");
            let further = if at < 3 { slices.next } else { slices.prev };
            let Some(further) = further else { break };
            cursor = "&cursor=".into();
            encode_component(&further, &mut cursor);
        }
    }
}

#[test]
fn page_holds_the_first_documents_in_any_scan_order() {
    for (seed, sort) in ["-n", "n", "-updated_at", "s,-n", "-name"]
        .iter()
        .enumerate()
    {
        let mut random = Random(seed as u64);
        let mut things = Things {
            parts: 3,
            ..Things::default()
        };
        for i in 0..1500_u64 {
            let n = if seed % 2 == 0 {
                i
            } else {
                random.next() % 900
            };
            let name = format!("{i:0width$}", width = 5 + i as usize % 2);
            things.insert(json!({"name": name, "updated_at": 10_000 - i, "n": n, "s": i % 7}));
        }
        let mut expected: Vec<&Value> = things.all.values().map(|thing| &thing.value).collect();
        let model = Model {
            sort: sort
                .split(',')
                .map(|key| (key.trim_start_matches('-'), key.starts_with('-')))
                .collect(),
            ..Model::default()
        };
        expected.sort_by(|a, b| model.order(a, b));
        // One position more than a page is kept in a buffer of twice that size, which is cut many
        // times here.
        let raw = format!("sort={sort}&limit=40&n_is_not=null");
        let mut walked = 0;
        let mut cursor: Option<String> = None;
        loop {
            let (page, body) = page_of(&things, &raw, cursor.as_deref(), &mut random);
            for thing in body["things"].as_array().expect("a list") {
                assert_eq!(thing, expected[walked], "{raw}");
                walked += 1;
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(walked, expected.len(), "{raw}");
    }
}

#[test]
fn documents_that_stay_are_seen_once_and_in_order() {
    for seed in 0..3000 {
        let mut random = Random(seed);
        let mut things = random_things(&mut random);
        let model = Model::random(&mut random);
        let raw = model.raw(&mut random);
        let story = format!("seed {seed}: {raw}");
        // Every second thing is left alone, all others come, change and go between pages.
        let stable: BTreeSet<String> = things.all.keys().step_by(2).cloned().collect();
        let expected: Vec<Value> = model
            .list(&things)
            .into_iter()
            .filter(|thing| stable.contains(thing["name"].as_str().unwrap_or("")))
            .collect();
        let backward = random.below(2) == 0;
        let start = if backward {
            format!("{raw}&$reversed=true")
        } else {
            raw.clone()
        };
        let mut walked = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..1000 {
            let (page, body) = match &cursor {
                Some(cursor) => page_of(&things, &raw, Some(cursor), &mut random),
                None => page_of(&things, &start, None, &mut random),
            };
            let items = body["things"].as_array().expect("a list");
            let kept = items
                .iter()
                .filter(|thing| stable.contains(thing["name"].as_str().unwrap_or("")))
                .cloned();
            if backward {
                walked.extend(kept.rev());
            } else {
                walked.extend(kept);
            }
            cursor = if backward { page.prev } else { page.next };
            if cursor.is_none() {
                break;
            }
            for _ in 0..random.below(4) {
                let name = format!("{}k{:02}", "x".repeat(random.below(3)), random.below(50));
                if stable.contains(&name) {
                    continue;
                }
                if random.below(3) == 0 {
                    things.all.remove(&name);
                } else {
                    let stamp = 100 + random.below(12) as u64;
                    things.insert(random.thing(&name, stamp));
                }
            }
        }
        assert_eq!(cursor, None, "{story}");
        if backward {
            walked.reverse();
        }
        assert_eq!(walked, expected, "{story}");
    }
}

#[test]
fn client_that_continues_from_the_last_stamp_misses_nothing() {
    for seed in 0..500 {
        let mut random = Random(seed);
        let mut things = Things {
            parts: 2,
            ..Things::default()
        };
        let mut copy: BTreeMap<String, u64> = BTreeMap::new();
        let mut seen = 0;
        for stamp in 1..=20 {
            // A batch of writes shares a stamp.
            for _ in 0..random.below(9) {
                let name = format!("k{:02}", random.below(20));
                things.insert(json!({"name": name, "updated_at": stamp}));
            }
            let raw = format!(
                "updated_at_gt={seen}&sort=updated_at&limit={}",
                1 + random.below(3)
            );
            let (_, body) = page_of(&things, &raw, None, &mut random);
            for thing in body["things"].as_array().expect("a list") {
                let stamp = thing["updated_at"].as_u64().expect("a stamp");
                copy.insert(thing["name"].as_str().expect("a name").to_owned(), stamp);
                seen = seen.max(stamp);
            }
        }
        for _ in 0..100 {
            let raw = format!("updated_at_gt={seen}&sort=updated_at&limit=2");
            let (page, body) = page_of(&things, &raw, None, &mut random);
            if page.items == 0 {
                break;
            }
            for thing in body["things"].as_array().expect("a list") {
                let stamp = thing["updated_at"].as_u64().expect("a stamp");
                copy.insert(thing["name"].as_str().expect("a name").to_owned(), stamp);
                seen = seen.max(stamp);
            }
        }
        let expected: BTreeMap<String, u64> = things
            .all
            .iter()
            .map(|(name, thing)| (name.clone(), thing.updated_at))
            .collect();
        assert_eq!(copy, expected, "seed {seed}");
    }
}

#[test]
fn change_wakes_a_poll_exactly_if_its_answer_shows_it() {
    for seed in 0..1500 {
        let mut random = Random(seed);
        let things = random_things(&mut random);
        let model = Model {
            limit: LIMIT_MAX,
            ..Model::random(&mut random)
        };
        let raw = model.raw(&mut random);
        let query = Query::parse(&raw, &KIND, &[]).expect("queries of the model are valid");
        for thing in things.all.values() {
            assert_eq!(
                query.matches(&thing),
                model.matches(&thing.value),
                "seed {seed}: {raw}"
            );
        }
    }
}
