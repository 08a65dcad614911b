//! Rights of tokens from any configuration: all queries agree, and a cap only removes rights.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::testing::access::{Action, Listable, Rights};
use weir::testing::json::{Value, parse};

const COLLECTIONS: [&str; 4] = ["streams", "streamers", "auth", ""];
const KEYS: [&str; 6] = ["a", "location1/a", "location1/a/b", "*", "%2F", ""];

fuzz_target!(|data: &[u8]| {
    let Ok(Value::Object(mut config)) = parse(data) else {
        return;
    };
    let rights = match Rights::parse(&config, "/at") {
        Ok(rights) => rights,
        Err(error) => {
            assert_eq!(error.status, 400);
            let pointer = error.items[0].pointer.as_deref();
            assert!(pointer.is_some_and(|pointer| pointer.starts_with("/at/")));
            return;
        }
    };
    config.remove("auth_scopes");
    let uncapped = Rights::parse(&config, "").expect("its permissions were read before");
    for collection in COLLECTIONS {
        let listable = rights.listable(collection);
        assert_eq!(
            listable == Listable::Everything,
            rights.may(Action::List, collection, None)
        );
        for action in Action::ALL {
            for key in KEYS.map(Some).into_iter().chain([None]) {
                let may = rights.may(action, collection, key);
                assert!(!may || uncapped.may(action, collection, key));
                if may && action == Action::List {
                    assert_ne!(listable, Listable::Nothing, "{collection} {key:?}");
                }
            }
        }
    }
});
