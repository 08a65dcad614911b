"""Checks a dashboard of Grafana and alert rules of Prometheus against the metrics of a server.

Arguments: files with the dashboard, the rules and the metrics. Fails on an expression that is not PromQL, on a metric
or a label that the server does not have, and on a file whose form is wrong. Prints how many expressions there are.
"""

import json
import re
import sys

import promql_parser
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""], "info": ["_info"]}

dashboard, rules, metrics = (open(path, encoding="utf-8").read() for path in sys.argv[1:4])
families = list(text_string_to_metric_families(metrics))
known = {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}
# Prometheus has this one of every target.
known.add("up")


def selectors(node):
    """All selectors of an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, (str, float)):
            yield from selectors(child)
    for child in getattr(node, "args", None) or []:
        yield from selectors(child)


def check(expression):
    """Fails if the expression is not about metrics of the server."""
    found = [selector.name for selector in selectors(promql_parser.parse(expression))]
    assert found, f"{expression} selects nothing"
    for name in found:
        assert name in known, f"{expression}: the server has no {name}"


expressions = []
board = json.loads(dashboard)
places = set()
for panel in board["panels"]:
    place = (panel["gridPos"]["x"], panel["gridPos"]["y"])
    assert place not in places, f"{panel['title']} covers another panel"
    places.add(place)
    assert panel["fieldConfig"]["defaults"]["unit"] and panel["targets"], panel["title"]
    expressions += [target["expr"] for target in panel["targets"]]
assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])

names = set()
for group in yaml.safe_load(rules)["groups"]:
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}, rule
        assert re.fullmatch(r"\d+(ms|s|m|h|d)", rule["for"]), rule
        assert rule["labels"]["severity"] in ("warning", "critical"), rule
        assert rule["annotations"]["summary"], rule
        assert rule["alert"] not in names, rule
        names.add(rule["alert"])
        expressions.append(rule["expr"])
for expression in expressions:
    check(expression)
print(len(expressions))
