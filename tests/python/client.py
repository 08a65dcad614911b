"""The main job of an operator's program, with the client that openapi-python-client made.

Arguments: the root of the API, an API key, the ids of all operations. Each of these must have a function.
"""

import importlib
import pkgutil
import sys

import weir_client.api
from weir_client import AuthenticatedClient
from weir_client import models

root, key, *ids = sys.argv[1:]
client = AuthenticatedClient(base_url=root, token=key)

functions = {}
for group in pkgutil.iter_modules(weir_client.api.__path__):
    path = f"weir_client.api.{group.name}"
    for module in pkgutil.iter_modules(importlib.import_module(path).__path__):
        functions[module.name] = importlib.import_module(f"{path}.{module.name}").sync_detailed
assert set(ids) == set(functions), set(ids) ^ set(functions)


def call(operation, *arguments, status=200, **more):
    response = functions[operation](*arguments, client=client, **more)
    assert response.status_code == status, (operation, response)
    return response.parsed


HOST = "s1.example.com"
node = models.StreamerToSave.from_dict(
    {"role": "streamer", "cluster_key": "secret1", "api_url": "http://10.0.0.1:8080"}
)
saved = call("streamer_save", HOST, body=node)
assert isinstance(saved, models.Streamer) and saved.hostname == HOST, saved

for number in (1, 2, 3):
    body = models.StreamToSave(title=f"Sports {number}")
    body.inputs = [models.RTMP(url=f"rtmp://10.0.0.1/live/{number}")]
    body.labels = models.StreamToSaveLabelsType0.from_dict({"country": "rs"})
    stream = call("stream_save", f"sports/hd{number}", body=body)
    assert stream.name == f"sports/hd{number}" and stream.title == f"Sports {number}", stream
batch = [
    models.StreamBatchItem(name="sports/hd1", comment="in a batch"),
    models.StreamBatchItem(name="news"),
]
call("streams_batch_update", body=batch, status=204)
layouts = models.BatchOfLayouts.from_dict({"layouts": [{"name": "sports/hd1", "ingest": HOST}]})
call("batch_update_streams_layouts", body=layouts, status=204)

config = call("streamer_streams_list", HOST)
assert [stream.name for stream in config.streams] == ["sports/hd1"], config

names, cursor = [], {}
while True:
    filters = models.StreamsListFilters.from_dict({"labels.country": "rs"})
    page = call("streams_list", limit=1, sort=["-name"], filters=filters, **cursor)
    names += [stream.name for stream in page.streams]
    if not page.next_:
        break
    cursor = {"cursor": page.next_}
assert names == ["sports/hd3", "sports/hd2", "sports/hd1"], names

assert len(call("central_events_list", limit=10).events) > 4
refused = call("stream_get", "nobody", status=404)
assert refused.errors[0].status == "404", refused

for name in ("sports/hd1", "sports/hd2", "sports/hd3", "news"):
    call("stream_delete", name, status=204)
call("streamer_delete", HOST, status=204)
print(f"{len(functions)} operations")
