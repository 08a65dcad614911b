"""What Schemathesis cannot know of the API by its document: how our formats look, and what is known only to the server.

Loaded through SCHEMATHESIS_HOOKS. Each change to what is generated has its reason beside it.
"""

import itertools

import schemathesis
from hypothesis import strategies as st

WORD = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.", min_size=1, max_size=12)
HOST = st.sampled_from(["s1", "s2", "node.example.com", "10.0.0.1"])
PATH = st.lists(WORD, min_size=1, max_size=3).map("/".join)


def address(*schemes):
    return st.builds("{}://{}/{}".format, st.sampled_from(schemes), HOST, PATH)


FORMATS = {
    "agent_id": WORD,
    "agent_url": WORD.map("agent://{}".format),
    "auth_backend_name": WORD,
    "base64": st.binary(max_size=12).map(lambda data: __import__("base64").b64encode(data).decode()),
    "disk_device": WORD,
    "disk_path": PATH,
    "drm_resource_id": WORD,
    "dvr_name": WORD,
    "dvr_url": PATH.map("/{}".format),
    "event_sink_name": WORD,
    "hexbinary": st.binary(max_size=12).map(bytes.hex),
    "host_with_port": st.builds("{}:{}".format, HOST, st.integers(0, 65535)),
    "input_url": address("rtsp", "hls", "m4s", "rtmp"),
    "iso3166": st.sampled_from(["RS", "DE", "FR"]),
    "media_name": st.sampled_from(["a0", "a1", "a2", "harbour/cam1"]),
    "query_session_key": WORD,
    "server_name": HOST,
    "server_version": st.sampled_from(["24.11", "25.02"]),
    "subnet": st.sampled_from(["10.0.0.1", "10.0.0.0/8", "2001:db8::/32"]),
    "token_scope": st.sampled_from(["*", "streams", "streams/*", "streams/location1%2F*"]),
    "unix_name": WORD,
    "url": address("http", "https"),
    "url_or_empty": st.just("") | address("http", "https"),
}

for name, strategy in FORMATS.items():
    schemathesis.openapi.format(name, strategy)


CLIENTS = itertools.count(1)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Each request is of another client, because wrong credentials are counted by client. Cursors come from answers only, so
    one that is made up is rightly refused. Nobody waits here for what does not happen, and made-up streamers are not called."""
    client = next(CLIENTS)
    case.headers = {**(case.headers or {}), "X-Real-IP": f"10.{client >> 16}.{client >> 8 & 255}.{client & 255}"}
    query = case.query if isinstance(case.query, dict) else {}
    positive = case.meta is None or case.meta.generation.mode.is_positive
    if positive:
        query.pop("cursor", None)
    if isinstance(query.get("poll_timeout"), int) and query["poll_timeout"] > 0:
        query["poll_timeout"] = 0
    for name in ("checks_enable", "dvr_presence_check"):
        if query.get(name) in (True, "true"):
            query[name] = False


# Parameters of which every text is a value.
TEXTS = {"filters", "q", "select", "sort"}


def shows(case, mutation):
    """Whether what was made wrong is wrong in the request, too."""
    # A format says what a value means; whether a made-up value is outside of it is known to the server only.
    if set(mutation.keywords) == {"format"}:
        return False
    if mutation.parameter_location.value != "query":
        return True
    # In a query everything is text, nothing is sent for what is empty, and an object is sent as its members.
    value = (case.query or {}).get(mutation.parameter)
    return mutation.parameter not in TEXTS and value is not None and not isinstance(value, dict) and value != []


@schemathesis.hook
def filter_case(context, case):
    """A case that is meant to be wrong proves nothing if it is not."""
    data = getattr(getattr(case.meta, "phase", None), "data", None)
    mutations = getattr(data, "mutations", None) or ()
    return not mutations or any(shows(case, mutation) for mutation in mutations)
