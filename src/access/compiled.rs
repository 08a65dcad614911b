//! Compiled rules of saved authorization backends.

use std::collections::HashMap;
use std::sync::Arc;

use super::rules::Rules;
use crate::json::{self, Object, Value};
use crate::state::record::EntityRecord;

/// Most backends whose compiled rules a core keeps.
const COMPILED_MAX: usize = 1024;

/// Compiled rules of saved backends. Owned by one core; filled on first use.
#[derive(Default)]
pub struct CompiledRules {
    by_name: HashMap<Box<str>, (EntityRecord, Arc<Rules>)>,
}

impl CompiledRules {
    /// The rules of a backend, compiled again if its record has changed.
    pub fn rules(&mut self, record: &EntityRecord) -> Arc<Rules> {
        let name: &str = &record.key;
        if let Some((of, rules)) = self.by_name.get(name)
            && Arc::ptr_eq(of.bytes(), record.bytes())
        {
            return rules.clone();
        }
        let config = match json::parse(record.config.as_bytes()) {
            Ok(Value::Object(config)) => config,
            _ => Object::new(),
        };
        // The rules were checked by the save; rules that cannot be parsed admit no session.
        let rules = Arc::new(Rules::parse(&config, "").unwrap_or_default());
        if self.by_name.len() >= COMPILED_MAX {
            self.by_name.clear();
        }
        self.by_name
            .insert(name.into(), (record.clone(), rules.clone()));
        rules
    }
}
