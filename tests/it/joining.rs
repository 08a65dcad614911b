//! `weir join`: the files with which a bridge runs as a service.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use crate::offline::{fails, succeeds};
use weir_testkit::fake::{FakeMediaMtx, FakeServer};
use weir_testkit::{API_KEY, TestServer, run};

const KEY_LINE: &str = "it-admin-key-0123456789\n";

/// A directory with a token.
fn scratch() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a scratch directory");
    fs::write(directory.path().join("token"), KEY_LINE).expect("written");
    directory
}

fn join(directory: &Path, arguments: &[&str]) -> Output {
    let arguments = [&["join"], arguments].concat();
    run(&arguments, &[], directory)
}

fn mode(path: &Path) -> u32 {
    let found = fs::metadata(path).expect("the file");
    found.permissions().mode() & 0o777
}

const OPTIONS: [&str; 9] = [
    "mediamtx",
    "--root=.",
    "--hostname=m1",
    "--central=http://10.0.0.1:9019",
    "--join-token-file=token",
    "--channel-limit=500",
    "--labels=site=north,rack=7",
    "--keep=tmp $1 \"*\"",
    "--exclusive",
];

#[test]
fn files_of_a_service_are_written_once() {
    let directory = scratch();
    let printed = succeeds(&join(directory.path(), &OPTIONS));
    let names = [
        "./etc/systemd/system/weir-bridge@.service",
        "./etc/weir/bridge-m1.env",
        "./etc/weir/bridge-m1.token",
    ];
    assert_eq!(printed.lines().collect::<Vec<_>>(), names);
    let [unit, options, token] = names.map(|name| directory.path().join(name));
    let printed = succeeds(&run(&["print", "bridge-unit"], &[], directory.path()));
    assert_eq!(fs::read_to_string(unit).expect("the unit"), printed);
    let expected = "\
        WEIR_BRIDGE_API=http://127.0.0.1:9997\n\
        WEIR_BRIDGE_CENTRAL=http://10.0.0.1:9019\n\
        WEIR_BRIDGE_CHANNEL_LIMIT=500\n\
        WEIR_BRIDGE_EXCLUSIVE=true\n\
        WEIR_BRIDGE_KEEP=\"tmp \\$1 \\\"*\\\"\"\n\
        WEIR_BRIDGE_KIND=mediamtx\n\
        WEIR_BRIDGE_LABELS=site=north,rack=7\n";
    assert_eq!(fs::read_to_string(&options).expect("options"), expected);
    assert_eq!(fs::read_to_string(&token).expect("a token"), KEY_LINE);
    assert_eq!((mode(&options), mode(&token)), (0o644, 0o600));

    // Again: nothing is to do. With another option: nothing is done, unless it is forced.
    succeeds(&join(directory.path(), &OPTIONS));
    let mut other = OPTIONS.to_vec();
    other[5] = "--channel-limit=900";
    let error = fails(&join(directory.path(), &other), 5);
    assert!(
        error.contains("bridge-m1.env: exists with other contents"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&options).expect("options"), expected);
    other.push("--force");
    succeeds(&join(directory.path(), &other));
    let expected = expected.replace("=500", "=900");
    assert_eq!(fs::read_to_string(&options).expect("options"), expected);
    let left = fs::read_dir(directory.path().join("etc/weir")).expect("a directory");
    assert_eq!(left.count(), 2, "no temporary file is left");

    // The unit is that of all bridges.
    let second = OPTIONS.map(|it| {
        if it == "--hostname=m1" {
            "--hostname=m2"
        } else {
            it
        }
    });
    succeeds(&join(directory.path(), &second));
}

#[test]
fn bridge_takes_the_options_that_were_written() {
    // Goal: what was written is what a bridge takes. Method: a check by a bridge with these
    // variables, as the unit sets them.
    let server = TestServer::new();
    let fake = FakeServer::new(FakeMediaMtx::default());
    let directory = scratch();
    let (api, media) = (
        format!("--api={}", fake.url()),
        format!("--media={}", fake.media()),
    );
    let central = format!("--central=http://{}", server.address());
    let written = join(
        directory.path(),
        &[
            "mediamtx",
            "--root=.",
            "--hostname=m1",
            &api,
            &media,
            &central,
            "--join-token-file=token",
        ],
    );
    succeeds(&written);
    let options = directory.path().join("etc/weir/bridge-m1.env");
    let options = fs::read_to_string(options).expect("options");
    let mut variables: Vec<(&str, &str)> = options
        .lines()
        .map(|line| line.split_once('=').expect("a variable"))
        .collect();
    let token = "etc/weir/bridge-m1.token";
    variables.push(("WEIR_BRIDGE_HOSTNAME", "m1"));
    variables.push(("WEIR_BRIDGE_JOIN_TOKEN_FILE", token));
    variables.push(("WEIR_BRIDGE_STATE_DIR", "state"));
    succeeds(&run(&["bridge", "--once"], &variables, directory.path()));
    succeeds(&run(&["bridge", "check"], &variables, directory.path()));
    let saved = server.get("/streamers/m1").expect(200).json();
    assert_eq!(saved["kind"], "mediamtx");
}

#[test]
fn wrong_options_write_nothing() {
    let directory = scratch();
    fs::write(directory.path().join("empty"), "").expect("written");
    for (change, code, expected) in [
        ("--hostname=../../x", 78, "--hostname must be a host name"),
        (
            "--central=10.0.0.1",
            78,
            "--central must be an http or https URL",
        ),
        ("--join-token-file=none", 78, "none: No such file"),
        (
            "--join-token-file=empty",
            78,
            "must be one line that is not empty",
        ),
        ("--channel-limit=many", 78, "--channel-limit must be"),
        (
            "--keep=a\nWEIR_BRIDGE_EXCLUSIVE=true",
            78,
            "--keep must be one line",
        ),
        (
            "--state-dir=x",
            2,
            "--state-dir is no option of a bridge that joins",
        ),
        (
            "--kind=srs",
            2,
            "--kind is no option of a bridge that joins",
        ),
    ] {
        let key = change.split('=').next().expect("a flag");
        let mut arguments = OPTIONS.to_vec();
        arguments.retain(|it| !it.starts_with(key));
        arguments.push(change);
        let error = fails(&join(directory.path(), &arguments), code);
        assert!(error.contains(expected), "{change}: {error}");
    }
    let mut arguments = OPTIONS.to_vec();
    arguments.retain(|it| !it.starts_with("--join-token-file"));
    let error = fails(&join(directory.path(), &arguments), 2);
    assert!(error.contains("--join-token-file is required"), "{error}");
    assert!(!directory.path().join("etc").exists());
    // What cannot be written is named.
    fs::write(directory.path().join("etc"), "a file").expect("written");
    let error = fails(&join(directory.path(), &OPTIONS), 74);
    assert!(
        error.contains("./etc/systemd/system/weir-bridge@.service"),
        "{error}"
    );
}

#[test]
fn compose_file_comes_with_its_key() {
    let directory = scratch();
    let compose = ["mediamtx", "--compose=cluster"];
    let printed = succeeds(&join(directory.path(), &compose));
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines, ["cluster/compose.yaml", "cluster/api_key"]);
    let folder = directory.path().join("cluster");
    let text = fs::read_to_string(folder.join("compose.yaml")).expect("a file");
    let printed = succeeds(&run(&["print", "bridge-compose"], &[], directory.path()));
    assert_eq!(text, printed);
    let key = fs::read_to_string(folder.join("api_key")).expect("a key");
    assert!(key.len() == 64 && key != API_KEY, "{key}");
    assert_eq!(mode(&folder.join("api_key")), 0o600);
    succeeds(&join(directory.path(), &compose));
    let again = fs::read_to_string(folder.join("api_key")).expect("a key");
    assert_eq!(again, key, "it stays");
    for arguments in [
        &["srs", "--compose=x"][..],
        &["mediamtx", "--compose=x", "--hostname=m"],
    ] {
        let error = fails(&join(directory.path(), arguments), 2);
        assert!(error.contains("--compose is for mediamtx"), "{error}");
    }
}
